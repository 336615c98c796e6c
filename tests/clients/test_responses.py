"""The official OpenAI client's Responses API against Quire: items, events, tools, schemas, and what is stored."""

import json

import openai
import pydantic
import pytest

MODEL = "default"
WEATHER = {
    "type": "function",
    "name": "weather",
    "description": "The weather of a city",
    "strict": True,
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string", "enum": ["Oslo", "Lima"]}},
        "required": ["city"],
        "additionalProperties": False,
    },
}


def ask(client, **options):
    options = {"model": MODEL, "input": "Name three colours of the rainbow.", "temperature": 0, "max_output_tokens": 24} | options
    return client.responses.create(**options)


def test_a_response_has_text_and_counts(client):
    answer = ask(client, instructions="Answer with a list.", metadata={"a": "b"})
    assert answer.id.startswith("resp_") and answer.output_text.strip() and answer.metadata == {"a": "b"}
    assert answer.status in ("completed", "incomplete") and answer.output[-1].type == "message"
    usage = answer.usage
    assert 0 < usage.output_tokens <= 24 and usage.total_tokens == usage.input_tokens + usage.output_tokens
    short = ask(client, max_output_tokens=2)
    assert (short.status, short.incomplete_details.reason) == ("incomplete", "max_output_tokens")


def test_a_stream_says_what_the_whole_response_says(client):
    whole = ask(client)
    events = list(ask(client, stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    names = [event.type for event in events]
    assert names[:4] == ["response.created", "response.in_progress", "response.output_item.added", "response.content_part.added"]
    assert names[-4:-1] == ["response.output_text.done", "response.content_part.done", "response.output_item.done"]
    assert names[-1] == f"response.{whole.status}"
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert len(deltas) > 1 and "".join(deltas) == whole.output_text == events[-1].response.output_text
    with client.responses.stream(model=MODEL, input="Say hello.", temperature=0, max_output_tokens=200) as stream:
        for _ in stream:
            pass
        assert stream.get_final_response().output_text.strip()


def test_a_tool_is_called_and_its_result_read(client):
    tools = {"tools": [WEATHER], "tool_choice": {"type": "function", "name": "weather"}, "max_output_tokens": 64}
    question = [{"role": "user", "content": "How is the weather in Oslo?"}]
    first = ask(client, input=question, **tools)
    (call,) = first.output
    assert call.type == "function_call" and json.loads(call.arguments)["city"] in ("Oslo", "Lima")
    events = list(ask(client, input=question, stream=True, **tools))
    done = [event for event in events if event.type == "response.function_call_arguments.done"]
    assert [event.arguments for event in done] == [call.arguments] and done[0].name == "weather"
    told = [*question, *first.output, {"type": "function_call_output", "call_id": call.call_id, "output": "Sunny, 20 degrees"}]
    second = ask(client, input=told, tools=[WEATHER], tool_choice="none")
    alone = ask(client, input=question)
    assert second.output_text.strip() and second.usage.input_tokens > alone.usage.input_tokens


def test_a_schema_holds_the_text(client):
    class Colour(pydantic.BaseModel):
        name: str = pydantic.Field(max_length=12)

    answer = client.responses.parse(model=MODEL, input="A colour?", text_format=Colour, temperature=0, max_output_tokens=64)
    assert isinstance(answer.output_parsed, Colour)


def test_what_is_stored_is_found_again_by_its_key(client, server):
    first = ask(client, input="My name is Ada.", store=True)
    assert client.responses.retrieve(first.id).output_text == first.output_text
    (item,) = client.responses.input_items.list(first.id).data
    assert item.content[0].text == "My name is Ada."
    second = ask(client, input="What is my name?", previous_response_id=first.id)
    alone = ask(client, input="What is my name?")
    assert second.usage.input_tokens > alone.usage.input_tokens + first.usage.output_tokens
    client.responses.delete(first.id)
    for missing in (first.id, second.id):
        with pytest.raises(openai.NotFoundError):
            client.responses.retrieve(missing)


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"input": []}, "input"),
        ({"temperature": 3}, "temperature"),
        ({"background": True}, "background"),
        ({"tools": [{"type": "web_search"}]}, "tools"),
        ({"previous_response_id": "resp_none"}, "previous_response_id"),
        ({"max_output_tokens": 10**8}, "input"),
    ],
)
def test_bad_requests_name_the_field(client, options, param):
    with pytest.raises(openai.BadRequestError) as error:
        ask(client, **options)
    assert error.value.param == param, error.value.body
