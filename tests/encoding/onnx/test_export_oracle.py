"""Exports of every published family, by both of PyTorch's exporters, against the models in PyTorch."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from splade_retriever.encoding.onnx.pooled_model import pooled_graph
from splade_retriever.encoding.session import Session
from tests.mlm_graphs import max_pooled

torch = pytest.importorskip("torch", reason="PyTorch is not installed (extra `oracle`)")
transformers = pytest.importorskip("transformers", reason="transformers is not installed (extra `oracle`)")

pytestmark = [
    pytest.mark.oracle,
    # The warnings of the exporters concern their own code.
    pytest.mark.filterwarnings("ignore"),
]

BERT = {
    "vocab_size": 300,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
}
DISTILBERT = {"vocab_size": 300, "dim": 64, "n_layers": 2, "n_heads": 4, "hidden_dim": 128}
MODERNBERT = {
    **BERT,
    "pad_token_id": 0,
    "cls_token_id": 1,
    "sep_token_id": 2,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "global_attn_every_n_layers": 2,
    "local_attention": 16,
}
FAMILIES = {
    "Bert": BERT,
    "DistilBert": DISTILBERT,
    "Roberta": {**BERT, "pad_token_id": 1},
    "MPNet": BERT,
    "ModernBert": MODERNBERT,
}


def random_model(family: str, **settings: Any) -> Any:
    """Return a model of a family with random weights, biases and norms included."""
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**FAMILIES[family], **settings)
    config._attn_implementation = "eager"
    model = getattr(transformers, f"{family}ForMaskedLM")(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            noise = torch.randn_like(weight)
            weight.copy_(noise * 0.08 if weight.dim() > 1 else weight + noise * 0.05)
    return model


class Logits(torch.nn.Module):  # type: ignore[name-defined,misc,unused-ignore]
    """The model as a function of ids and mask only."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Any, attention_mask: Any) -> Any:
        return self.model(input_ids=input_ids, attention_mask=attention_mask).logits


def batch(rows: int, tokens: int) -> tuple[Any, Any]:
    ids = torch.randint(5, 299, (rows, tokens), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[1, tokens // 2 :] = 0
    return ids, mask


def export(model: Any, path: Path, exporter: str) -> Path:
    axes = {0: "batch", 1: "tokens"}
    names = ["input_ids", "attention_mask"]
    if exporter == "dynamo":
        pytest.importorskip("onnxscript", reason="onnxscript, which the new exporter needs, is not installed")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        shapes: dict[str, Any] = {
            "dynamo": True,
            "dynamic_shapes": dict.fromkeys(names, axes),
            "opset_version": 18,
        }
    else:
        shapes = {
            "dynamo": False,
            "dynamic_axes": dict.fromkeys([*names, "logits"], axes),
            "opset_version": 14,
        }
    torch.onnx.export(
        Logits(model).eval(),
        batch(3, 16),
        str(path),
        input_names=names,
        output_names=["logits"],
        verbose=False,
        **shapes,
    )
    return path


@pytest.mark.parametrize(
    ("family", "exporter"),
    [*((family, "torchscript") for family in FAMILIES), ("Bert", "dynamo"), ("ModernBert", "dynamo")],
)
def test_an_export_of_each_family_returns_pytorchs_weights(
    tmp_path: Path, family: str, exporter: str
) -> None:
    model = random_model(family)
    path = export(model, tmp_path / "model.onnx", exporter)
    ids, mask = batch(4, 23)
    with torch.no_grad():
        logits = Logits(model)(ids, mask).numpy()
    ids, mask = ids.numpy(), mask.numpy()
    expected = max_pooled(logits, mask)
    exact = Session(pooled_graph(path)).weights(ids, mask)
    approximate = Session(pooled_graph(path, precision="int8")).weights(ids, mask)
    np.testing.assert_allclose(exact, expected, atol=1e-5)
    assert np.abs(approximate - expected).sum() < 0.03 * expected.sum()
