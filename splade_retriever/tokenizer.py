"""Texts to token ids and back, and token-budget batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tokenizers
from numpy.typing import NDArray

from splade_retriever.errors import InputError, ModelFilesError

__all__ = ["Encoding", "TokenBatch", "Tokenizer", "batches"]


@dataclass(frozen=True, slots=True)
class Encoding:
    """One tokenised text.

    Attributes:
        ids: Token ids with the model's special tokens, at most `max_length`.
        offsets: Character span (start, end) of each token in the text; (0, 0) for special tokens.
        truncated: Tokens cut off at the end.
    """

    ids: list[int]
    offsets: list[tuple[int, int]]
    truncated: int


@dataclass(frozen=True, slots=True)
class TokenBatch:
    """Texts of similar length, padded to the longest.

    Attributes:
        rows: Shape (texts,): positions in the input.
        input_ids: Shape (texts, tokens), int64.
        attention_mask: Shape (texts, tokens), int64; 1 for a token, 0 for padding.
    """

    rows: list[int]
    input_ids: NDArray[np.int64]
    attention_mask: NDArray[np.int64]


class Tokenizer:
    """The model's own tokenizer; safe to share between threads.

    Args:
        backend: A loaded `tokenizers.Tokenizer`; its padding and truncation are switched off.
        max_length: Tokens a text may have, special tokens included.

    Raises:
        InputError: If `max_length` leaves no room for a token.
    """

    def __init__(self, backend: tokenizers.Tokenizer, *, max_length: int) -> None:
        backend.no_padding()
        backend.no_truncation()
        self._backend = backend
        self._room = max_length - backend.num_special_tokens_to_add(False)
        if self._room < 1:
            raise InputError(f"max_length={max_length} leaves no room for a token beside the special ones.")
        self.max_length = max_length

    @classmethod
    def from_file(cls, path: Path, *, max_length: int) -> Tokenizer:
        """Load a `tokenizer.json`.

        Raises:
            ModelFilesError: If the file is missing or not a tokenizer.
        """
        try:
            backend = tokenizers.Tokenizer.from_file(str(path))
        except Exception as err:
            raise ModelFilesError(
                f"No tokenizer could be loaded from {path}: {err}. Check that the folder is a complete model."
            ) from err
        return cls(backend, max_length=max_length)

    @property
    def vocab_size(self) -> int:
        """Number of entries, added tokens included."""
        return int(self._backend.get_vocab_size(with_added_tokens=True))

    def encode_batch(self, texts: Sequence[str]) -> list[Encoding]:
        """Tokenise texts, in order; what exceeds `max_length` is cut at the end and counted."""
        cut = []
        for plain in self._backend.encode_batch(list(texts), add_special_tokens=False):
            truncated = max(0, len(plain.ids) - self._room)
            if truncated:
                plain.truncate(self._room)
            full = self._backend.post_process(plain)
            cut.append(Encoding(ids=full.ids, offsets=full.offsets, truncated=truncated))
        return cut

    def token(self, token_id: int) -> str:
        """Return one vocabulary entry.

        Raises:
            InputError: If no entry has that id.
        """
        found = self._backend.id_to_token(token_id)
        if found is None:
            raise InputError(f"No token has the id {token_id}; the vocabulary has {self.vocab_size} entries.")
        return str(found)

    def tokens(self, ids: Sequence[int]) -> list[str]:
        """Return the vocabulary entries of `ids`, in their order."""
        return [self.token(token_id) for token_id in ids]


def batches(
    encodings: Sequence[Encoding], *, token_budget: int, max_texts: int | None = None
) -> Iterator[TokenBatch]:
    """Group texts of similar length into batches of about `token_budget` tokens, the longest first.

    Args:
        encodings: Tokenised texts, in input order.
        token_budget: Tokens a batch, padding included; a longer text stands alone.
        max_texts: Texts a batch at most.
    """
    order = sorted(range(len(encodings)), key=lambda row: -len(encodings[row].ids))
    start = 0
    while start < len(order):
        longest = len(encodings[order[start]].ids)
        size = max(1, token_budget // longest)
        rows = order[start : start + (min(size, max_texts) if max_texts else size)]
        start += len(rows)
        yield _padded([encodings[row].ids for row in rows], rows)


def _padded(texts: list[list[int]], rows: list[int]) -> TokenBatch:
    input_ids = np.zeros((len(texts), max(map(len, texts))), dtype=np.int64)
    attention_mask = np.zeros_like(input_ids)
    for place, ids in enumerate(texts):
        input_ids[place, : len(ids)] = ids
        attention_mask[place, : len(ids)] = 1
    return TokenBatch(rows=rows, input_ids=input_ids, attention_mask=attention_mask)
