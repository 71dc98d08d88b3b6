"""The weights of a checkpoint as PyTorch computes them, to compare an export with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import sentence_transformers
import torch
from numpy.typing import NDArray

from splade_retriever.encoding.model_cards import ModelCard
from splade_retriever.encoding.session import max_pool
from splade_retriever.errors import ModelFilesError
from splade_retriever.exporting.network import quiet

__all__ = ["Reference", "reference"]

FloatArray = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Reference:
    """The weights of some texts.

    Attributes:
        documents: Shape (texts, vocab).
        queries: Shape (texts, vocab); None where only sentence-transformers could say.
        library: The library that pooled the logits.
    """

    documents: FloatArray
    queries: FloatArray | None
    library: str


def reference(
    folder: Path,
    card: ModelCard,
    texts: Sequence[str],
    *,
    network: Any,
    tokenizer: Any,
    trust_remote_code: bool,
) -> Reference:
    """Encode texts in PyTorch, one at a time.

    A folder of sentence-transformers is opened with its own `SparseEncoder`. Of other folders, the logits
    are pooled by the formula of the card's activation.

    Args:
        folder: The checkpoint.
        card: Its description.
        texts: The texts.
        network: The network, for a folder without `modules.json`.
        tokenizer: Its tokenizer.
        trust_remote_code: Whether the model's own code may run.

    Raises:
        ModelFilesError: If the network fails, or sentence-transformers cannot open the folder.
    """
    if (folder / "modules.json").is_file():
        return _of_sentence_transformers(folder, card, texts, trust_remote_code=trust_remote_code)
    rows = []
    for text in texts:
        batch = tokenizer(text, truncation=True, max_length=card.max_length, return_tensors="pt")
        try:
            with torch.no_grad():
                logits = network(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        except Exception as error:
            raise ModelFilesError(
                f"The network in {folder} fails on a text of {batch['input_ids'].shape[1]} tokens in "
                f"PyTorch: {type(error).__name__}: {error}"
            ) from error
        mask: NDArray[np.int64] = batch["attention_mask"].numpy()
        rows.append(max_pool(logits.float().numpy(), mask, activation=card.activation))
    documents = np.concatenate(rows)
    return Reference(documents, documents if card.query_side == "symmetric" else None, "transformers")


def _of_sentence_transformers(
    folder: Path, card: ModelCard, texts: Sequence[str], *, trust_remote_code: bool
) -> Reference:
    try:
        with quiet():
            encoder = sentence_transformers.SparseEncoder(
                str(folder),
                device="cpu",
                trust_remote_code=trust_remote_code,
                local_files_only=not trust_remote_code,
                model_kwargs={"dtype": torch.float32, "attn_implementation": "eager"},
            )
            for module in encoder.modules():
                # A limit that only this package knows, such as the positions of a published card.
                if type(module).__name__ in ("Transformer", "MLMTransformer"):
                    module.max_seq_length = card.max_length
            documents, queries = (
                _dense(encode, texts) for encode in (encoder.encode_document, encoder.encode_query)
            )
    except Exception as error:
        raise ModelFilesError(
            f"sentence-transformers {sentence_transformers.__version__} cannot open {folder}: "
            f"{type(error).__name__}: {error}"
        ) from error
    return Reference(documents, queries, "sentence-transformers")


def _dense(encode: Any, texts: Sequence[str]) -> FloatArray:
    rows: FloatArray = encode(
        list(texts),
        batch_size=1,
        convert_to_tensor=True,
        convert_to_sparse_tensor=False,
        show_progress_bar=False,
    ).numpy()
    return rows
