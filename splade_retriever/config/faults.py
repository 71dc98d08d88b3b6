"""Faults of a configuration as sentences: the path, what was found, what was expected."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from pydantic import BaseModel, ValidationError

from splade_retriever.errors import ConfigFault

__all__ = ["check_names", "faults_of", "wrong_argument"]

_EXPECTED: Final = {
    "location": "a folder or a URL",
    "collection": "a name",
    "model": "a name or a folder, or nothing",
    "second_model": "a name or a folder, or nothing",
    "encoder": "arguments of SparseTextEmbedding by name",
    "index": "arguments of SpladeIndex by name",
    "dense": "class, an import path, and args, arguments by name",
    "api_key_variable": "the name of an environment variable, or nothing",
    "k": "an int of 1 or more",
    "filter": "conditions by metadata key, or nothing",
    "mode": "'sparse', 'second', 'dense' or 'hybrid', or nothing",
    "fusion": "method, rrf_k, weights and depth, or nothing",
    "score_threshold": "a number, or nothing",
    "explain": "true or false",
    "origins": "true or false",
    "controls": "boost, require, exclude, expand and synonyms, or nothing",
}
_SHOWN: Final = ("k", "mode", "score_threshold")
"""Fields whose values are shown, because they cannot be secrets."""


class _PlacedError(ValueError):
    """A fault deeper in a field, with its path."""

    def __init__(self, path: tuple[str, ...], reason: str) -> None:
        super().__init__(reason)
        self.path = path


def wrong_argument(path: tuple[str, ...], expected: str) -> ValueError:
    """Return the error of a value that does not have the type of its argument."""
    return _PlacedError(
        path, f"has a wrong value for {'.'.join(path)}: {expected[:1].lower()}{expected[1:]}."
    )


def check_names(parent: str, values: Mapping[str, Any], allowed: Sequence[str]) -> None:
    """Check the names under a field.

    Raises:
        ValueError: If a name is not allowed; a similar one is suggested.
    """
    for name in values:
        if name not in allowed:
            raise _PlacedError((parent, name), _unknown_name((parent, name), allowed))


def faults_of(error: ValidationError, fields_of: type[BaseModel]) -> list[ConfigFault]:
    """Turn pydantic's errors into faults."""
    return [_fault(found, fields_of) for found in error.errors(include_url=False)]


def _fault(found: Mapping[str, Any], fields_of: type[BaseModel]) -> ConfigFault:
    path = tuple(str(part) for part in found["loc"] if part != "[key]")
    if found["type"] == "value_error":
        error = found["ctx"]["error"]
        return ConfigFault(error.path if isinstance(error, _PlacedError) else path, str(error))
    if found["type"] == "missing":
        return ConfigFault(path, f"has no {'.'.join(path)}, expected {_expected(path)}.")
    if found["type"] == "extra_forbidden":
        allowed = fields_of.model_fields if len(path) == 1 else ("class", "args")
        return ConfigFault(path, _unknown_name(path, list(allowed)))
    value = found["input"]
    if "[key]" in found["loc"]:
        return ConfigFault(
            path, f"has a key of type {type(value).__name__} in {'.'.join(path)}, expected a string."
        )
    if path[0] in _SHOWN and isinstance(value, int | float | str):
        shown = f"{path[0]}={value!r}"
    else:
        shown = f"a value of type {type(value).__name__} for {'.'.join(path)}"
    return ConfigFault(path, f"has {shown}, expected {_expected(path)}.")


def _expected(path: Sequence[str]) -> str:
    return _EXPECTED[path[0]]


def _unknown_name(path: Sequence[str], allowed: Iterable[str]) -> str:
    names = list(allowed)
    similar = difflib.get_close_matches(path[-1], names, n=1)
    hint = f" Did you mean {similar[0]!r}?" if similar else ""
    return f"has the unknown name {'.'.join(path)!r}; allowed: {', '.join(names)}.{hint}"
