"""Makes control characters of foreign text visible before it is printed.

A document, a file name or a server's message may contain terminal escapes, which could hide output, write to
the clipboard or change the window's title.
"""

import re
from typing import Final

__all__ = ["printable", "printable_json"]

_INVISIBLE: Final = re.compile(
    # C0 without tab and newline, DEL and C1; marks that change the direction of text, and tag characters.
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\U000e0000-\U000e007f]"
)


def printable(text: str) -> str:
    """Return a text with control characters as escapes such as \\\\x1b; tabs and newlines stay."""
    return _INVISIBLE.sub(lambda match: _escape(match[0]), text)


def printable_json(document: str) -> str:
    """Return a JSON document with control characters in its strings as JSON escapes such as \\\\u009b."""
    return _INVISIBLE.sub(lambda match: _json_escape(match[0]), document)


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def _json_escape(character: str) -> str:
    units = character.encode("utf-16-be").hex()
    return "".join(f"\\u{units[start : start + 4]}" for start in range(0, len(units), 4))
