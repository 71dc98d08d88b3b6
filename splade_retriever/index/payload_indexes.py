"""Filters that find the same documents with payload indexes and without.

An index of Qdrant answers some conditions in another way than a comparison with the payload:

- "integer": 2.0 counts as 2, and 2.5 is in no range.
- "uuid": strings in another notation of the same UUID are equal.
- "integer", "float" and "datetime": a range of numbers finds times, a range of times finds numbers, and a
  comparison with one string that is a UUID finds nothing; of two bounds on one side, one is not compared.
- "text": a server before 1.19.1 takes `$text` for a substring where there is no such index.

So metadata fields get an index of another kind, or a filter gets conditions that only the payload decides, or
it is refused.
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from qdrant_client import models

from splade_retriever.errors import FilterError, NotSupportedError, ServerError, StorageError
from splade_retriever.index.payload import PACKAGE_KEY

__all__ = ["TEXT_INDEX", "PayloadIndexes", "exact_kind", "filtered_paths"]

TEXT_INDEX: Final = models.TextIndexParams(
    type=models.TextIndexType.TEXT, tokenizer=models.TokenizerType.WORD, lowercase=True
)
"""Words, in lower case, as the embedded engine matches them without an index."""
_EXACT_KINDS: Final = {
    models.PayloadSchemaType.INTEGER: models.PayloadSchemaType.FLOAT,
    models.PayloadSchemaType.UUID: models.PayloadSchemaType.KEYWORD,
}
_NUMBER_KINDS: Final = (models.PayloadSchemaType.INTEGER, models.PayloadSchemaType.FLOAT)
_SORTED_KINDS: Final = (*_NUMBER_KINDS, models.PayloadSchemaType.DATETIME)
_SCHEMA_VALID_S: Final = 1.0
"""Seconds after which the payload indexes are read again: another process may have created one."""
_MAX_POINT_RANGES: Final = 16
"""Up to this many integers of `$in` are looked up one by one in an index, more by one range around them."""
_NO_UUID: Final = "not a UUID of splade-retriever"
"""Next to such a string, an index of UUIDs does not answer and the strings themselves are compared."""
_GROUPS: Final = ("must", "should", "must_not")

logger = logging.getLogger(__name__)


def exact_kind(kind: models.PayloadSchemaType, *, strict: bool) -> models.PayloadSchemaType:
    """Return the kind of index that is created for a requested one, so that no filter changes its meaning.

    Args:
        kind: The requested kind.
        strict: Whether the server refuses conditions without an index of their kind, as its strict mode can.
            Integers then need an index of integers.
    """
    if strict and kind is models.PayloadSchemaType.INTEGER:
        return kind
    return _EXACT_KINDS.get(kind, kind)


def filtered_paths(filter: models.Filter | None) -> set[str]:
    """Return the payload paths that a filter has conditions on and that an index may answer."""
    return {condition.key for condition in _field_conditions(filter)} if filter is not None else set()


class PayloadIndexes:
    """The payload indexes of one collection, as filters need them."""

    def __init__(
        self,
        collection: str,
        *,
        schema: Callable[[], Mapping[str, models.PayloadIndexInfo]],
        create: Callable[[str, models.TextIndexParams], object] | None,
    ) -> None:
        """Keep how to reach the collection; no request is sent.

        Args:
            collection: Its name, for messages.
            schema: Reads its payload indexes: path -> index.
            create: Creates a payload index for a path; None for an engine that needs none for `$text`.
        """
        self._collection = collection
        self._read_schema = schema
        self._create = create
        self._schema: Mapping[str, models.PayloadIndexInfo] = {}
        self._valid_until = 0.0
        self._reported: frozenset[str] = frozenset()

    def exact(self, filter: models.Filter | None) -> models.Filter | None:
        """Return a filter that means the same whichever payload indexes there are.

        Creates the text indexes that it needs.

        Raises:
            FilterError: An index changes what a condition means, or a text index cannot be created.
        """
        conditions = [] if filter is None else list(_field_conditions(filter))
        if filter is None or not conditions:
            return filter
        if time.monotonic() > self._valid_until:
            self._schema = self._read_schema()
            self._valid_until = time.monotonic() + _SCHEMA_VALID_S
        if self._create is not None:
            for path in {item.key for item in conditions if isinstance(item.match, models.MatchText)}:
                self._ensure_text_index(path)
        if not any(item.key in self._schema for item in conditions):
            return filter
        exact: models.Filter = self._exact(filter)
        return exact

    def expire(self) -> None:
        """Read the indexes again before the next filter."""
        self._valid_until = 0.0

    # -- text indexes ----------------------------------------------------------------------------------------

    def _ensure_text_index(self, path: str) -> None:
        present = self._schema.get(path)
        if present is not None:
            if present.data_type is not models.PayloadSchemaType.TEXT:
                raise FilterError(
                    f"$text searches {path!r}, which has an index of kind {present.data_type.value!r} in "
                    f"collection {self._collection!r}; a server then compares substrings. Compare with "
                    "another operator, or replace the index by one of kind 'text'."
                )
            return
        assert self._create is not None
        try:
            self._create(path, TEXT_INDEX)
        except (NotSupportedError, ServerError, StorageError) as error:
            raise FilterError(
                f"$text searches {path!r}, which has no text index in collection {self._collection!r}, and "
                f"creating one failed: {error} Create it with a key that may: client.create_payload_index("
                f"{self._collection!r}, {path!r}, models.TextIndexParams(type='text', tokenizer='word', "
                "lowercase=True))."
            ) from error

    # -- other indexes ---------------------------------------------------------------------------------------

    def _exact(self, condition: Any) -> Any:
        if isinstance(condition, models.FieldCondition):
            index = self._schema.get(condition.key)
            return condition if index is None else self._exact_condition(condition, index.data_type)
        if not isinstance(condition, models.Filter):
            return condition  # a nested condition reads the payload
        changes: dict[str, Any] = {}
        for name in _GROUPS:
            group = getattr(condition, name)
            if isinstance(group, list):
                changes[name] = [self._exact(item) for item in group]
            elif group is not None:
                changes[name] = self._exact(group)
        if condition.min_should is not None:
            conditions = [self._exact(item) for item in condition.min_should.conditions]
            changes["min_should"] = condition.min_should.model_copy(update={"conditions": conditions})
        return condition.model_copy(update=changes)

    def _exact_condition(
        self, condition: models.FieldCondition, kind: models.PayloadSchemaType
    ) -> models.Condition:
        if condition.range is not None:
            self._check_range(condition, kind)
            return condition.model_copy(update={"range": _tightest(condition.range)})
        if kind is models.PayloadSchemaType.INTEGER:
            self._report_integer_index(condition.key)
        values = _matched(condition.match)
        integers = [item for item in values if isinstance(item, int) and not isinstance(item, bool)]
        strings = [item for item in values if isinstance(item, str)]
        if kind is models.PayloadSchemaType.FLOAT and integers:
            return models.Filter(must=[_near(condition.key, integers), condition])
        if kind is models.PayloadSchemaType.UUID and strings:
            return models.Filter(must=[condition, _any_string(condition.key, [*strings, _NO_UUID])])
        if kind in _SORTED_KINDS and strings:
            return _any_string(condition.key, strings)
        return condition

    def _check_range(self, condition: models.FieldCondition, kind: models.PayloadSchemaType) -> None:
        is_of_times = isinstance(condition.range, models.DatetimeRange)
        if kind in _NUMBER_KINDS if is_of_times else kind is models.PayloadSchemaType.DATETIME:
            compared, other = ("a time", "numbers") if is_of_times else ("a float or a range", "times")
            raise FilterError(
                f"The filter compares {condition.key!r} with {compared}, but collection "
                f"{self._collection!r} has an index of kind {kind.value!r} for it, in which the engine would "
                f"compare {other}. Compare it with {other}, or delete the index: "
                f"client.delete_payload_index({self._collection!r}, {condition.key!r})."
            )

    def _report_integer_index(self, path: str) -> None:
        if path in self._reported or path.startswith(f"{PACKAGE_KEY}."):
            return
        self._reported |= {path}
        logger.warning(
            "Collection %r has an index of kind integer for %r: filters find 2.0 where they ask for 2, and "
            "ranges leave out floats such as 2.5. If the field has floats, replace the index: call "
            "client.delete_payload_index(%r, %r) and open the index with indexed_fields.",
            self._collection,
            path,
            self._collection,
            path,
        )


def _field_conditions(condition: Any) -> Iterator[models.FieldCondition]:
    """Walk over the conditions that an index of their path may answer."""
    if isinstance(condition, list):
        for part in condition:
            yield from _field_conditions(part)
    elif isinstance(condition, models.FieldCondition):
        yield condition
    elif isinstance(condition, models.Filter):
        for part in (condition.must, condition.should, condition.must_not):
            yield from _field_conditions(part)
        if condition.min_should is not None:
            yield from _field_conditions(condition.min_should.conditions)


def _tightest(bounds: models.RangeInterface) -> models.RangeInterface:
    """Keep one bound of each side: an index looks at no other."""
    values: dict[str, Any] = {name: getattr(bounds, name) for name in ("gt", "gte", "lt", "lte")}
    if values["gt"] is not None and values["gte"] is not None:
        del values["gte" if values["gt"] >= values["gte"] else "gt"]
    if values["lt"] is not None and values["lte"] is not None:
        del values["lte" if values["lt"] <= values["lte"] else "lt"]
    return type(bounds)(**values)


def _matched(match: models.Match | None) -> list[Any]:
    """Return the values of which a field must have one."""
    if isinstance(match, models.MatchValue):
        return [match.value]
    return list(match.any) if isinstance(match, models.MatchAny) else []


def _near(path: str, integers: list[int]) -> models.Condition:
    """Return a condition that an index of floats answers and that holds wherever one of some integers is."""
    if len(integers) > _MAX_POINT_RANGES:
        bounds = [(min(integers), max(integers))]
    else:
        bounds = [(number, number) for number in integers]
    ranges: list[models.Condition] = [
        models.FieldCondition(key=path, range=models.Range(gte=low, lte=high)) for low, high in bounds
    ]
    return ranges[0] if len(ranges) == 1 else models.Filter(should=ranges)


def _any_string(path: str, strings: list[str]) -> models.FieldCondition:
    return models.FieldCondition(key=path, match=models.MatchAny(any=strings))
