"""langchain-openai: a chat, a stream, a tool call, objects of a schema, vectors."""

import pytest
from conftest import KEY
from langchain_core.messages import ToolMessage
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from pydantic import BaseModel, Field

QUESTION = "Name one animal."


@pytest.fixture
def chat(server):
    return ChatOpenAI(
        base_url=f"{server.url}/v1", api_key=KEY, model="default", temperature=0, max_tokens=200, max_retries=0
    )


# A small model would add fields until its tokens end.
class Animal(BaseModel, extra="forbid"):
    """An animal."""

    name: str = Field(max_length=20)
    legs: int = Field(ge=0, le=8)


def test_a_chat_is_the_same_whole_and_streamed(chat):
    short = chat.bind(max_tokens=16)
    whole = short.invoke(QUESTION)
    assert whole.content and whole.usage_metadata["output_tokens"] > 0
    parts = list(short.stream(QUESTION))
    assert len(parts) > 2 and "".join(part.content for part in parts) == whole.content
    talk = [("system", "Be brief."), ("human", QUESTION), ("ai", "A cat."), ("human", "Another?")]
    assert short.invoke(talk).content
    both = short.batch([QUESTION, "Name one plant."])
    assert len(both) == 2 and both[0].content == whole.content


class Weather(BaseModel, extra="forbid"):
    """The weather of a city."""

    city: str = Field(max_length=20)


def test_a_tool_is_called(chat):
    asked = "What is the weather in Oslo?"
    for bound in [chat.bind_tools([Weather], tool_choice=choice) for choice in ["required", "Weather"]]:
        message = bound.invoke(asked)
        (call,) = message.tool_calls
        assert call["name"] == "Weather" and isinstance(call["args"]["city"], str), call
        streamed = None
        for part in bound.stream(asked):
            streamed = part if streamed is None else streamed + part
        (again,) = streamed.tool_calls
        assert again["args"] == call["args"]
    talk = [("human", asked), message, ToolMessage("Sunny.", tool_call_id=call["id"])]
    assert chat.bind(max_tokens=16).invoke(talk).content


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_answers_are_objects_of_a_schema(chat, method):
    animal = chat.with_structured_output(Animal, method=method).invoke(QUESTION)
    assert isinstance(animal, Animal) and 0 <= animal.legs <= 8


def test_texts_become_vectors(server):
    # Without a table of tokens of OpenAI's models, which would come from the network.
    embeddings = OpenAIEmbeddings(
        base_url=f"{server.url}/v1", api_key=KEY, model="default", check_embedding_ctx_length=False, max_retries=0
    )
    one, other = embeddings.embed_documents(["a cat", "a dog"])
    assert len(one) == len(other) > 100 and one != other
