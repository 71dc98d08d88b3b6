"""The sparse embedding for LlamaIndex, and the pair of functions that other stores take."""

import asyncio
import pickle
from typing import Any

import pytest

from splade_retriever.errors import InputError, UnknownModelError
from splade_retriever.llama_index import SpladeRerank, SpladeSparseEmbedding, sparse_encoders
from tests.words import WordEncoder


def test_the_embedding_returns_the_vectors_of_the_model(model: WordEncoder) -> None:
    embedding = SpladeSparseEmbedding(model=model)

    assert embedding.get_text_embedding("moon moon") == next(model.passage_embed(["moon moon"])).as_dict()
    assert embedding.get_query_embedding("moon") == next(model.query_embed("moon")).as_dict()


class Asymmetric(WordEncoder):
    def query_embed(self, query: Any) -> Any:
        return super().query_embed("from the query side")


def test_queries_are_encoded_as_queries() -> None:
    embedding = SpladeSparseEmbedding(model=Asymmetric())
    expected = next(WordEncoder().query_embed("from the query side")).as_dict()

    assert embedding.get_query_embedding("moon") == expected
    assert asyncio.run(embedding.aget_query_embedding("moon")) == expected


def test_a_batch_is_one_call_of_the_model() -> None:
    class Counting(WordEncoder):
        calls = 0

        def passage_embed(self, texts: Any) -> Any:
            self.calls += 1
            return super().passage_embed(texts)

    model = Counting()
    embedding = SpladeSparseEmbedding(model=model, embed_batch_size=10)
    texts = [f"text {n}" for n in range(25)]

    batch = embedding.get_text_embedding_batch(texts)

    assert model.calls == 3
    assert batch == asyncio.run(embedding.aget_text_embedding_batch(texts))
    assert batch == [embedding.get_text_embedding(text) for text in texts]


def test_similarity_is_the_dot_product(model: WordEncoder) -> None:
    embedding = SpladeSparseEmbedding(model=model)

    assert embedding.similarity({1: 2.0, 2: 3.0}, {2: 0.5, 3: 9.0, 4: 1.0}) == 1.5
    assert embedding.similarity({}, {2: 0.5}) == 0.0


def test_the_embedding_comes_back_from_its_dict() -> None:
    embedding = SpladeSparseEmbedding(embed_batch_size=7)

    data = embedding.to_dict()

    assert data["class_name"] == "SpladeSparseEmbedding" == SpladeSparseEmbedding.class_name()
    again = SpladeSparseEmbedding.from_dict(data)
    assert again.to_dict() == data
    assert again.get_text_embedding("the moon") == embedding.get_text_embedding("the moon")
    assert SpladeSparseEmbedding.from_json(embedding.to_json()).to_dict() == data


def test_a_dict_opened_with_another_model_is_an_error(model: WordEncoder) -> None:
    data = SpladeSparseEmbedding(model=model).to_dict()

    assert SpladeSparseEmbedding.from_dict(data, model=model).model is model
    with pytest.raises(InputError, match="cannot be compared"):
        SpladeSparseEmbedding.from_dict(data, model=WordEncoder("other"))
    with pytest.raises(UnknownModelError, match="words"):
        SpladeSparseEmbedding.from_dict(data)


def test_the_embedding_can_be_pickled() -> None:
    embedding = SpladeSparseEmbedding()

    again = pickle.loads(pickle.dumps(embedding))

    assert again.get_text_embedding("the moon") == embedding.get_text_embedding("the moon")


def test_a_model_is_a_name_or_an_encoder(model: WordEncoder) -> None:
    name = SpladeSparseEmbedding().model.fingerprint["model"]

    assert (
        SpladeSparseEmbedding(model=str(name)).model_name == SpladeRerank(model=str(name)).model_name == name
    )
    with pytest.raises(InputError, match="model is an int"):
        SpladeSparseEmbedding(model=3)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="model is an int"):
        SpladeRerank(model=3)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="model is an int"):
        sparse_encoders(3)  # type: ignore[arg-type]


def test_sparse_encoders_work_in_llama_indexs_qdrant_store() -> None:
    documents, queries = sparse_encoders(Asymmetric())

    ids, weights = documents(["moon moon", "rover"])

    first = next(WordEncoder().passage_embed(["moon moon"]))
    assert (ids[0], weights[0]) == (first.indices.tolist(), first.values.tolist())
    assert len(ids) == len(weights) == 2
    side = next(WordEncoder().query_embed("from the query side"))
    assert queries(["moon"]) == ([side.indices.tolist()], [side.values.tolist()])
