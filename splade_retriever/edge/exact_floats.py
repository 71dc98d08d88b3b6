"""Payload floats that come back as they were written.

The engine, and so a server, keeps payloads as JSON and parses the numbers with one rounded multiplication or
division. About a fifth of the floats with 16 or 17 digits change in the last bits, and again each time the
engine rewrites their payload. Next to such a float, a payload gets a key with its exact value as a string,
which reading removes: {"price": 0.30000000000000004, "price#exact": "f64:0.30000000000000004"}. Filters
accept all values that the engine may hold for a bound. A key of the user that is named like this stays: its
float then has no exact value, and a string that starts like one is stored with "f64:" before it.
"""

import json
import math
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final

__all__ = ["exact_path", "float_as_stored", "stored_bounds", "with_exact_floats", "without_exact_floats"]

_SUFFIX: Final = "#exact"
_PREFIX: Final = "f64:"
_MAX_POWER: Final = 308
_REWRITES: Final = 16
"""A filter finds a float after up to this many rewrites of its payload."""
_MAX_DRIFT: Final = 2.0**-44
"""Largest relative difference at which a stored float counts as the exact one: hundreds of rewrites."""
_LAST_KEY: Final = re.compile(r'(.*?)("[^"]*"|[^.\[\]"]+)((?:\[\d*\])*)', re.DOTALL)


def float_as_stored(value: float) -> float:
    """Return the float that the engine reads after it wrote this one.

    Source:
        serde_json 1.0, `f64_from_parts`: the digits as an integer, rounded to a double, times or divided by
        a power of ten.
    """
    if not value or (value.is_integer() and abs(value) < 2**49):
        return value
    sign, digits, exponent = Decimal(repr(value)).as_tuple()
    if len(digits) <= 15 and -22 <= int(exponent) <= 22:
        return value  # both operands are exact, and so is the result
    result, power = float(int("".join(map(str, digits)))), int(exponent)
    while power < -_MAX_POWER and result:
        result /= 1e308
        power += _MAX_POWER
    scale = float(f"1e{abs(power)}")
    result = result / scale if power < 0 else result * scale
    return -result if sign else result


def with_exact_floats(payload: Mapping[str, Any], *, merged: bool = False) -> dict[str, Any]:
    """Add the exact values of floats that the engine changes.

    Args:
        payload: JSON values.
        merged: Whether the payload is merged into a stored one. The exact values of replaced floats are then
            overwritten.
    """
    stored: dict[str, Any] = {}
    for key, value in payload.items():
        stored[key] = _PREFIX + value if _is_companion(key, value) else _inside(value)
        if key + _SUFFIX in payload:
            continue
        exact = _exact(value)
        if exact is not None:
            stored[key + _SUFFIX] = _PREFIX + json.dumps(exact)
        elif merged and isinstance(value, float | list):
            stored[key + _SUFFIX] = _PREFIX
    return stored


def _is_companion(key: str, value: Any) -> bool:
    """Return whether an entry has the form in which the exact value of another one is stored."""
    return key.endswith(_SUFFIX) and isinstance(value, str) and value.startswith(_PREFIX)


def _inside(value: Any) -> Any:
    if isinstance(value, Mapping):
        return with_exact_floats(value)
    return [_inside(item) for item in value] if isinstance(value, list) else value


def _exact(value: Any) -> Any:
    """Return a float that the engine changes, or a list with them and None for other items; else None."""
    if isinstance(value, float):
        return None if float_as_stored(value) == value else value
    if isinstance(value, list):
        items = [_exact(item) for item in value]
        return items if any(item is not None for item in items) else None
    return None


def without_exact_floats(stored: Any) -> Any:
    """Return a payload with its exact floats, as it was before `with_exact_floats`."""
    if isinstance(stored, list):
        return [without_exact_floats(item) for item in stored]
    if not isinstance(stored, dict):
        return stored
    payload = {}
    for key, value in stored.items():
        if _is_companion(key, value):
            own = value[len(_PREFIX) :]
            if own.startswith(_PREFIX):
                payload[key] = own
            continue
        found = stored.get(key + _SUFFIX)
        value = without_exact_floats(value)  # noqa: PLW2901 - the same value, restored
        if isinstance(found, str) and found.startswith(_PREFIX):
            value = _restored(value, _parsed(found[len(_PREFIX) :]))  # noqa: PLW2901
        payload[key] = value
    return payload


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _restored(value: Any, exact: Any) -> Any:
    if isinstance(value, float) and isinstance(exact, float):
        return exact if math.isclose(value, exact, rel_tol=_MAX_DRIFT, abs_tol=5e-322) else value
    if isinstance(value, list) and isinstance(exact, list) and len(value) == len(exact):
        return [_restored(item, known) for item, known in zip(value, exact, strict=True)]
    return value


def exact_path(path: str) -> str | None:
    """Return the payload path of the exact values that belong to a path; None if the path is not valid."""
    parts = _LAST_KEY.fullmatch(path)
    return None if parts is None else f'{parts[1]}"{parts[2].strip(chr(34))}{_SUFFIX}"'


def stored_bounds(value: float) -> tuple[float, float]:
    """Return the smallest and the largest float that the engine may hold for one."""
    low = high = value
    for _ in range(_REWRITES):
        changed = float_as_stored(value)
        if changed == value:
            break
        value = changed
        low, high = min(low, value), max(high, value)
    return low, high
