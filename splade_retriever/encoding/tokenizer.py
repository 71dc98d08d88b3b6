"""Texts to token ids and back."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import Final, NamedTuple

import tokenizers

from splade_retriever.encoding.tokenizer_file import check_expansion, translated_errors
from splade_retriever.errors import InputError, ModelFilesError, ModelOutputError
from splade_retriever.validation import type_name

__all__ = ["Encoding", "TokenIds", "Tokenizer", "check_text", "checked_ids", "checked_texts"]

_CHARACTERS_PER_TOKEN: Final = 16
"""This much text per token nearly always fills a model's input; otherwise more is tokenised."""

_MAX_PIECE: Final = 1 << 18
"""Characters that are tokenised at once; a tokenizer needs up to 300 bytes for each."""
_MAX_CHARACTERS: Final = 2_000_000
"""Characters of a text that are tokenised in all, where words without a token fill no input."""
_FAILED: Final = "The model's tokenizer failed"


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
class TokenIds:
    """The token ids of the part of a text that the model reads.

    Attributes:
        ids: Token ids with the model's special tokens, at most `max_length`.
        truncated: Whether the text continues after that part.
    """

    ids: list[int]
    truncated: bool


class _Piece(NamedTuple):
    """A part of a long text."""

    start: int
    end: int
    encoded: tokenizers.Encoding
    """Its tokens, and further ones behind its end."""
    tokens: int
    """The number of tokens before its end."""


class Tokenizer:
    """The model's own tokenizer; safe to share between threads.

    Attributes:
        max_length: Tokens per text, special tokens included; the rest of a longer text is cut off.
        special_ids: Ids of the special tokens ([CLS], [PAD], ...), ascending.
        pad_id: The id that fills short rows of a batch; the attention mask excludes it.

    Args:
        backend: A loaded `tokenizers.Tokenizer`; its padding and truncation are disabled.
        max_length: See the attribute.

    Raises:
        InputError: If `max_length` is too small for one token beside the special ones.
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
            raise InputError(
                f"max_length is {max_length}, expected at least {1 + max_length - self._room}: one token "
                f"beside the special ones."
            )
        self.max_length = max_length

    @classmethod
    def from_file(cls, path: Path, *, max_length: int) -> Tokenizer:
        """Load a `tokenizer.json`.

        Raises:
            ModelFilesError: If the file is missing or is not a tokenizer.
        """
        with translated_errors(f"The tokenizer {path} cannot be loaded", ModelFilesError):
            content = path.read_text(encoding="utf-8")
            check_expansion(json.loads(content))
            backend = tokenizers.Tokenizer.from_str(content)
        return cls(backend, max_length=max_length)

    @property
    def vocab_size(self) -> int:
        """Number of entries, added tokens included."""
        return int(self._backend.get_vocab_size(with_added_tokens=True))

    @property
    def vocabulary(self) -> dict[str, int]:
        """All entries and their ids, added tokens included; a new dictionary at each call."""
        return dict(self._backend.get_vocab(with_added_tokens=True))

    def encode_batch(self, texts: Sequence[str]) -> list[Encoding]:
        """Tokenise texts, in order; tokens beyond `max_length` are cut off and counted.

        At most 262,144 characters are tokenised at once, so a longer word counts as several.

        Raises:
            InputError: If they are no list of texts; see `checked_texts`.
        """
        texts = checked_texts(texts)
        with translated_errors(_FAILED, ModelOutputError):
            return [one for group in _groups(texts) for one in self._encode_group(group)]

    def _encode_group(self, texts: list[str]) -> list[Encoding]:
        if len(texts) == 1 and len(texts[0]) > _MAX_PIECE:
            return [self._encode_long(texts[0])]
        encoded = self._backend.encode_batch(texts, add_special_tokens=False)
        return [self._finished(one) for one in encoded]

    def _encode_long(self, text: str) -> Encoding:
        kept: list[tokenizers.Encoding] = []
        starts: list[int] = []
        count = 0
        for piece in self._pieces(text, end=len(text), size=_MAX_PIECE):
            room = self._room - count
            if room > 0:
                plain = self._tokens_of(text, piece)
                plain.truncate(room)
                kept.append(plain)
                starts += [piece.start] * len(plain.ids)
            count += piece.tokens
        full = self._backend.post_process(tokenizers.Encoding.merge(kept, False))
        places = iter(starts)
        offsets = [
            (first, end) if special else (first + (start := next(places)), end + start)
            for (first, end), special in zip(full.offsets, full.special_tokens_mask, strict=True)
        ]
        return Encoding(ids=full.ids, offsets=offsets, truncated=max(0, count - self._room))

    def _finished(self, plain: tokenizers.Encoding) -> Encoding:
        truncated = max(0, len(plain.ids) - self._room)
        if truncated:
            plain.truncate(self._room)
        full = self._backend.post_process(plain)
        return Encoding(ids=full.ids, offsets=full.offsets, truncated=truncated)

    def token(self, token_id: int) -> str:
        """Return one vocabulary entry.

        Raises:
            InputError: If it is not an int, or no entry has that id.
        """
        return self.tokens([token_id])[0]

    def tokens(self, ids: Sequence[int]) -> list[str]:
        """Return the vocabulary entries of `ids`, in their order.

        Raises:
            InputError: If one is not an int, or no entry has that id.
        """
        return [self._known(token_id) for token_id in checked_ids(ids)]

    def _known(self, token_id: int) -> str:
        # The library takes 32-bit numbers only.
        token = self._backend.id_to_token(token_id) if 0 <= token_id < 1 << 32 else None
        if token is None:
            raise InputError(f"No token has the id {token_id}; the vocabulary has {self.vocab_size} entries.")
        return str(token)

    def encode_truncated(self, texts: Sequence[str]) -> list[TokenIds]:
        """Tokenise texts, in order; of a long text only the part that the model reads.

        At most 2 million characters of a text are tokenised, in pieces of bounded size; a longer text is
        truncated there.
        """
        size = self.max_length * _CHARACTERS_PER_TOKEN
        pieces = [text if len(text) <= size else text[: _space_run(text[:size])] for text in texts]
        with translated_errors(_FAILED, ModelOutputError):
            encoded = self._backend.encode_batch_fast(pieces, add_special_tokens=False)
            return [
                self._with_special(plain, len(plain.ids) > self._room)
                if len(piece) == len(text) or len(plain.ids) > self._room
                else self._with_special(*self._encode_pieces(text))
                for text, piece, plain in zip(texts, pieces, encoded, strict=True)
            ]

    def encode_content(self, text: str) -> TokenIds:
        """Tokenise one text without special tokens, to `max_length` less the special tokens."""
        with translated_errors(_FAILED, ModelOutputError):
            plain, truncated = self._encode_pieces(text)
        return TokenIds(list(plain.ids[: self._room]), truncated)

    def _with_special(self, plain: tokenizers.Encoding, truncated: bool) -> TokenIds:
        if len(plain.ids) > self._room:
            plain.truncate(self._room)
        return TokenIds(self._backend.post_process(plain).ids, truncated)

    def _encode_pieces(self, text: str) -> tuple[tokenizers.Encoding, bool]:
        """Tokenise pieces until the model's input is full; also return whether the text continues."""
        parts: list[tokenizers.Encoding] = []
        count, end = 0, min(len(text), _MAX_CHARACTERS)
        for piece in self._pieces(text, end=end, size=self.max_length * _CHARACTERS_PER_TOKEN):
            parts.append(self._tokens_of(text, piece))
            count += piece.tokens
            if count > self._room:
                break
        merged = tokenizers.Encoding.merge(parts, False)
        return merged, count > self._room or end < len(text)

    def _pieces(self, text: str, *, end: int, size: int) -> Iterator[_Piece]:
        """Tokenise a text up to `end` in pieces of about `size` characters.

        A word that is longer than a piece is not split up to `_MAX_PIECE`.
        """
        start = 0
        while start < end or not start:
            piece = text[start : min(start + size, end)]
            plain = self._backend.encode(piece, add_special_tokens=False)
            cut, tokens = len(piece), len(plain.ids)
            if start + len(piece) < end:
                cut = _space_run(piece) or _last_word(plain)
                if not cut and size < _MAX_PIECE:
                    size = min(size * 8, _MAX_PIECE)  # one word so far: it must not be split
                    continue
                cut = cut or len(piece)
                tokens = sum(1 for first, _ in plain.offsets if first < cut)
            yield _Piece(start, start + cut, plain, tokens)
            start += cut
            if not cut:
                return

    def _tokens_of(self, text: str, piece: _Piece) -> tokenizers.Encoding:
        """Return the tokens of a piece alone, without those behind its end."""
        if piece.tokens == len(piece.encoded.ids):
            return piece.encoded
        # Not truncated: the tokens that are cut off would stay in `overflowing`, and merging combines the
        # overflow of all pieces, which takes time that is exponential in their number.
        return self._backend.encode(text[piece.start : piece.end], add_special_tokens=False)

    def decode(self, ids: Sequence[int]) -> str:
        """Join vocabulary entries to text; one id returns the entry itself.

        Raises:
            InputError: If one is not an int, or no entry has that id.
        """
        known = checked_ids(ids)
        self.tokens(known)
        return str(self._backend.decode(known, skip_special_tokens=False))


def _groups(texts: Sequence[str]) -> Iterator[list[str]]:
    """Yield texts in groups of about `_MAX_PIECE` characters, a longer text alone."""
    group: list[str] = []
    characters = 0
    for text in texts:
        if group and characters + len(text) > _MAX_PIECE:
            yield group
            group, characters = [], 0
        group.append(text)
        characters += len(text)
    if group:
        yield group


def _space_run(piece: str) -> int:
    """Return where the last run of whitespace begins, which no token crosses; 0 if there is none."""
    words = piece.rstrip()
    if len(words) < len(piece):
        return len(words)
    end = len(words)
    while end and not words[end - 1].isspace():
        end -= 1
    return len(words[:end].rstrip())


def _last_word(plain: tokenizers.Encoding) -> int:
    """Return where the last word begins, which may continue after the piece; 0 if it is the only one."""
    if not plain.ids:
        return 0
    last = plain.word_ids[-1]
    return next(first for (first, _), word in zip(plain.offsets, plain.word_ids, strict=True) if word == last)


def check_text(text: object, position: int) -> None:
    """Check that a text can be tokenised.

    Raises:
        InputError: If it is not a str, or has a lone surrogate: half of a character, which no file and no
            engine can store.
    """
    if not isinstance(text, str):
        raise InputError(
            f"The text at position {position} is {type_name(text)}, expected str. Convert it or remove it."
        )
    if text.isascii():
        return
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"The text at position {position} has a lone surrogate (U+{ord(text[error.start]):04X} at "
            f"character {error.start}), which is half of a character. Read the text with the right encoding, "
            f"or replace it with text.encode('utf-16', 'surrogatepass').decode('utf-16', 'replace')."
        ) from error


def checked_texts(texts: object) -> list[str]:
    """Return texts that can be tokenised as a list.

    Raises:
        InputError: If they are no list, or one is no such text; see `check_text`.
    """
    if isinstance(texts, str | bytes | bytearray) or not isinstance(texts, Iterable):
        raise InputError(f"The texts are {type_name(texts)}, expected a list of str.")
    checked = list(texts)
    for position, text in enumerate(checked):
        check_text(text, position)
    return checked


def checked_ids(ids: object) -> list[int]:
    """Return token ids as ints, also numpy's.

    Raises:
        InputError: If they are no list of ints; a bool is none.
    """
    if isinstance(ids, str | bytes | bytearray) or not isinstance(ids, Iterable):
        raise InputError(f"The token ids are {type_name(ids)}, expected a list of ints.")
    checked = []
    for id in ids:
        if not isinstance(id, Integral) or isinstance(id, bool):
            raise InputError(f"The token id {id!r} is {type_name(id)}, expected an int.")
        checked.append(int(id))
    return checked


def _pad_id(backend: tokenizers.Tokenizer) -> int:
    if backend.padding is not None:
        return int(backend.padding["pad_id"])
    named = (backend.token_to_id(token) for token in ("[PAD]", "<pad>"))
    return next((int(token_id) for token_id in named if token_id is not None), 0)
