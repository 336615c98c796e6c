// The clients of Ollama, Anthropic and OpenAI for JavaScript against Quire: node clients.mjs URL KEY, in a folder with their packages.
import assert from 'node:assert/strict'
import Anthropic from '@anthropic-ai/sdk'
import { Ollama } from 'ollama'
import OpenAI from 'openai'

const [url, key] = process.argv.slice(2)
const messages = [{ role: 'user', content: 'Name three colours of the rainbow.' }]

const ollama = new Ollama({ host: url, headers: { Authorization: `Bearer ${key}` } })
const model = (await ollama.list()).models[0].model
const options = { temperature: 0, num_predict: 16 }
const whole = await ollama.chat({ model, messages, options })
let parts = ''
for await (const part of await ollama.chat({ model, messages, options, stream: true })) parts += part.message.content
assert.ok(whole.message.content && parts === whole.message.content)
assert.equal((await ollama.embed({ model, input: ['a', 'b'] })).embeddings.length, 2)
await assert.rejects(ollama.chat({ model: 'nobody', messages }), /not found/)

const claude = new Anthropic({ baseURL: url, apiKey: key, maxRetries: 0 })
const asked = { model: 'default', max_tokens: 16, messages }
const said = await claude.messages.create(asked)
assert.equal(said.content[0].type, 'text')
const stream = claude.messages.stream(asked)
let text = ''
stream.on('text', (delta) => { text += delta })
assert.equal((await stream.finalMessage()).content[0].text, text)
assert.ok((await claude.messages.countTokens({ model: 'default', messages })).input_tokens > 5)
await assert.rejects(claude.messages.create({ ...asked, model: 'nobody' }), Anthropic.NotFoundError)

const openai = new OpenAI({ baseURL: `${url}/v1`, apiKey: key, maxRetries: 0 })
const chat = { model: 'default', messages, temperature: 0, max_tokens: 16 }
const answer = await openai.chat.completions.create(chat)
let chunks = ''
for await (const chunk of await openai.chat.completions.create({ ...chat, stream: true })) {
  chunks += chunk.choices[0]?.delta.content ?? ''
}
assert.ok(answer.usage.completion_tokens === 16 && chunks === answer.choices[0].message.content)
const tool = { type: 'function', function: { name: 'look', parameters: { type: 'object', properties: { at: { enum: ['sky', 'sea'] } }, required: ['at'], additionalProperties: false } } }
const call = await openai.chat.completions.create({ ...chat, max_tokens: 64, tools: [tool], tool_choice: 'required' })
const [made] = call.choices[0].message.tool_calls
assert.ok(made.function.name === 'look' && ['sky', 'sea'].includes(JSON.parse(made.function.arguments).at))
assert.equal((await openai.embeddings.create({ model: 'default', input: ['a', 'b'] })).data.length, 2)
assert.ok((await openai.models.list()).data.length > 0)
await assert.rejects(openai.chat.completions.create({ ...chat, model: 'nobody' }), OpenAI.NotFoundError)
await assert.rejects(new OpenAI({ baseURL: `${url}/v1`, apiKey: 'wrong', maxRetries: 0 }).models.list(), OpenAI.AuthenticationError)
console.log('fine')
