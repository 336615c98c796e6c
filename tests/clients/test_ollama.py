"""The official Ollama client, and LangChain's, against Quire: chats, streams, formats, models and errors."""

import json

import ollama
import pytest
from langchain_core.messages import HumanMessage
from langchain_ollama import ChatOllama, OllamaEmbeddings

QUESTION = [{"role": "user", "content": "Name three colours of the rainbow."}]
OPTIONS = {"temperature": 0, "num_predict": 24}


@pytest.fixture
def local(server):
    return ollama.Client(host=server.url, headers=server.headers)


@pytest.fixture
def name(local):
    (model,) = local.list().models
    return model.model


def test_models_are_listed_and_shown(local, name):
    assert name.startswith("SmolLM2") and name.endswith(":latest")
    shown = local.show(name)
    assert shown.modelinfo["general.architecture"] == "llama" and "completion" in shown.capabilities
    (running,) = local.ps().models
    assert running.model == name and running.expires_at.year > 2300


def test_a_chat_comes_whole_or_in_parts(local, name):
    whole = local.chat(name, QUESTION, options=OPTIONS)
    parts = list(local.chat(name, QUESTION, options=OPTIONS, stream=True))
    assert whole.message.content.strip() == "".join(part.message.content for part in parts).strip()
    last = parts[-1]
    assert last.done and last.done_reason in ("stop", "length") and last.eval_count <= 24
    assert 0 < last.prompt_eval_duration + last.eval_duration <= last.total_duration


def test_a_prompt_is_generated_from(local, name):
    answer = local.generate(name, "The capital of France is", raw=True, options=OPTIONS)
    assert "Paris" in answer.response and answer.done


def test_an_answer_follows_a_schema(local, name):
    schema = {"type": "object", "properties": {"colour": {"type": "string", "maxLength": 12}}, "required": ["colour"],
              "additionalProperties": False}
    answer = local.chat(name, QUESTION, format=schema, options={"temperature": 0, "num_predict": 64})
    assert list(json.loads(answer.message.content)) == ["colour"]


def test_embeddings_are_of_length_one(local, name):
    answer = local.embed(name, ["a cat", "a dog"])
    assert len(answer.embeddings) == 2
    assert abs(sum(x * x for x in answer.embeddings[0]) - 1) < 1e-3


def test_errors_say_what_is_wrong(local, name):
    with pytest.raises(ollama.ResponseError, match="try pulling it first") as error:
        local.chat("nothing", QUESTION)
    assert error.value.status_code == 404
    with pytest.raises(ollama.ResponseError, match="num_ctx"):
        local.chat(name, QUESTION, options={"num_ctx": 8})
    with pytest.raises(ollama.ResponseError, match="images"):
        local.chat(name, [{"role": "user", "content": "see", "images": ["aGk="]}])
    # A key for asking models is none for changing them.
    with pytest.raises(ollama.ResponseError) as error:
        local.delete(name)
    assert error.value.status_code == 403


def test_langchain_chats_and_embeds(server, name):
    settings = {"base_url": server.url, "client_kwargs": {"headers": server.headers}}
    chat = ChatOllama(model=name, temperature=0, num_predict=24, **settings)
    whole = chat.invoke([HumanMessage(QUESTION[0]["content"])])
    streamed = "".join(part.content for part in chat.stream(QUESTION[0]["content"]))
    assert whole.content.strip() and whole.content.strip() == streamed.strip()
    vectors = OllamaEmbeddings(model=name, **settings).embed_documents(["a cat", "a dog"])
    assert len(vectors) == 2 and len(vectors[0]) == len(vectors[1])
