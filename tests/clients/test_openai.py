"""The official OpenAI client against Quire: answers, streams, logprobs, usage and errors."""

import concurrent.futures
import json
import threading

import openai
import pydantic
import pytest

MODEL = "default"
QUESTION = [{"role": "user", "content": "Name three colours of the rainbow."}]
PROMPT = "The capital of France is"


def ask(client, **options):
    options = {"model": MODEL, "messages": QUESTION, "temperature": 0, "max_tokens": 24} | options
    return client.chat.completions.create(**options)


def complete(client, **options):
    options = {"model": MODEL, "prompt": PROMPT, "temperature": 0, "max_tokens": 12} | options
    return client.completions.create(**options)


def test_models_are_listed(client):
    models = client.models.list().data
    assert len(models) == 1 and "SmolLM2" in models[0].id
    assert client.models.retrieve(models[0].id).id == models[0].id


def test_chat_answers(client):
    answer = ask(client)
    (choice,) = answer.choices
    assert answer.object == "chat.completion" and answer.id.startswith("chatcmpl-")
    assert choice.message.role == "assistant" and choice.message.content.strip()
    assert choice.finish_reason in ("stop", "length")
    usage = answer.usage
    assert 0 < usage.completion_tokens <= 24 < usage.prompt_tokens + 24
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


def test_a_stream_says_what_the_whole_answer_says(client):
    whole = ask(client)
    chunks = list(ask(client, stream=True, stream_options={"include_usage": True}))
    assert chunks[0].choices[0].delta.role == "assistant"
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(pieces) == whole.choices[0].message.content
    assert len([piece for piece in pieces if piece]) > 1, "it came in one piece"
    ends = [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices]
    assert ends[-1] == whole.choices[0].finish_reason and not any(ends[:-1])
    # How many guesses were verified follows the clock.
    usages = [usage.model_copy(update={"completion_tokens_details": None}) for usage in (chunks[-1].usage, whole.usage)]
    assert chunks[-1].choices == [] and usages[0] == usages[1]
    assert all(chunk.usage is None for chunk in chunks[:-1])


def test_completion_answers_and_streams(client):
    whole = complete(client)
    assert whole.object == "text_completion" and "Paris" in whole.choices[0].text
    assert (whole.choices[0].finish_reason, whole.usage.completion_tokens) == ("length", 12)
    streamed = "".join(chunk.choices[0].text for chunk in complete(client, stream=True))
    assert streamed == whole.choices[0].text


def test_prompts_come_as_text_lists_and_token_ids(client, server):
    alone = [complete(client, prompt=prompt).choices[0].text for prompt in (PROMPT, "Two plus")]
    both = complete(client, prompt=[PROMPT, "Two plus"]).choices
    assert [choice.index for choice in both] == [0, 1]
    assert [choice.text for choice in both] == alone
    ids = server.post("/tokenize", {"model": MODEL, "prompt": PROMPT})["tokens"]
    assert complete(client, prompt=ids).choices[0].text == alone[0]


def test_logprobs_of_chat(client):
    choice = ask(client, logprobs=True, top_logprobs=3, max_tokens=8).choices[0]
    entries = choice.logprobs.content
    assert len(entries) == 8
    for entry in entries:
        tops = [top.logprob for top in entry.top_logprobs]
        assert len(tops) == 3 and tops == sorted(tops, reverse=True) and tops[0] <= 0
        assert entry.logprob == tops[0], "greedy takes the likeliest"
    joined = b"".join(bytes(entry.bytes) for entry in entries)
    assert joined.decode("utf-8", "ignore").startswith(choice.message.content.rstrip("\ufffd"))


def test_logprobs_of_completion(client):
    logprobs = complete(client, logprobs=2, max_tokens=5).choices[0].logprobs
    assert len(logprobs.tokens) == len(logprobs.token_logprobs) == len(logprobs.top_logprobs) == 5
    assert all(value <= 0 for value in logprobs.token_logprobs)
    assert logprobs.text_offset == sorted(logprobs.text_offset)


def test_n_answers_differ_and_a_seed_repeats_them(client):
    options = {"n": 3, "temperature": 1.0, "max_tokens": 16}
    first = ask(client, seed=7, **options)
    assert sorted(choice.index for choice in first.choices) == [0, 1, 2]
    texts = [choice.message.content for choice in first.choices]
    assert len(set(texts)) > 1
    again = ask(client, seed=7, **options)
    assert [choice.message.content for choice in again.choices] == texts
    assert first.usage.completion_tokens > ask(client, max_tokens=16).usage.completion_tokens


def test_a_stop_string_ends_the_answer(client):
    whole = complete(client, max_tokens=20).choices[0].text
    stop = whole.split()[3]
    before = whole[: whole.index(stop)]
    choice = complete(client, max_tokens=20, stop=[stop, "never to be seen"]).choices[0]
    assert (choice.text, choice.finish_reason) == (before, "stop")
    chunks = list(complete(client, max_tokens=20, stop=stop, stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == before
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_a_conversation_has_roles(client):
    messages = [
        {"role": "system", "content": "Answer with one word."},
        {"role": "user", "content": [{"type": "text", "text": "Is water wet?"}]},
        {"role": "assistant", "content": "Yes."},
        {"role": "user", "content": "And fire?"},
    ]
    short, long = ask(client, messages=messages[1:2]), ask(client, messages=messages)
    assert long.usage.prompt_tokens > short.usage.prompt_tokens


WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "enum": ["Oslo", "Lima"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}


@pytest.mark.parametrize(
    ("choice", "end"),
    [({"type": "function", "function": {"name": "weather"}}, "stop"), ("required", "tool_calls")],
)
def test_a_tool_is_called_where_that_is_demanded(client, choice, end):
    options = {"tools": [WEATHER], "tool_choice": choice, "max_tokens": 64}
    options["parallel_tool_calls"] = False
    (whole,) = ask(client, **options).choices
    (call,) = whole.message.tool_calls
    assert (call.type, call.function.name, whole.finish_reason) == ("function", "weather", end)
    assert json.loads(call.function.arguments)["city"] in ("Oslo", "Lima")
    assert whole.message.content is None
    deltas = [chunk.choices[0].delta for chunk in ask(client, stream=True, **options)]
    pieces = [delta.tool_calls[0] for delta in deltas if delta.tool_calls]
    assert pieces[0].id and pieces[0].function.name == "weather"
    assert all(piece.index == 0 for piece in pieces)
    assert "".join(piece.function.arguments for piece in pieces) == call.function.arguments


def test_results_of_tools_are_told(client):
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}
    messages = [
        *QUESTION,
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "Sunny"},
    ]
    answer = ask(client, messages=messages, tools=[WEATHER])
    assert answer.choices[0].finish_reason in ("stop", "length", "tool_calls")
    assert answer.usage.prompt_tokens > ask(client, messages=messages[:1]).usage.prompt_tokens


def test_tokenize_and_back(server):
    text = "Grüße, 世界! <|im_start|>"
    answer = server.post("/tokenize", {"model": MODEL, "prompt": text})
    assert answer["count"] == len(answer["tokens"]) > 3 and answer["max_model_len"] > 0
    back = server.post("/detokenize", {"model": MODEL, "tokens": answer["tokens"]})
    assert back["prompt"] == text
    chat = server.post("/tokenize", {"model": MODEL, "messages": QUESTION})
    assert chat["count"] > len(QUESTION[0]["content"].split())


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"temperature": 3}, "temperature"),
        ({"temperature": -1}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": -5}, "max_tokens"),
        ({"n": 0}, "n"),
        ({"presence_penalty": 9}, "presence_penalty"),
        ({"messages": []}, "messages"),
        ({"messages": "hello"}, "messages"),
        ({"logit_bias": {"99999999": 1}}, "logit_bias"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 5000}, None),
        ({"extra_body": {"top_k": "many"}}, "top_k"),
        ({"extra_body": {"min_p": 1e99}}, "min_p"),
    ],
)
def test_bad_requests_name_the_field(client, options, param):
    with pytest.raises(openai.BadRequestError) as error:
        ask(client, **options)
    assert error.value.status_code == 400 and error.value.body["message"]
    if param:
        assert error.value.param == param, error.value.body


def test_too_long_a_prompt_is_refused_with_the_counts(client):
    limit = client.models.list().data[0].model_extra["max_model_len"]
    with pytest.raises(openai.BadRequestError) as error:
        complete(client, prompt="word " * (limit + 100))
    assert str(limit) in error.value.body["message"]


def test_unknown_models_and_wrong_keys(client, server):
    with pytest.raises(openai.NotFoundError):
        ask(client, model="no-such-model")
    with pytest.raises(openai.AuthenticationError):
        ask(server.client(key="wrong"))
    assert ask(client).choices, "the server goes on"


def test_a_full_queue_asks_to_come_back(start):
    server = start("--max-num-seqs", "1", "--max-num-queued-reqs", "1")
    together, is_full = threading.Barrier(6), threading.Event()

    def attempt(_):
        together.wait(30)
        try:
            endless = {"ignore_eos": True}
            with ask(server.client(), stream=True, max_tokens=2000, extra_body=endless) as stream:
                for _ in stream:
                    if is_full.is_set():
                        return None
        except openai.InternalServerError as error:
            is_full.set()
            return error

    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        errors = [error for error in pool.map(attempt, range(6)) if error]
    assert 1 <= len(errors) <= 5
    assert all(error.status_code == 503 for error in errors)
    assert all(int(error.response.headers["retry-after"]) >= 1 for error in errors)
    assert all("--max-num-queued-reqs" in error.body["message"] for error in errors)


def test_embeddings_are_unit_vectors_of_meaning(client):
    texts = ["A cat sits on the mat.", "A cat is sitting on a mat.", "The stock market fell today."]
    answer = client.embeddings.create(model=MODEL, input=texts)
    vectors = [item.embedding for item in answer.data]
    assert [item.index for item in answer.data] == [0, 1, 2] and answer.usage.prompt_tokens > 20
    similarity = lambda a, b: sum(x * y for x, y in zip(a, b, strict=True))
    assert all(abs(similarity(vector, vector) - 1) < 1e-4 for vector in vectors)
    assert similarity(vectors[0], vectors[1]) > similarity(vectors[0], vectors[2])
    floats = client.embeddings.create(model=MODEL, input=texts[0], encoding_format="float", dimensions=8).data[0].embedding
    assert len(floats) == 8 and abs(similarity(floats, floats) - 1) < 1e-4
    # The numbers of a text do not depend on what is asked for beside it.
    alone = client.embeddings.create(model=MODEL, input=texts[2]).data[0].embedding
    assert alone == vectors[2]


def test_embeddings_that_cannot_be_name_their_field(client):
    with pytest.raises(openai.BadRequestError) as error:
        client.embeddings.create(model=MODEL, input=["fine", "long " * 20000])
    assert (error.value.param, error.value.code) == ("input", "context_length_exceeded")
    with pytest.raises(openai.BadRequestError) as error:
        client.embeddings.create(model=MODEL, input="a", dimensions=10**6)
    assert error.value.param == "dimensions"


class Person(pydantic.BaseModel):
    name: str = pydantic.Field(max_length=30)
    age: int = pydantic.Field(ge=0, le=150)
    is_alive: bool
    friends: list[pydantic.constr(max_length=20)] = pydantic.Field(max_length=2)


def test_pydantic_models_are_parsed(client):
    question = [{"role": "user", "content": "Describe Ada Lovelace as JSON: name, age, is_alive, friends."}]
    options = {"model": MODEL, "messages": question, "max_tokens": 400, "response_format": Person}
    for temperature in (0, 1.2):
        answer = client.chat.completions.parse(**options, temperature=temperature, seed=1)
        (choice,) = answer.choices
        assert choice.finish_reason == "stop" and isinstance(choice.message.parsed, Person)
    with client.chat.completions.stream(**options, temperature=0) as stream:
        final = stream.get_final_completion()
    assert isinstance(final.choices[0].message.parsed, Person)


def test_vllms_structured_outputs(client):
    answer = ask(client, extra_body={"structured_outputs": {"choice": ["red", "green"]}})
    assert answer.choices[0].message.content in ("red", "green")
    text = complete(client, max_tokens=30, extra_body={"guided_regex": "[0-9]{4}-[0-9]{2}"}).choices[0].text
    assert text[4] == "-" and text.replace("-", "").isdigit() and len(text) == 7
    with pytest.raises(openai.BadRequestError) as refused:
        ask(client, response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "z"}}})
    assert refused.value.param == "response_format"
