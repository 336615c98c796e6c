"""Stores of vectors, and LlamaIndex over them, with Quire's embeddings and chats: Chroma, Qdrant in local mode."""

import chromadb
from chromadb.utils.embedding_functions import OpenAIEmbeddingFunction
from llama_index.core import Document, VectorStoreIndex
from llama_index.embeddings.openai_like import OpenAILikeEmbedding
from llama_index.llms.openai_like import OpenAILike
from qdrant_client import QdrantClient
from qdrant_client.models import Distance, PointStruct, VectorParams

from conftest import KEY

MODEL = "default"
TEXTS = ["The cat sleeps on the warm sofa.", "Stocks fell sharply on Monday.", "A kitten naps on a couch."]


def test_chroma_finds_what_is_near(server):
    embed = OpenAIEmbeddingFunction(api_key=KEY, api_base=f"{server.url}/v1", model_name=MODEL)
    collection = chromadb.EphemeralClient().create_collection("texts", embedding_function=embed)
    collection.add(ids=["cat", "stocks", "kitten"], documents=TEXTS)
    found = collection.query(query_texts=[TEXTS[0]], n_results=2)
    assert found["ids"][0] == ["cat", "kitten"] and found["distances"][0][0] < 1e-3


def test_qdrant_finds_what_is_near(client):
    vectors = [item.embedding for item in client.embeddings.create(model=MODEL, input=TEXTS).data]
    store = QdrantClient(":memory:")
    store.create_collection("texts", VectorParams(size=len(vectors[0]), distance=Distance.COSINE))
    store.upsert("texts", [PointStruct(id=i, vector=vector) for i, vector in enumerate(vectors)])
    found = store.query_points("texts", query=vectors[2], limit=2).points
    assert [point.id for point in found] == [2, 0]


def test_llama_index_answers_from_documents(server):
    base = {"api_base": f"{server.url}/v1", "api_key": KEY}
    embed = OpenAILikeEmbedding(model_name=MODEL, embed_batch_size=8, **base)
    model = OpenAILike(model=MODEL, is_chat_model=True, context_window=2048, max_tokens=24, temperature=0, **base)
    index = VectorStoreIndex.from_documents([Document(text=text) for text in TEXTS], embed_model=embed)
    (nearest,) = index.as_retriever(similarity_top_k=1).retrieve(TEXTS[1])
    assert nearest.text == TEXTS[1]
    answer = index.as_query_engine(llm=model, similarity_top_k=1).query("What fell on Monday?")
    assert str(answer).strip() and answer.source_nodes
    streamed = index.as_query_engine(llm=model, similarity_top_k=1, streaming=True).query("What fell on Monday?")
    assert "".join(streamed.response_gen) == str(answer)
