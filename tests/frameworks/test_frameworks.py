"""litellm and instructor: an answer, a stream, an object, an error that they understand."""

import os

import pytest
from conftest import KEY

QUESTION = [{"role": "user", "content": "Name one animal."}]


@pytest.fixture(scope="module")
def litellm():
    # Without it the package asks the network for its table of prices.
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
    import litellm

    return litellm


def ask(litellm, server, **fields):
    model = fields.pop("model", "default")
    options = {"messages": QUESTION, "temperature": 0, "max_tokens": 16} | fields
    return litellm.completion(model=f"hosted_vllm/{model}", api_base=f"{server.url}/v1", api_key=KEY, max_retries=0, **options)


def test_litellm(litellm, server):
    whole = ask(litellm, server)
    assert whole.choices[0].message.content and whole.usage.completion_tokens > 0
    chunks = list(ask(litellm, server, stream=True))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    vectors = litellm.token_counter(model="hosted_vllm/default", text="one two")
    assert vectors > 0


def test_litellm_knows_our_errors(litellm, server):
    with pytest.raises(litellm.NotFoundError):
        ask(litellm, server, model="nothing")
    with pytest.raises(litellm.BadRequestError):
        ask(litellm, server, top_p=7)


def test_instructor(client):
    import instructor
    from pydantic import BaseModel, Field

    # A small model would add fields until its tokens end.
    class Animal(BaseModel, extra="forbid"):
        name: str = Field(max_length=20)
        legs: int = Field(ge=0, le=8)

    for mode in [instructor.Mode.JSON_SCHEMA, instructor.Mode.TOOLS]:
        animal = instructor.from_openai(client, mode=mode).chat.completions.create(
            model="default", response_model=Animal, messages=QUESTION, temperature=0, max_tokens=300, max_retries=0
        )
        assert isinstance(animal, Animal) and 0 <= animal.legs <= 8
