"""The official Anthropic client against Quire: messages, streams, tools, counting and errors."""

import anthropic
import pytest

from conftest import KEY

QUESTION = [{"role": "user", "content": "Name three colours of the rainbow."}]
WEATHER = {
    "name": "weather",
    "description": "The weather of a city",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string", "enum": ["Oslo", "Lima"]}},
        "required": ["city"],
        "additionalProperties": False,
    },
}


@pytest.fixture
def claude(server):
    return anthropic.Anthropic(base_url=server.url, api_key=KEY, max_retries=0)


def ask(claude, **options):
    options = {"model": "default", "max_tokens": 24, "messages": QUESTION} | options
    # The client has no name for it any more; the API does.
    return claude.messages.create(**options, extra_body={"temperature": 0})


def test_a_message_comes_whole_or_in_parts(claude):
    whole = ask(claude, system="Be brief.")
    assert whole.content[0].type == "text" and whole.stop_reason in ("end_turn", "max_tokens")
    with claude.messages.stream(
        model="default", max_tokens=24, messages=QUESTION, system="Be brief.", extra_body={"temperature": 0}
    ) as stream:
        parts = list(stream.text_stream)
    assert len(parts) > 1 and "".join(parts) == whole.content[0].text
    counted = claude.messages.count_tokens(model="default", messages=QUESTION, system="Be brief.")
    usage = whole.usage
    assert counted.input_tokens == usage.input_tokens + usage.cache_read_input_tokens


def test_a_tool_is_used_where_that_is_demanded(claude):
    answer = ask(claude, tools=[WEATHER], tool_choice={"type": "tool", "name": "weather"}, max_tokens=64)
    (used,) = [block for block in answer.content if block.type == "tool_use"]
    assert used.name == "weather" and used.input["city"] in ("Oslo", "Lima")
    told = [
        *QUESTION,
        {"role": "assistant", "content": answer.content},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": used.id, "content": "Sunny"}]},
    ]
    assert ask(claude, messages=told, tools=[WEATHER]).content


def test_errors_are_of_their_kind(claude, server):
    with pytest.raises(anthropic.NotFoundError):
        ask(claude, model="no-such-model")
    with pytest.raises(anthropic.BadRequestError):
        ask(claude, messages=[])
    with pytest.raises(anthropic.AuthenticationError):
        ask(anthropic.Anthropic(base_url=server.url, api_key="wrong", max_retries=0))
