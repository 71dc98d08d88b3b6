"""Which token of a text a weight comes from: the one whose logit is the maximum that pooling keeps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from splade_retriever.encoding.model_files import ModelFiles
from splade_retriever.encoding.onnx.onnx_wire import read_summary
from splade_retriever.encoding.onnx.pooled_model import is_pooled
from splade_retriever.encoding.session import ProviderArgument, Session, checked_providers
from splade_retriever.encoding.tokenizer import Tokenizer
from splade_retriever.errors import InputError

__all__ = ["TokenOrigin", "TokenOrigins"]


@dataclass(frozen=True, slots=True)
class TokenOrigin:
    """The token of a text that a weight comes from.

    Attributes:
        start: In characters of the text.
        end: In characters of the text.
        weight: The weight at this token.
    """

    start: int
    end: int
    weight: float


class TokenOrigins:
    """Runs a model without pooling, which takes as long as encoding and 120 kB per token of the text.

    Args:
        files: The model's files. Of a graph that pools, a copy that does not is made in memory; of an export
            that ends in logits, the export itself is opened.
        tokenizer: The model's tokenizer.
        providers: ONNX Runtime execution providers, used exactly as given.
        cpu_mem_arena: Whether ONNX Runtime keeps freed memory for later calls.

    Raises:
        ModelGraphError: If the graph pools in another way than graphs of this package.
        ModelFilesError: If a file is missing and could not be downloaded.
    """

    def __init__(
        self,
        files: ModelFiles,
        tokenizer: Tokenizer,
        *,
        providers: Sequence[ProviderArgument] | None = None,
        cpu_mem_arena: bool = True,
    ) -> None:
        path = files.onnx_file()
        self._session = Session(
            path,
            providers=checked_providers(providers),
            activation=files.card.activation,
            cpu_mem_arena=cpu_mem_arena,
            content=_content(path),
        )
        self._tokenizer = tokenizer

    def find(self, text: str, ids: Sequence[int]) -> dict[int, TokenOrigin]:
        """Find the token that each vocabulary entry has its largest weight at.

        Args:
            text: The text, read as far as the model reads.
            ids: Vocabulary entries.

        Returns:
            Id -> origin; without entries that have no weight, or the largest one at a special token.

        Raises:
            InputError: If an id is not one of the vocabulary.
        """
        (encoding,) = self._tokenizer.encode_batch([text])
        if not encoding.ids or not ids:
            return {}
        all_weights = self._session.token_weights(encoding.ids)
        vocab_size = all_weights.shape[1]
        for id in ids:
            if not 0 <= id < vocab_size:
                raise InputError(f"No token has the id {id}; the vocabulary has {vocab_size} entries.")
        weights = all_weights[:, list(ids)]
        origins = {}
        for id, place, weight in zip(
            ids, weights.argmax(axis=0).tolist(), weights.max(axis=0).tolist(), strict=True
        ):
            start, end = encoding.offsets[place]
            if weight > 0 and end > start:
                origins[id] = TokenOrigin(start, end, weight)
        return origins


def _content(path: Path) -> bytes | None:
    if not is_pooled(read_summary(path)):
        return None
    from splade_retriever.encoding.onnx.token_graph import token_graph

    return token_graph(path)
