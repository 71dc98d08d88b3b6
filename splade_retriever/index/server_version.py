"""Conditions of filters that older servers do not have."""

from collections.abc import Callable, Iterator
from typing import Any, Final

from qdrant_client import models

from splade_retriever.errors import NotSupportedError

__all__ = ["check_conditions", "release_of"]

_SINCE_1_19: Final[dict[type, str]] = {
    models.MatchPrefix: "a match by prefix",
    models.MatchSubstring: "a match by substring",
    models.SliceCondition: "a slice",
}


def check_conditions(filter: models.Filter | None, read_version: Callable[[], str]) -> None:
    """Check that a server has all conditions of a filter.

    Args:
        filter: The filter.
        read_version: Asks the server for its version; called only if the answer matters.

    Raises:
        NotSupportedError: The server is too old for a condition.
    """
    newer = next((_SINCE_1_19[type(part)] for part in _parts(filter) if type(part) in _SINCE_1_19), None)
    if newer is None:
        return
    version = read_version()
    if release_of(version) < (1, 19):
        raise NotSupportedError(
            f"The filter has {newer}, which needs a Qdrant server of version 1.19 or newer; this one has "
            f"version {version}. Use another condition, or a newer server."
        )


def _parts(condition: Any) -> Iterator[Any]:
    """Walk over the conditions of a filter and their matches."""
    if isinstance(condition, list):
        for part in condition:
            yield from _parts(part)
    elif isinstance(condition, models.Filter):
        minimum = None if condition.min_should is None else condition.min_should.conditions
        for group in (condition.must, condition.should, condition.must_not, minimum):
            yield from _parts(group)
    elif isinstance(condition, models.NestedCondition):
        yield from _parts(condition.nested.filter)
    else:
        yield condition
        yield getattr(condition, "match", None)


def release_of(version: str) -> tuple[int, int]:
    """Return the first two numbers of a version."""
    major, minor = version.split(".")[:2]
    return int(major), int(minor)
