"""Environment variables in configurations: `${NAME}` in strings, and `SPLADE_...` for fields."""

import json
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from splade_retriever.config.files import KeyPath
from splade_retriever.errors import ConfigFault, ConfigurationError

__all__ = ["expand", "fields_of_environment", "unset_variables"]

_VARIABLE: Final = re.compile(r"\$\{(\w+)(?::-([^}]*))?\}|\$\$")
_JSON_FIELDS: Final = (
    "filter",
    "controls",
    "encoder",
    "index",
    "fusion",
    "dense",
    "k",
    "score_threshold",
    "explain",
    "origins",
)


def expand(value: Any, *, path: KeyPath = ()) -> Any:
    """Replace `${NAME}` and `${NAME:-default}` in all strings of a value; `$$` is a literal `$`.

    Raises:
        ConfigurationError: If a variable without a default is not set.
    """
    faults = list(unset_variables(value, path=path))
    if faults:
        raise ConfigurationError.of(faults)
    if isinstance(value, str):
        return _VARIABLE.sub(_value_of, value)
    if isinstance(value, Mapping):
        return {name: expand(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [expand(inner) for inner in value]
    return value


def unset_variables(value: Any, *, path: KeyPath = ()) -> Iterator[ConfigFault]:
    """Yield a fault for each variable without a default that is not set."""
    if isinstance(value, str):
        for found in _VARIABLE.finditer(value):
            if found[1] and found[2] is None and found[1] not in os.environ:
                yield ConfigFault(
                    path,
                    f"names the environment variable {found[1]}, which is not set. Set it, or write "
                    f"${{{found[1]}:-default}}.",
                )
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            yield from unset_variables(inner, path=(*path, str(name)))
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from unset_variables(inner, path=path)


def fields_of_environment(names: Iterator[str] | list[str], *, prefix: str) -> dict[str, Any]:
    """Return the fields that are set as `PREFIX` + NAME; other values than strings are written as JSON.

    Raises:
        ConfigurationError: If such a value is not JSON.
    """
    values: dict[str, Any] = {}
    for name in names:
        variable = prefix + name.upper()
        text = os.environ.get(variable)
        if text is None:
            continue
        if name not in _JSON_FIELDS:
            values[name] = text
            continue
        try:
            values[name] = json.loads(text)
        except (ValueError, RecursionError):
            raise ConfigurationError(
                f"The environment variable {variable} is not JSON, expected a number, true, false or an "
                "object."
            ) from None
    return values


def _value_of(found: re.Match[str]) -> str:
    if not found[1]:
        return "$"
    return os.environ.get(found[1], found[2] or "")
