"""The network of a checkpoint: loaded in PyTorch, and written as an ONNX graph that ends in logits."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from operator import itemgetter
from pathlib import Path
from typing import Any, Final

import torch
import transformers
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from splade_retriever.encoding.model_root import ModelRoot
from splade_retriever.errors import ModelFilesError, ModelGraphError
from splade_retriever.validation import type_name

__all__ = [
    "MAX_FILE_BYTES",
    "check_code",
    "check_vocabulary",
    "export_graph",
    "load_network",
    "load_tokenizer",
    "quiet",
]

MAX_FILE_BYTES: Final = 1_900_000_000
"""An ONNX file holds up to 2 GB; weights of a larger network are in a file beside it."""

_INPUTS: Final = ("input_ids", "attention_mask")
_OPSET: Final = 17
_NEW_EXPORTER_OPSET: Final = 18


def check_code(folder: Path, *, trusted: bool) -> None:
    """Check that no Python code of the model would run, unless the user trusts it.

    Raises:
        ModelGraphError: If transformers has no class for the model, whose own code would run.
    """
    config = ModelRoot(folder).read_json("config.json") or {}
    kind = config.get("model_type")
    native = isinstance(kind, str) and kind in MODEL_FOR_MASKED_LM_MAPPING_NAMES
    if not trusted and "auto_map" in config and not native:
        raise ModelGraphError(
            f"The model in {folder} (model_type {kind!r}) runs its own Python code, and transformers "
            f"{transformers.__version__} has no class for it. Read that code, and if you trust it, pass "
            f"--trust-remote-code."
        )


def load_network(folder: Path, *, trust_remote_code: bool) -> Any:
    """Load a masked language model in float32.

    Raises:
        ModelFilesError: If it cannot be loaded, or its weights are not complete.
    """
    options: dict[str, Any] = {
        "dtype": torch.float32,
        "attn_implementation": "eager",
        "trust_remote_code": trust_remote_code,
        "local_files_only": not trust_remote_code,
    }
    try:
        network, loading = transformers.AutoModelForMaskedLM.from_pretrained(
            str(folder), output_loading_info=True, **options
        )
    except Exception as error:
        raise ModelFilesError(
            f"transformers cannot load the model in {folder}: {type(error).__name__}: {error}"
        ) from error
    missing = sorted(loading["missing_keys"]) + sorted(map(str, loading.get("mismatched_keys", ())))
    if missing:
        raise ModelFilesError(
            f"The weights in {folder} are not complete: {', '.join(missing[:5])} missing. A SPLADE model "
            f"needs its language head. Pass the checkpoint of the masked language model."
        )
    return network.eval()


def load_tokenizer(folder: Path, *, trust_remote_code: bool) -> Any:
    """Load the tokenizer of a folder.

    Raises:
        ModelFilesError: If there is none, or it cannot be written as a `tokenizer.json`.
    """
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            str(folder), trust_remote_code=trust_remote_code, local_files_only=not trust_remote_code
        )
    except Exception as error:
        raise ModelFilesError(
            f"transformers cannot load the tokenizer in {folder}: {type(error).__name__}: {error}"
        ) from error
    if not tokenizer.is_fast:
        raise ModelFilesError(
            f"The tokenizer in {folder} is {type_name(tokenizer)}, which has no tokenizer.json. Pass a "
            f"model whose tokenizer is one of the tokenizers library."
        )
    return tokenizer


def check_vocabulary(network: Any, tokenizer: Any, folder: Path) -> None:
    """Check that the network knows every token that the tokenizer can return.

    Raises:
        ModelFilesError: If it has no word embedding for one of them.
    """
    embeddings = int(network.config.vocab_size)
    token, largest = max(tokenizer.get_vocab().items(), key=itemgetter(1))
    if largest >= embeddings:
        raise ModelFilesError(
            f"The tokenizer in {folder} returns ids up to {largest} ({token!r}), but its network has word "
            f"embeddings for ids up to {embeddings - 1}. Pass the tokenizer that the network was trained "
            f"with, or call network.resize_token_embeddings({largest + 1}), train, and save both again."
        )


def export_graph(network: Any, path: Path, *, max_file_bytes: int = MAX_FILE_BYTES) -> None:
    """Write a network as ONNX, `input_ids, attention_mask -> logits`.

    Args:
        network: A masked language model.
        path: The file to write.
        max_file_bytes: Weights beyond that size are written to a file beside it.

    Raises:
        ModelGraphError: If PyTorch cannot export the network.
    """
    ids = torch.full((2, 16), 5, dtype=torch.int64)
    mask = torch.ones_like(ids)
    mask[1, 8:] = 0
    size = sum(weight.numel() * weight.element_size() for weight in network.parameters())
    axes = {0: "batch", 1: "tokens"}
    if size <= max_file_bytes:
        how: dict[str, Any] = {
            "dynamo": False,
            "dynamic_axes": dict.fromkeys((*_INPUTS, "logits"), axes),
            "opset_version": _OPSET,
        }
    else:
        # The other exporter is ten times slower, and the one that keeps all weights in one file.
        how = {
            "dynamo": True,
            "dynamic_shapes": dict.fromkeys(_INPUTS, axes),
            "opset_version": _NEW_EXPORTER_OPSET,
            "external_data": True,
        }
    try:
        with quiet(), torch.no_grad():
            torch.onnx.export(
                _Logits(network).eval(),
                (ids, mask),
                str(path),
                input_names=list(_INPUTS),
                output_names=["logits"],
                verbose=False,
                **how,
            )
    except Exception as error:
        raise ModelGraphError(
            f"PyTorch {torch.__version__} cannot export the {type(network).__name__}: "
            f"{type(error).__name__}: {error}"
        ) from error


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the libraries' warnings and progress, which concern their own code."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "transformers", "sentence_transformers")]
    levels = [logger.level for logger in loggers]
    bars = transformers.utils.logging.is_progress_bar_enabled()
    transformers.utils.logging.disable_progress_bar()
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if bars:
            transformers.utils.logging.enable_progress_bar()


class _Logits(torch.nn.Module):
    """A network as a function of ids and mask only."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Return the logits, (batch, tokens, vocab)."""
        logits: torch.Tensor = self.network(input_ids=input_ids, attention_mask=attention_mask).logits
        return logits
