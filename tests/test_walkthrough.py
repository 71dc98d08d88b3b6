"""The published walkthrough "Working with SPLADE", step by step.

The steps run on the bundled model, offline. The canonical values of `prithivida/Splade_PP_en_v1` are checked
if that model can be downloaded (marker `network`).
"""

import json

import numpy as np
import pytest

from splade_retriever import SparseEmbedding, SparseTextEmbedding
from splade_retriever.errors import ModelFilesError

DOCUMENTS = [
    "Chandrayaan-3 is the third mission that India has sent to the Moon.",
    "It follows Chandrayaan-2, which was successful only in part.",
    "The aim is to put a rover on the lunar surface, as the US, China and Russia have done before.",
    "ISRO, the Indian space agency, launched the spacecraft in 2023.",
    "A GSLV Mk III rocket carried it from the Satish Dhawan Space Centre in Sriharikota.",
    "The lander is called Vikram, and the rover it carries is called Pragyan.",
    "A propulsion module takes both of them to the Moon and acts like an orbiter.",
    "There it lets the lander go, in a lunar orbit 100 km (62 mi) high.",
    "The whole mission cost about 35 million dollars.",
    "On 23 August 2023 the lander touched down near the south pole of the Moon.",
    "The rover then drove out to study the soil and the rocks around it.",
    "With this landing India became the fourth country to reach the Moon safely.",
]
SENTENCE = "Chandrayaan-3 is India's third lunar mission"


@pytest.fixture(scope="module")
def model() -> SparseTextEmbedding:
    return SparseTextEmbedding()


@pytest.fixture(scope="module")
def embeddings(model: SparseTextEmbedding) -> list[SparseEmbedding]:
    return list(model.embed(DOCUMENTS, batch_size=6))


def get_tokens_and_weights(embedding: SparseEmbedding, model: SparseTextEmbedding) -> dict[str, float]:
    """Decode ids one by one, as the walkthrough does."""
    weights = {
        model.tokenizer.decode([index]): weight
        for index, weight in zip(embedding.indices.tolist(), embedding.values.tolist(), strict=True)
    }
    return dict(sorted(weights.items(), key=lambda item: item[1], reverse=True))


def test_step_1_the_two_names_are_imported_from_the_package() -> None:
    from splade_retriever import SparseEmbedding, SparseTextEmbedding

    assert SparseEmbedding.__name__ == "SparseEmbedding"
    assert SparseTextEmbedding.__name__ == "SparseTextEmbedding"


def test_step_2_the_supported_models_are_a_list_of_dicts() -> None:
    models = SparseTextEmbedding.list_supported_models()

    keys = {"model", "sources", "model_file", "description", "license", "size_in_GB", "vocab_size"}
    assert all(keys <= entry.keys() and "hf" in entry["sources"] for entry in models)
    (entry,) = [entry for entry in models if entry["model"] == "prithivida/Splade_PP_en_v1"]
    assert entry["sources"] == {"hf": "Qdrant/Splade_PP_en_v1"}
    assert entry["model_file"] == "model.onnx"
    assert entry["license"] == "apache-2.0"
    assert entry["size_in_GB"] == 0.532
    assert entry["vocab_size"] == 30522


def test_step_3_a_model_is_opened_by_its_name() -> None:
    # test_hub.py and test_model_cards.py test the download and its progress bar against a local server.
    name = SparseTextEmbedding.list_supported_models()[0]["model"]

    assert SparseTextEmbedding(model_name=name).model_name == name


def test_step_4_a_list_of_documents_returns_one_embedding_each_in_order(
    model: SparseTextEmbedding, embeddings: list[SparseEmbedding]
) -> None:
    assert len(embeddings) == len(DOCUMENTS)
    assert all(isinstance(embedding, SparseEmbedding) for embedding in embeddings)
    for document, embedding, again in zip(DOCUMENTS, embeddings, model.embed(DOCUMENTS), strict=True):
        alone = next(iter(model.embed(document)))
        assert np.array_equal(alone.indices, embedding.indices)
        assert np.array_equal(again.indices, embedding.indices)


def test_step_5_an_embedding_has_values_and_indices_and_prints_as_in_the_walkthrough(
    embeddings: list[SparseEmbedding],
) -> None:
    embedding = embeddings[0]
    lines = [f"Token at index {embedding.indices[i]} has weight {embedding.values[i]}" for i in range(3)]

    assert len(embedding.values) == len(embedding.indices)
    for line, index, value in zip(lines, embedding.indices, embedding.values, strict=False):
        assert line.startswith(f"Token at index {int(index)} has weight ")
        assert float(line.rpartition(" ")[2]) == pytest.approx(float(value), rel=1e-6)
    assert "values=array(" in repr(embedding)


def test_step_6_ids_are_decoded_to_tokens_by_weight_and_dumped_as_json(
    model: SparseTextEmbedding, embeddings: list[SparseEmbedding]
) -> None:
    by_hand = get_tokens_and_weights(embeddings[0], model)

    assert by_hand == model.tokens_and_weights(embeddings[0])
    assert by_hand == embeddings[0].tokens_and_weights(model.tokenizer)
    assert list(by_hand) == list(model.tokens_and_weights(embeddings[0]))
    assert list(by_hand.values()) == sorted(by_hand.values(), reverse=True)
    assert json.loads(json.dumps(by_hand, indent=4)) == by_hand


def test_step_7_the_tokens_with_the_largest_weights_are_the_topic(model: SparseTextEmbedding) -> None:
    top_tokens = list(model.tokens_and_weights(next(model.embed(SENTENCE))))[:20]

    assert {"lunar", "mission", "india"} <= set(top_tokens)


def test_step_7_there_are_tokens_that_are_not_in_the_document(model: SparseTextEmbedding) -> None:
    literal = set(model.tokenizer.encode_batch([SENTENCE])[0].ids)
    expansion = {
        token
        for token, index in zip(
            model.tokenizer.tokens(next(model.embed(SENTENCE)).indices.tolist()),
            next(model.embed(SENTENCE)).indices.tolist(),
            strict=True,
        )
        if index not in literal
    }

    assert expansion


def test_step_7_weights_are_not_normalised(embeddings: list[SparseEmbedding]) -> None:
    assert max(float(embedding.values.max()) for embedding in embeddings) > 1.0
    lengths = [float(np.linalg.norm(embedding.values)) for embedding in embeddings]
    assert max(lengths) - min(lengths) > 0.1


def test_step_7_only_tokens_of_the_vocabulary_have_weights(
    model: SparseTextEmbedding, embeddings: list[SparseEmbedding]
) -> None:
    vocabulary = model.tokenizer.vocabulary
    assert len(vocabulary) == model.vocab_size

    for embedding in embeddings:
        assert all(token in vocabulary for token in model.tokenizer.tokens(embedding.indices.tolist()))


def test_step_7_word_pieces_cover_typos_and_unknown_words(model: SparseTextEmbedding) -> None:
    (right,) = model.embed("Chandrayaan landed")
    (typo,) = model.embed("Chandrayan landed")

    assert "##ya" in model.tokens_and_weights(right)
    assert right.dot(typo) > right.dot(next(model.embed("an apple pie")))


CANONICAL_INDICES = """
1010 1011 1016 1017 2001 2018 2034 2093 2117 2319 2353 2509 2634 2686 2796 2817 2922 2959 3003 3148 3260 3390
3462 3523 3822 4231 4316 4774 5590 5871 6416 11926 12076 16469
"""
CANONICAL_VALUES = """
0.05297208 0.01963477 0.36459631 1.38508618 0.71776593 0.12667948 0.46230844 0.446771 0.26897505 1.01519883
1.5655334 0.29412213 1.53102326 0.59785569 1.1001817 0.02079751 0.09955651 0.44249091 0.09747757 1.53519952
1.36765671 0.15740395 0.49882549 0.38629025 0.76612782 1.25805044 0.39058095 0.27236196 0.45152301 0.48262018
0.26085234 1.35912788 0.70710695 1.71639752
"""
CANONICAL_TOKENS = """
chandra third ##ya india 3 mission lunar moon indian ##an 3rd was spacecraft space flight satellite first
expedition three fourth vehicle iii 2 ##3 planet second missions launched had largest leader , study -
"""


def canonical() -> SparseEmbedding:
    return SparseEmbedding(
        values=[float(number) for number in CANONICAL_VALUES.split()],
        indices=[int(number) for number in CANONICAL_INDICES.split()],
    )


def test_the_canonical_vector_decodes_to_the_tokens_of_the_walkthrough(model: SparseTextEmbedding) -> None:
    # The bundled model has the same vocabulary as the published one, BERT's.
    assert list(model.tokens_and_weights(canonical())) == CANONICAL_TOKENS.split()


@pytest.fixture
def published() -> SparseTextEmbedding:
    try:
        return SparseTextEmbedding(model_name="prithivida/Splade_PP_en_v1")
    except ModelFilesError as error:
        pytest.skip(f"the model is not available: {error}")


@pytest.mark.network
def test_the_published_model_returns_the_canonical_values(published: SparseTextEmbedding) -> None:
    (embedding,) = published.embed(SENTENCE)

    assert embedding.indices.tolist() == canonical().indices.tolist()
    assert embedding.values.tolist() == pytest.approx(canonical().values.tolist(), abs=1e-4)
    assert list(published.tokens_and_weights(embedding)) == CANONICAL_TOKENS.split()
    assert len(str(published.fingerprint["revision"])) == 40


@pytest.mark.network
def test_the_published_model_is_opened_from_the_cache_the_second_time(
    published: SparseTextEmbedding,
) -> None:
    second = SparseTextEmbedding(model_name="prithivida/Splade_PP_en_v1", local_files_only=True)

    assert second.fingerprint == published.fingerprint
