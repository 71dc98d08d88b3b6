"""Texts to token ids and back, and token-budget batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import tokenizers
from numpy.typing import NDArray

from splade_retriever.errors import InputError, ModelFilesError

__all__ = ["Encoding", "Head", "TokenBatch", "Tokenizer", "batches", "check_text"]

_CHARACTERS_PER_TOKEN: Final = 16
"""Reading this much text per token nearly always fills a model's input; where it does not, more is read."""


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
class Head:
    """The part of a text that the model reads.

    Attributes:
        ids: Token ids with the model's special tokens, at most `max_length`.
        cut: The text goes on after it.
    """

    ids: list[int]
    cut: bool


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

    Attributes:
        max_length: Tokens a text may have, special tokens included; what is longer is cut.
        special_ids: Ids of the special tokens ([CLS], [PAD], ...), ascending.
        pad_id: The id that fills short rows of a batch; the attention mask hides it.

    Args:
        backend: A loaded `tokenizers.Tokenizer`; its padding and truncation are switched off.
        max_length: As the attribute.

    Raises:
        InputError: If `max_length` leaves no room for a token.
    """

    def __init__(self, backend: tokenizers.Tokenizer, *, max_length: int) -> None:
        self.pad_id = _pad_id(backend)
        self.special_ids = sorted(
            token_id for token_id, token in backend.get_added_tokens_decoder().items() if token.special
        )
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

    @property
    def vocabulary(self) -> dict[str, int]:
        """Every entry and its id, added tokens included; a new dictionary at each call."""
        return dict(self._backend.get_vocab(with_added_tokens=True))

    def encode_batch(self, texts: Sequence[str]) -> list[Encoding]:
        """Tokenise texts, in order; what exceeds `max_length` is cut at the end and counted.

        Raises:
            InputError: If a text cannot be written as UTF-8; see `check_text`.
        """
        for position, text in enumerate(texts):
            check_text(text, position)
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

    def heads(self, texts: Sequence[str]) -> list[Head]:
        """Tokenise texts, in order, no further than the model reads: of a long text only its head."""
        found: list[Head | None] = [None] * len(texts)
        left = list(range(len(texts)))
        size = self.max_length * _CHARACTERS_PER_TOKEN
        while left:
            parts = [_whole_words(texts[row], size) for row in left]
            encoded = self._backend.encode_batch_fast(parts, add_special_tokens=False)
            again = []
            for row, part, plain in zip(left, parts, encoded, strict=True):
                complete = len(part) == len(texts[row])
                if not complete and len(plain.ids) <= self._room:
                    again.append(row)
                    continue
                cut = len(plain.ids) > self._room
                if cut:
                    plain.truncate(self._room)
                found[row] = Head(ids=self._backend.post_process(plain).ids, cut=cut)
            left, size = again, size * 8
        return [head for head in found if head is not None]

    def content(self, text: str) -> Head:
        """Tokenise one text without special tokens, cut at what `max_length` leaves for its content."""
        ids = self._backend.encode(text, add_special_tokens=False).ids
        return Head(ids=list(ids[: self._room]), cut=len(ids) > self._room)

    def decode(self, ids: Sequence[int]) -> str:
        """Join vocabulary entries to text; of one id this is the entry itself.

        Raises:
            InputError: If no entry has one of the ids.
        """
        self.tokens(ids)
        return str(self._backend.decode([int(token_id) for token_id in ids], skip_special_tokens=False))


def _whole_words(text: str, size: int) -> str:
    """Cut a text before the last blank within `size` characters, so that no token before it changes."""
    if len(text) <= size:
        return text
    end = size
    while end and not text[end].isspace():
        end -= 1
    return text[:end] if end else text


def check_text(text: object, position: int) -> None:
    """Refuse what cannot be tokenised.

    Raises:
        InputError: If it is no str, or has a lone surrogate: half of a character, which no file and no
            engine can hold.
    """
    if not isinstance(text, str):
        raise InputError(
            f"The text at position {position} is a {type(text).__name__}, expected str. Convert it, or leave "
            f"it out."
        )
    if text.isascii():
        return
    try:
        text.encode()
    except UnicodeEncodeError as err:
        raise InputError(
            f"The text at position {position} has a lone surrogate (U+{ord(text[err.start]):04X} at "
            f"character {err.start}), which is half of a character. Read the text with the right encoding, "
            f"or replace it with text.encode('utf-16', 'surrogatepass').decode('utf-16', 'replace')."
        ) from err


def batches(
    encodings: Sequence[Head],
    *,
    token_budget: int,
    workers: int = 1,
    least_tokens: int = 1,
    max_texts: int | None = None,
    pad_id: int = 0,
) -> Iterator[TokenBatch]:
    """Group texts of similar length into batches of about `token_budget` tokens, the longest first.

    For several workers the batches get smaller towards the end (guided self-scheduling), down to
    `least_tokens`: few texts are parted among all of them, and none is left with a large batch while the
    others wait.

    Args:
        encodings: Tokenised texts, in input order; one without any token stands in no batch.
        token_budget: Tokens a batch, padding included; a longer text stands alone.
        workers: How many batches are computed at once.
        least_tokens: The smallest budget of a batch among the last.
        max_texts: Texts a batch at most.
        pad_id: What fills short rows.
    """
    order = [row for row, encoding in enumerate(encodings) if encoding.ids]
    order.sort(key=lambda row: -len(encodings[row].ids))
    start, left = 0, sum(len(encodings[row].ids) for row in order)
    while start < len(order):
        longest = len(encodings[order[start]].ids)
        share = token_budget if workers == 1 else max(least_tokens, left // (2 * workers))
        size = max(1, min(share, token_budget) // longest)
        rows = order[start : start + (min(size, max_texts) if max_texts else size)]
        start += len(rows)
        left -= sum(len(encodings[row].ids) for row in rows)
        yield _padded([encodings[row].ids for row in rows], rows, pad_id)


def _padded(texts: list[list[int]], rows: list[int], pad_id: int) -> TokenBatch:
    input_ids = np.full((len(texts), max(map(len, texts))), pad_id, dtype=np.int64)
    attention_mask = np.zeros_like(input_ids)
    for place, ids in enumerate(texts):
        input_ids[place, : len(ids)] = ids
        attention_mask[place, : len(ids)] = 1
    return TokenBatch(rows=rows, input_ids=input_ids, attention_mask=attention_mask)


def _pad_id(backend: tokenizers.Tokenizer) -> int:
    if backend.padding is not None:
        return int(backend.padding["pad_id"])
    named = (backend.token_to_id(token) for token in ("[PAD]", "<pad>"))
    return next((int(token_id) for token_id in named if token_id is not None), 0)
