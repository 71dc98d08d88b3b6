"""Checks of arguments and JSON values that every layer shares.

A `checked_*` function returns the value or raises `InputError`. A `*_fault` function returns the sentence
without its full stop, or None, for callers that collect faults or add where the value came from.
"""

import ipaddress
import math
import os
import re
from collections.abc import Mapping
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Final, TypeGuard, overload

from splade_retriever.errors import InputError

__all__ = [
    "MAX_DEPTH",
    "checked_float",
    "checked_int",
    "copied_json",
    "is_finite",
    "is_loopback",
    "is_number",
    "is_same_json",
    "is_url",
    "json_fault",
    "loopback_names",
    "number_of_json",
    "plain",
    "resolved_location",
    "text_fault",
    "type_name",
]

MAX_DEPTH: Final = 100
"""Levels of nesting that a stored JSON value may have. Storage engines parse 128 levels at most, and refuse
to open what is deeper; the difference is for the levels that wrap a value when it is stored."""
_INT64: Final = 2**63
_COPIED_DEPTH: Final = 20
"""Levels of nesting that `copied_json` reads; far from Python's limit of recursion."""
_SCHEMES: Final = ("http://", "https://")
_USER_IN_URL: Final = re.compile(r"https?://[^/?#]*@")
_HOST_AND_PORT: Final = re.compile(r"(localhost|[\w-]+(\.[\w-]+)*|\[[0-9a-fA-F:.]+\]):\d{1,5}/?")


@overload
def checked_int(name: str, value: object, *, minimum: int) -> int: ...


@overload
def checked_int(name: str, value: object, *, minimum: int, optional: bool) -> int | None: ...


def checked_int(name: str, value: object, *, minimum: int, optional: bool = False) -> int | None:
    """Return an int, also of one of numpy's.

    Args:
        name: What the message calls the value, such as "k".
        value: The value.
        minimum: The smallest accepted value.
        optional: True to accept None too.

    Raises:
        InputError: The value is no int of at least `minimum`; a bool is none.
    """
    if value is None and optional:
        return None
    if not isinstance(value, Integral) or isinstance(value, bool) or value < minimum:
        alternative = ", or None" if optional else ""
        raise InputError(f"{name} is {value!r}, expected an int of {minimum} or more{alternative}.")
    return int(value)


def checked_float(
    name: str, value: object, expected: str, *, minimum: float = -math.inf, maximum: float = math.inf
) -> float:
    """Return a finite number as a float, also one of numpy's.

    Args:
        name: What the message calls the value, such as "min_weight".
        value: The value.
        expected: What the message says instead: "a number from 0 to 1".
        minimum: The smallest accepted value.
        maximum: The largest accepted value.

    Raises:
        InputError: The value is no such number; a bool is none.
    """
    if is_number(value) and is_finite(value) and minimum <= value <= maximum:
        return float(value)
    raise InputError(f"{name} is {value!r}, expected {expected}.")


def is_number(value: object) -> TypeGuard[float]:
    """Return whether a value is an int or a float, of Python or numpy, and no bool."""
    return isinstance(value, Real) and not isinstance(value, bool)


def is_finite(value: float) -> bool:
    """Return whether a number is finite as a float, which an int of 400 digits is not."""
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def number_of_json(value: object) -> object:
    """Return a value as JSON has it, for a field of pydantic that is a number.

    Raises:
        ValueError: The value is a bool, which pydantic would take for 0 or 1.
    """
    value = plain(value)
    if isinstance(value, bool):
        raise ValueError(f"is {value}, expected a number")
    return value


def is_url(location: object) -> bool:
    """Return whether a location is the URL of a server, not the path of a folder."""
    return str(location).startswith(_SCHEMES)


def resolved_location(location: str | Path) -> str:
    """Return the location of an index: a folder with `~` replaced by the home folder, the rest unchanged.

    Raises:
        InputError: The location is a URL with a user name or a password, or a host and a port without a
            scheme.
    """
    text = str(location)
    if _USER_IN_URL.match(text):
        raise InputError(
            "The location is a URL with a user name or a password, which messages would show. Remove it, and "
            "pass the key of the server as api_key=."
        )
    if is_url(text) or text == ":memory:":
        return text
    if _HOST_AND_PORT.fullmatch(text) and not Path(text).exists():
        raise InputError(
            f"The location {text!r} is a host and a port without a scheme. Write http://{text} for a Qdrant "
            f"server, or ./{text} for a folder."
        )
    return os.path.expanduser(text)


def is_loopback(host: str) -> bool:
    """Return whether only this machine can be reached by a host, which is a name or an address.

    These are localhost, names that end in .localhost, and loopback addresses; an IPv6 address may have
    brackets. Other names are not looked up.

    Source:
        The names: RFC 6761, section 6.3.
    """
    name = host.lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    if name.startswith("[") and name.endswith("]"):
        name = name[1:-1]
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:  # another name
        return False


def loopback_names(host: str) -> tuple[str, ...]:
    """Return the hosts, as in a URL, that requests to a server on a loopback host may name.

    A page of another site that resolves its name to this machine (DNS rebinding) names another one.
    """
    in_url = f"[{host}]" if ":" in host and not host.startswith("[") else host
    return tuple(dict.fromkeys(("localhost", "127.0.0.1", "[::1]", in_url)))


def type_name(value: object) -> str:
    """Return the name of a value's type with its article, for messages: "an int", "a list"."""
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeioAEIO' else 'a'} {name}"


def plain(value: Any) -> Any:
    """Convert numpy's numbers, bools and strings to Python's, at any depth of dicts and lists.

    Other values are returned as they are, and numpy is not imported.
    """
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(plain(item) for item in value) if type(value) in (list, tuple) else value
    is_scalar = type(value).__module__ == "numpy" and getattr(value, "ndim", None) == 0
    return value.item() if is_scalar else value


def text_fault(name: str, value: object) -> str | None:
    """Return why a value is not valid text: it is no string, or holds half a surrogate pair."""
    if not isinstance(value, str):
        return f"{name} is {type_name(value)}, expected a string"
    if value.isascii():
        return None
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        unit = f"U+{ord(value[error.start]):04X}"
        return (
            f"{name} holds half a surrogate pair ({unit} at character {error.start}), which is not valid "
            "text; decode its source with errors='replace'"
        )
    return None


def is_same_json(one: object, other: object) -> bool:
    """Return whether two JSON values are equal in value and kind: 1, 1.0 and True are three values."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(is_same_json(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(is_same_json, one, other))
    return type(one) is type(other) and one == other


def copied_json(value: dict[Any, Any], *, depth: int = _COPIED_DEPTH) -> dict[str, Any] | None:
    """Copy a dict that can be stored and read back equal; None where `json_fault` must look closer.

    This is the quick way for the usual case: a value of exactly the types that JSON has, nested a few levels.
    """
    copied: dict[str, Any] = {}
    for key, item in value.items():
        if type(key) is not str or not (key.isascii() or text_fault("key", key) is None):
            return None
        found = _copied_item(item, depth)
        if found is _NOT_COPIED:
            return None
        copied[key] = found
    return copied


class _NotCopied:
    pass


_NOT_COPIED: Final = _NotCopied()


def _copied_item(item: Any, depth: int) -> Any:
    kind = type(item)
    if kind is str:
        good = item.isascii() or text_fault("value", item) is None
    elif kind is int:
        good = -_INT64 <= item < _INT64
    elif kind is float:
        good = math.isfinite(item)
    elif kind is bool or item is None:
        good = True
    elif depth == 0:
        good = False
    elif kind is dict:
        copied = copied_json(item, depth=depth - 1)
        return _NOT_COPIED if copied is None else copied
    elif kind is list:
        items = [_copied_item(part, depth - 1) for part in item]
        return _NOT_COPIED if any(part is _NOT_COPIED for part in items) else items
    else:
        good = False
    return item if good else _NOT_COPIED


def json_fault(path: str, value: object, *, max_depth: int = MAX_DEPTH) -> str | None:
    """Return why a value cannot be stored and read back equal, or None.

    Values that come back equal are JSON: dicts with string keys, lists, strings, 64-bit ints, finite floats,
    bools and None, nested at most `max_depth` levels deep.

    Args:
        path: Name of the value, extended by the path of the part at fault: `metadata.authors[2]`.
        value: The value.
        max_depth: Levels of dicts and lists.
    """
    if isinstance(value, list | Mapping):
        if max_depth == 0:
            short = path if len(path) <= 80 else f"{path[:60]}...{path[-15:]}"
            return (
                f"{short} is nested more than {MAX_DEPTH} levels deep; store it flatter or as a JSON string"
            )
        return _fault_inside(path, value, max_depth - 1)
    fault: str | None = None
    if isinstance(value, str):
        fault = text_fault(path, value)
    elif isinstance(value, float) and not math.isfinite(value):
        fault = f"{path} is {value}, expected a finite number or None"
    elif isinstance(value, int) and not -_INT64 <= value < _INT64:
        fault = f"{path} is {value}, beyond 64 bits; store it as a string"
    elif not isinstance(value, int | float | None):
        fault = (
            f"{path} is {type_name(value)}, expected a JSON value: dict, list, str, int, float, bool "
            "or None (for a datetime use .isoformat(), for a tuple a list)"
        )
    return fault


def _fault_inside(path: str, value: "list[object] | Mapping[object, object]", max_depth: int) -> str | None:
    if isinstance(value, list):
        faults = (json_fault(f"{path}[{n}]", item, max_depth=max_depth) for n, item in enumerate(value))
        return next((found for found in faults if found), None)
    for key, item in value.items():
        if not isinstance(key, str):
            return f"{path} has the key {key!r}, {type_name(key)}, expected a string"
        fault = text_fault(f"{path} key", key) or json_fault(f"{path}.{key}", item, max_depth=max_depth)
        if fault:
            return fault
    return None
