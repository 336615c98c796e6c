// The chat: parameters, turns, and answers as they stream.

import { Unauthorized, ask, events } from "./api.js";
import { TextView, element, setText, visible } from "./text.js";

const byId = (id) => document.getElementById(id);
const NUMBERS = ["temperature", "top_p", "max_tokens", "seed"];

export class Chat {
  #log = byId("log");
  #prompt = byId("prompt");
  #turns = [];
  #running = null;
  #isFollowing = true;
  #model;
  #say;
  #onUnauthorized;

  /** `model()`: whom to ask. `say(text)`: for those who do not see the page. */
  constructor({ model, say, onUnauthorized }) {
    this.#model = model;
    this.#say = say;
    this.#onUnauthorized = onUnauthorized;
    byId("composer").addEventListener("submit", (event) => {
      event.preventDefault();
      this.send();
    });
    this.#prompt.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      this.send();
    });
    this.#prompt.addEventListener("input", () => this.#fitPrompt());
    byId("stop").addEventListener("click", () => this.stop());
    byId("clear").addEventListener("click", () => this.clear());
    byId("parameters").addEventListener("input", () => this.#summarize());
    this.#log.addEventListener("scroll", () => {
      const below = this.#log.scrollHeight - this.#log.scrollTop - this.#log.clientHeight;
      this.#isFollowing = below < 40;
    });
  }

  get isRunning() {
    return this.#running !== null;
  }

  /** What the model's own settings are, as hints in empty fields. */
  setDefaults({ temperature, top_p: topP }) {
    byId("temperature").placeholder = String(round(temperature));
    byId("top_p").placeholder = String(round(topP));
  }

  send() {
    const text = this.#prompt.value;
    if (this.isRunning || !text.trim()) return;
    let parameters;
    try {
      parameters = this.#parameters();
    } catch (error) {
      byId("parameters").open = true;
      this.#complain(error.message);
      return;
    }
    this.#complain("");
    this.#prompt.value = "";
    this.#fitPrompt();
    const turn = { user: text, content: "" };
    this.#turns.push(turn);
    const question = element("article", "turn user", element("h3", "", "You"));
    const words = new TextView(question.appendChild(element("div", "text")));
    words.append(text);
    words.draw(true);
    this.#append(question);
    this.#answer(turn, parameters);
  }

  stop() {
    this.#running?.abort();
  }

  clear() {
    this.stop();
    this.#turns = [];
    this.#log.replaceChildren();
    byId("empty").hidden = false;
    this.#say("New chat");
    this.#prompt.focus();
  }

  async #answer(turn, parameters) {
    const answer = new Answer(() => this.#follow());
    this.#append(answer.root);
    this.#running = new AbortController();
    this.#setBusy(true);
    const messages = this.#messages(turn);
    const body = { model: this.#model(), messages, stream: true, stream_options: { include_usage: true } };
    let outcome = "";
    try {
      const { signal } = this.#running;
      const response = await ask("v1/chat/completions", { body: { ...body, ...parameters }, signal });
      for await (const data of events(response)) {
        if (data === "[DONE]") outcome = answer.finish || "done";
        else answer.take(JSON.parse(data));
      }
      if (!outcome) answer.fail("the connection ended before the answer did");
    } catch (error) {
      if (error.name === "AbortError") outcome = "stopped";
      else if (error instanceof Unauthorized) this.#onUnauthorized();
      if (!outcome) answer.fail(error.message);
    }
    // Nothing more is read, whatever went wrong.
    this.#running.abort();
    turn.content = answer.content.raw;
    answer.end(outcome, outcome ? null : () => this.#again(turn, answer, parameters));
    this.#running = null;
    this.#setBusy(false);
    this.#say(outcome ? `Answer finished: ${answer.numTokens} tokens` : "The answer failed");
  }

  #again(turn, answer, parameters) {
    if (this.isRunning) return;
    answer.root.remove();
    turn.content = "";
    this.#answer(turn, parameters);
    this.#prompt.focus();
  }

  /** Turns without an answer are left out, but the last. */
  #messages(last) {
    const system = byId("system").value;
    const messages = system.trim() ? [{ role: "system", content: system }] : [];
    for (const turn of this.#turns) {
      if (turn === last) {
        messages.push({ role: "user", content: turn.user });
        break;
      }
      if (!turn.content) continue;
      messages.push({ role: "user", content: turn.user }, { role: "assistant", content: turn.content });
    }
    return messages;
  }

  /** Of the filled fields; the error says which one is wrong. */
  #parameters() {
    const parameters = {};
    for (const name of NUMBERS) {
      const field = byId(name);
      if (!field.checkValidity()) throw new Error(`${name.replace("_", " ")}: ${field.validationMessage}`);
      if (field.value !== "") parameters[name] = Number(field.value);
    }
    const tools = byId("tools").value.trim();
    if (!tools) return parameters;
    try {
      parameters.tools = JSON.parse(tools);
    } catch (error) {
      throw new Error(`tools: ${error.message}`);
    }
    return parameters;
  }

  #summarize() {
    const set = NUMBERS.filter((name) => byId(name).value !== "").map((name) => `${name.replace("_", " ")} ${byId(name).value}`);
    if (byId("system").value.trim()) set.unshift("system prompt");
    if (byId("tools").value.trim()) set.push("tools");
    setText(byId("parameters-summary"), set.length ? set.join(" · ") : "the model's own");
  }

  #complain(text) {
    setText(byId("complaint"), text);
    byId("complaint").hidden = !text;
  }

  #setBusy(isBusy) {
    const [hides, shows] = isBusy ? [byId("send"), byId("stop")] : [byId("stop"), byId("send")];
    const hasFocus = document.activeElement === hides;
    hides.hidden = true;
    shows.hidden = false;
    if (hasFocus) (isBusy ? shows : this.#prompt).focus();
    this.#log.setAttribute("aria-busy", String(isBusy));
  }

  #append(article) {
    byId("empty").hidden = true;
    this.#log.append(article);
    this.#isFollowing = true;
    this.#follow();
  }

  #follow() {
    if (this.#isFollowing) this.#log.scrollTop = this.#log.scrollHeight;
  }

  #fitPrompt() {
    this.#prompt.style.height = "auto";
    this.#prompt.style.height = `${Math.min(this.#prompt.scrollHeight + 2, innerHeight / 3)}px`;
  }
}

/** One answer on the page, filled as its stream comes. */
class Answer {
  root = element("article", "turn assistant", element("h3", "", "Model"));
  content;
  finish = "";
  #onDraw;
  #reasoning = null;
  #calls = new Map();
  #text = element("div", "text");
  #figures = element("p", "figures");
  #began = performance.now();
  #first = 0;
  #last = 0;
  #numDeltas = 0;
  #usage = null;

  constructor(onDraw) {
    this.#onDraw = onDraw;
    this.content = new TextView(this.#text, () => this.#drawFigures());
    this.root.append(this.#text, this.#figures);
    setText(this.#figures, "waiting for the first token");
  }

  get numTokens() {
    return this.#usage?.completion_tokens ?? this.#numDeltas;
  }

  /** A chunk of the stream. */
  take(chunk) {
    if (chunk.error) throw new Error(chunk.error.message ?? "the server reported an error");
    if (chunk.usage) this.#usage = chunk.usage;
    const [choice] = chunk.choices ?? [];
    if (!choice) return;
    if (choice.finish_reason) this.finish = choice.finish_reason;
    const { content, reasoning, reasoning_content: older, tool_calls: calls } = choice.delta ?? {};
    const thought = reasoning ?? older;
    if (!content && !thought && !calls?.length) return;
    this.#last = performance.now();
    this.#first ||= this.#last;
    this.#numDeltas += 1;
    if (thought) this.#think(thought);
    if (content) this.content.append(content);
    calls?.forEach((call) => this.#call(call));
  }

  fail(message) {
    this.root.append(element("p", "failure", `Failed: ${visible(message).slice(0, 2000)}`));
  }

  /** Nothing more comes; `outcome` says why, `again` asks once more. */
  end(outcome, again) {
    this.content.draw(true);
    this.#reasoning?.view.draw(true);
    this.#drawFigures(outcome);
    const actions = element("p", "actions");
    if (this.content.raw && navigator.clipboard) {
      actions.append(button("Copy", () => navigator.clipboard.writeText(this.content.raw)));
    }
    if (again) actions.append(button("Try again", again));
    if (actions.hasChildNodes()) this.root.append(actions);
    this.#onDraw();
  }

  #think(text) {
    if (!this.#reasoning) {
      const count = element("span", "count");
      const words = element("div", "text");
      const details = element("details", "reasoning", element("summary", "", "Reasoning ", count), words);
      const view = new TextView(words, () => {
        setText(count, `${format(view.raw.length)} characters`);
        this.#drawFigures();
      });
      this.#text.before(details);
      this.#reasoning = { view };
    }
    this.#reasoning.view.append(text);
  }

  /** Calls are not made here: they are shown as the model wrote them. */
  #call({ index = 0, function: called = {} }) {
    let call = this.#calls.get(index);
    if (!call) {
      const text = element("div", "text");
      call = { name: element("strong"), view: new TextView(text, () => this.#onDraw()) };
      this.#figures.before(element("div", "call", element("span", "tag", "tool call"), call.name, text));
      this.#calls.set(index, call);
    }
    if (called.name) setText(call.name, visible(called.name));
    if (called.arguments) call.view.append(called.arguments);
  }

  #drawFigures(outcome = "") {
    const parts = [];
    const about = this.#usage ? "" : "~";
    if (this.#numDeltas > 0) {
      const seconds = (this.#last - this.#began) / 1000;
      const decode = (this.#last - this.#first) / 1000;
      parts.push(`${about}${format(this.numTokens)} tokens`);
      if (decode > 0 && this.numTokens > 1) parts.push(`${format((this.numTokens - 1) / decode)} tokens/s`);
      parts.push(`TTFT ${format(this.#first - this.#began)} ms`, `${seconds.toFixed(2)} s`);
      const cached = this.#usage?.prompt_tokens_details?.cached_tokens;
      if (this.#usage) parts.push(`prompt ${format(this.#usage.prompt_tokens)}${cached ? `, ${format(cached)} cached` : ""}`);
    }
    if (outcome) parts.push(outcome);
    // A number stays on the line of its unit.
    const whole = parts.map((part) => part.replaceAll(" ", "\u00a0"));
    if (parts.length > 0) setText(this.#figures, whole.join(" · "));
    else if (this.finish || outcome) setText(this.#figures, "no text");
    this.#onDraw();
  }
}

function button(label, onClick) {
  const made = element("button", "quiet", label);
  made.type = "button";
  made.addEventListener("click", onClick);
  return made;
}

function round(number) {
  return Math.round(number * 1000) / 1000;
}

/** Three digits or so. */
function format(number) {
  return number < 10 && !Number.isInteger(number) ? number.toFixed(1) : Math.round(number).toLocaleString("en");
}
