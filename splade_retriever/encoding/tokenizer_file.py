"""Checks a `tokenizer.json`, which may come from somebody else, and translates the library's errors."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from splade_retriever.errors import ModelFilesError, SpladeError

__all__ = ["check_expansion", "translated_errors"]

_MAX_EXPANSION: Final = 64
"""Characters that one character of a text may become; the largest in Unicode's own normal forms is 18."""
_MAX_WORD_CHARACTERS: Final = 10_000
"""WordPiece needs the square of a word's length in time; published models stop at 100."""


def check_expansion(tokenizer: Mapping[str, Any]) -> None:
    """Check that no normaliser multiplies a text, and no word takes unbounded time.

    Args:
        tokenizer: The content of a `tokenizer.json`.

    Raises:
        ModelFilesError: If a text could become more than 64 times as long, or words have no limit.
    """
    factor = _expansion(tokenizer.get("normalizer"))
    if factor > _MAX_EXPANSION:
        raise ModelFilesError(
            f"Its normalizer makes a text up to {factor:.3g} times as long, and at most {_MAX_EXPANSION} "
            f"times is accepted. Do not trust this tokenizer."
        )
    model = tokenizer.get("model")
    limit = model.get("max_input_chars_per_word", 100) if isinstance(model, Mapping) else 100
    if not isinstance(limit, int) or limit > _MAX_WORD_CHARACTERS:
        raise ModelFilesError(
            f"Its max_input_chars_per_word is {limit!r}, expected an int of at most "
            f"{_MAX_WORD_CHARACTERS:,}. Do not trust this tokenizer."
        )


def _expansion(normalizer: object) -> float:
    """Return by what factor a normaliser can lengthen a text."""
    if not isinstance(normalizer, Mapping):
        return 1.0
    parts = normalizer.get("normalizers")
    if isinstance(parts, list):
        return math.prod(_expansion(part) for part in parts)
    kind = normalizer.get("type")
    if kind == "Replace":
        pattern, content = normalizer.get("pattern"), str(normalizer.get("content", ""))
        literal = pattern.get("String") if isinstance(pattern, Mapping) else None
        # A regular expression can match between any two characters.
        return max(1.0, len(content) / len(literal)) if literal else 1.0 + len(content)
    if kind == "Prepend":
        return 1.0 + len(str(normalizer.get("prepend", "")))
    if kind == "Precompiled":
        return _precompiled_expansion(str(normalizer.get("precompiled_charsmap", "")))
    return 1.0


def _precompiled_expansion(charsmap: str) -> float:
    """Return the length of the longest replacement in a SentencePiece map: a trie, then texts with NUL."""
    try:
        content = base64.b64decode(charsmap)
    except ValueError:
        return 1.0  # the library refuses it
    replacements = content[4 + int.from_bytes(content[:4], "little") :].split(b"\0")
    return float(max(1, *map(len, replacements)))


@contextmanager
def translated_errors(failed: str, kind: type[SpladeError]) -> Iterator[None]:
    """Raise `kind` for what the tokenizer library raises, a panic of its Rust code included."""
    try:
        yield
    except SpladeError as error:
        raise kind(f"{failed}: {error}") from error
    except (MemoryError, RecursionError) as error:
        raise kind(f"{failed}: {type(error).__name__}. Check that the folder is a complete model.") from error
    except Exception as error:
        raise kind(f"{failed}: {error}. Check that the folder is a complete model.") from error
    except BaseException as error:
        # A panic is no Exception and its class cannot be imported.
        if type(error).__name__ != "PanicException":
            raise
        raise kind(f"{failed}: {error}. Check that the folder is a complete model.") from error
