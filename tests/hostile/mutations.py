"""Random damage to real files and JSON values."""

import copy
import json
import random
import struct
from collections.abc import Callable
from typing import Any, Final

__all__ = ["damaged", "damaged_json", "hostile_text"]

HOSTILE_VALUES: Final[tuple[Any, ...]] = (
    *(None, True, False, 0, -1, 1, 2**31, 2**63, 2**64, -(2**63), 1e308, 1e-320, float("inf"), float("nan")),
    *("", " ", "\0", "../../etc/passwd", "/etc/passwd", "C:\\x", "\u200b\u200d\ufeff", "${HOME}", "a" * 5000),
    *([], {}, [[]], {"": ""}, "moon", "[UNK]", "WordPiece", "Regex", "(x+x+)+y", "http://[::1", "é" * 9),
)
_INTEGERS: Final = (0, 1, -1, 127, 255, 2**15, 2**31 - 1, -(2**31), 2**32 - 1)


def damaged(content: bytes, draw: random.Random) -> bytes:
    """Truncate, overwrite, insert, remove, repeat or join parts of a file, one to four times."""
    changes: list[Callable[[bytearray, random.Random], bytearray]] = [
        *(_flip, _flip, _integer, _truncate, _insert, _remove, _repeat, _zeros),
    ]
    changed = bytearray(content)
    for _ in range(draw.randint(1, 4)):
        changed = draw.choice(changes)(changed, draw)
    return bytes(changed)


def _place(content: bytearray, draw: random.Random) -> int:
    # Headers and footers hold sizes and offsets.
    size = len(content)
    return draw.choice(
        [draw.randint(0, size), draw.randint(0, min(size, 64)), max(0, size - draw.randint(0, 64))]
    )


def _flip(content: bytearray, draw: random.Random) -> bytearray:
    if content:
        content[min(_place(content, draw), len(content) - 1)] ^= 1 << draw.randrange(8)
    return content


def _integer(content: bytearray, draw: random.Random) -> bytearray:
    place = _place(content, draw)
    number = struct.pack(draw.choice(["<q", ">q"]), draw.choice(_INTEGERS))[: draw.choice([1, 4, 8])]
    content[place : place + len(number)] = number
    return content


def _truncate(content: bytearray, draw: random.Random) -> bytearray:
    return content[: _place(content, draw)]


def _insert(content: bytearray, draw: random.Random) -> bytearray:
    place = _place(content, draw)
    content[place:place] = draw.randbytes(draw.choice([1, 4, 100, 5000]))
    return content


def _remove(content: bytearray, draw: random.Random) -> bytearray:
    place = _place(content, draw)
    del content[place : place + draw.choice([1, 4, 100])]
    return content


def _repeat(content: bytearray, draw: random.Random) -> bytearray:
    place = _place(content, draw)
    content[place:place] = content[place : place + 200] * draw.choice([1, 50])
    return content


def _zeros(content: bytearray, draw: random.Random) -> bytearray:
    place = _place(content, draw)
    content[place : place + 64] = bytes(len(content[place : place + 64]))
    return content


def damaged_json(value: Any, draw: random.Random) -> Any:
    """Replace, remove, repeat or rename some parts of a JSON value; the value itself is not changed."""
    value = json.loads(json.dumps(value))
    for _ in range(draw.randint(1, 3)):
        value = _changed(value, draw)
    return value


def _changed(value: Any, draw: random.Random) -> Any:
    if not isinstance(value, dict | list) or not value or draw.random() < 0.1:
        return hostile_value(value, draw)
    key: Any = draw.choice(list(value)) if isinstance(value, dict) else draw.randrange(len(value))
    how = draw.randrange(8)
    if how == 0:
        del value[key]
    elif how == 1 and isinstance(value, dict):
        value[draw.choice(["", "type", "moon", "x" * 300])] = value[key]
    elif how == 1 and isinstance(value, list):
        value *= draw.choice([2, 100])
    else:
        value[key] = _changed(value[key], draw)
    return value


def hostile_value(value: Any, draw: random.Random) -> Any:
    if isinstance(value, str) and draw.random() < 0.5:
        return hostile_text(draw)
    if draw.random() < 0.1:
        return _nested(value, draw.choice([10, 150]))
    return copy.deepcopy(draw.choice(HOSTILE_VALUES))


def _nested(value: Any, depth: int) -> Any:
    for _ in range(depth):
        value = [value]
    return value


def hostile_text(draw: random.Random) -> str:
    """Return text with lone surrogates, invisible and control characters, or of unusual length."""
    parts = ["moon", "\ud800", "\udfff", "\u200b", "\u200d", "\ufeff", "\0", "\x1b[31m", "\u202e", "é", "é"]
    parts += [
        "\U0001f680",
        "\n",
        "\r",
        "\t",
        " ",
        "ﬁre",
        "\uff4d\uff4f\uff4f\uff4e",
        "\u0300" * 50,
        "a" * 3000,
        "##ing",
        "[CLS]",
    ]
    return "".join(draw.choices(parts, k=draw.choice([1, 3, 20])))
