"""Translate filters from plain dicts to `models.Filter`.

All forms of a filter:

    {"lang": "en"}                          equal
    {"lang": ["en", "de"]}                  one of these
    {"year": {"$gte": 2020, "$lt": 2024}}   a range of numbers, datetimes or ISO 8601 strings
    {"author.name": "Ada"}                  a nested key; {"author": {"name": "Ada"}} is the same
    {"$or": [...]}, {"$and": [...]}, {"$not": {...}}
    {"$text": "lunar orbit"}                all these words in the document's text
    {"place": {"$geo_radius": {"center": {"lon": 13.4, "lat": 52.5}, "radius": 1000}}}   metres

All entries of a dict must match. Operators of a field: `$eq $ne $gt $gte $lt $lte $in $nin $all $contains
$exists $text $not $geo_radius $geo_bounding_box $geo_polygon`. A list matches if one of its elements does.
"""

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Any, Final, TypeAlias

from pydantic import BaseModel, ValidationError
from qdrant_client import models

from splade_retriever.errors import FilterError
from splade_retriever.key_paths import MetadataPath, quoted
from splade_retriever.validation import is_finite, plain, text_fault, type_name

__all__ = ["FilterLike", "field_path", "matches_everything", "to_qdrant_filter"]

FilterLike: TypeAlias = Mapping[str, Any] | models.Filter
"""The type of every `filter=` argument: a plain dict, or a filter of qdrant-client."""

MAX_FILTER_DEPTH: Final = 32
"""Levels of a filter. Engines parse 128 levels of JSON, and a level of a filter takes up to three."""
_INT64: Final = 2**63
_RANGE_WORDS: Final = {"$gt": "gt", "$gte": "gte", "$lt": "lt", "$lte": "lte"}


def to_qdrant_filter(
    filter: FilterLike | None,
    *,
    metadata_key: str | None = "metadata",
    content_key: str = "page_content",
    escaped_path: str | None = None,
) -> models.Filter | None:
    """Translate a filter for the engine.

    Types match as in Qdrant: `True` does not match 1; an int matches ints only (2020 does not match 2020.0),
    while a float is searched as the range [x, x] and matches both; strings must be equal, including case.
    `$ne`, `$nin` and `$not` also match documents without the field. The bounds of a range must hold for the
    same element of a list, and numbers are compared as 64-bit floats. A field exists unless it is
    missing, null or an empty list. An index of a field changes nothing of this.

    Args:
        filter: A dict in a form of this module's docstring; or a `models.Filter`, which is returned unchanged
            and whose keys are payload keys (`metadata.year`); or None.
        metadata_key: The payload key of the metadata; None for metadata at the payload's top level.
        content_key: The payload key of the text, for the top-level `$text`.
        escaped_path: The path of the copy of metadata whose keys have a double quote or a backslash; None
            where documents have no such copy.

    Returns:
        The engine's filter; None for None and `{}`.

    Raises:
        FilterError: If a key, operator or value is not valid; the message says what is allowed.
    """
    if filter is None:
        return None
    _check_depth(filter)
    if isinstance(filter, models.Filter):
        return filter
    if not isinstance(filter, Mapping):
        raise FilterError(
            f"The filter is {type_name(filter)}, expected a dict or qdrant_client.models.Filter. "
            'Write it as {"key": value}.'
        )
    root = MetadataPath(metadata_key, escaped_path)
    conditions = _all_of(filter, root, quoted(content_key))
    return models.Filter(must=conditions) if conditions else None


def field_path(key: str, *, metadata_key: str | None = "metadata", escaped_path: str | None = None) -> str:
    """Convert a metadata key to the engine's JSON path.

    A dot separates levels. A level with characters other than letters, digits, `_` and `-` is quoted, so
    `file name` works. Write a level that contains a dot or starts with a double quote as a JSON string:
    `'"a.b".c'`.

    Raises:
        FilterError: If a level is empty or a quote is not closed; or if the key has a double quote or a
            backslash, and `escaped_path` is None.
    """
    return MetadataPath(metadata_key, escaped_path).inner(key).text


def matches_everything(filter: models.Filter) -> bool:
    """Return whether a filter matches every document: it is empty, at any nesting."""
    return _constant(filter) is True


def _check_depth(filter: object) -> None:
    """Refuse a filter that engines cannot parse; walks it without recursion, which such a filter exceeds."""
    level = [filter]
    for _ in range(MAX_FILTER_DEPTH):
        level = [part for item in level for part in _parts(item)]
        if not level:
            return
    raise FilterError(
        f"The filter is nested more than {MAX_FILTER_DEPTH} levels deep. Write it flatter: conditions of one "
        "dict all apply, and $or takes any number of filters."
    )


def _parts(item: object) -> list[object]:
    if isinstance(item, Mapping):
        values = [value if isinstance(value, list | tuple) else [value] for value in item.values()]
        return [part for value in values for part in value]
    if isinstance(item, models.Filter):
        minimum = [] if item.min_should is None else item.min_should.conditions
        groups = (item.must, item.should, item.must_not, minimum)
        return [part for group in groups for part in _conditions(group)]
    nested = getattr(item, "nested", None)
    return [] if nested is None else [nested.filter]


def _constant(condition: Any) -> bool | None:
    """Return True or False for a condition that is so for every document, else None."""
    if isinstance(condition, models.Filter):
        return _constant_filter(condition)
    ids = getattr(condition, "has_id", None)
    match = getattr(condition, "match", None)
    if (isinstance(ids, list) and not ids) or (isinstance(match, models.MatchAny) and not match.any):
        return False
    return None


def _constant_filter(filter: models.Filter) -> bool | None:
    must = [_constant(item) for item in _conditions(filter.must)]
    must += [_opposite(_constant(item)) for item in _conditions(filter.must_not)]
    should = [_constant(item) for item in _conditions(filter.should)]
    if should:
        must.append(_at_least(1, should))
    if filter.min_should is not None:
        options = [_constant(item) for item in filter.min_should.conditions]
        must.append(_at_least(filter.min_should.min_count, options))
    return _opposite(_at_least(1, [_opposite(value) for value in must]))


def _at_least(count: int, values: Sequence[bool | None]) -> bool | None:
    if values.count(True) >= count:
        return True
    return False if len(values) - values.count(False) < count else None


def _opposite(value: bool | None) -> bool | None:
    return None if value is None else not value


def _conditions(conditions: Any) -> list[Any]:
    if conditions is None:
        return []
    return list(conditions) if isinstance(conditions, list) else [conditions]


def _all_of(filter: Mapping[str, Any], root: MetadataPath, content_path: str) -> list[models.Condition]:
    conditions: list[models.Condition] = []
    for key, value in filter.items():
        if not isinstance(key, str):
            raise FilterError(f"Filter key {key!r} is {type_name(key)}, expected a string.")
        if key in ("$and", "$or"):
            branches = [
                models.Filter(must=_clauses(key, item, root, content_path)) for item in _list(key, value)
            ]
            conditions.append(
                models.Filter(must=branches) if key == "$and" else models.Filter(should=branches)
            )
        elif key == "$not":
            conditions.append(_negated([models.Filter(must=_clauses(key, value, root, content_path))]))
        elif key == "$text":
            conditions.append(_contains_words(content_path, "$text", value))
        elif key.startswith("$"):
            raise FilterError(
                f"The filter has the operator {key!r} in place of a key; allowed there: $and, $or, $not, "
                "$text. Put the operator of a field inside: "
                f'{{"year": {{{key!r}: ...}}}}.'
            )
        else:
            conditions.extend(_field(root.inner(key), key, value))
    return conditions


def _clauses(operator: str, value: object, root: MetadataPath, content_path: str) -> list[models.Condition]:
    if isinstance(value, models.Filter):
        return [value]
    if not isinstance(value, Mapping) or not value:
        raise FilterError(
            f"{operator} is {value!r}, expected a filter that is not empty, such as {{'lang': 'en'}}."
        )
    return _all_of(value, root, content_path)


def _list(operator: str, value: object) -> list[Any]:
    if not isinstance(value, list | tuple) or not value:
        raise FilterError(f"{operator} is {value!r}, expected a list of at least one filter.")
    return list(value)


def _field(path: MetadataPath, key: str, value: object) -> list[models.Condition]:
    """Translate the conditions of one field; `key` is its name in messages."""
    value = plain(value)
    if not isinstance(value, Mapping):
        return [
            _one_of(path, key, value) if isinstance(value, list | tuple | set) else _equal(path, key, value)
        ]
    operators = [word for word in value if isinstance(word, str) and word.startswith("$")]
    if not operators:
        if not value:
            raise FilterError(f"Filter key {key!r} is an empty dict; expected a value or an operator.")
        if forgotten := next((word for word in value if f"${word}" in _RANGE_WORDS), None):
            raise FilterError(
                f"Filter key {key!r} has {forgotten!r} without $. Write the operator as '${forgotten}', or a "
                f"nested field of that name as {{'{key}.{forgotten}': ...}}."
            )
        return [
            condition
            for inner, inner_value in value.items()
            for condition in _field(path.inner(inner), f"{key}.{inner}", inner_value)
        ]
    if len(operators) != len(value):
        other = next(word for word in value if word not in operators)
        raise FilterError(f"Filter key {key!r} mixes the operator {operators[0]!r} with the key {other!r}.")
    conditions: list[models.Condition] = []
    bounds = {word: value[word] for word in operators if word in _RANGE_WORDS}
    if bounds:
        conditions.append(_range(path, key, bounds))
    for word in operators:
        if word not in _RANGE_WORDS:
            conditions.append(_operator(word, key)(path, key, value[word]))
    return conditions


def _operator(word: str, key: str) -> Callable[[MetadataPath, str, Any], models.Condition]:
    try:
        return _OPERATORS[word]
    except KeyError:
        allowed = ", ".join(sorted([*_OPERATORS, *_RANGE_WORDS]))
        raise FilterError(
            f"Filter key {key!r} has the unknown operator {word!r}; allowed: {allowed}."
        ) from None


def _equal(path: MetadataPath, key: str, value: object) -> models.Condition:
    if isinstance(value, str):
        return models.FieldCondition(key=path.text, match=models.MatchValue(value=_utf8(key, value)))
    if isinstance(value, bool):
        return models.FieldCondition(key=path.text, match=models.MatchValue(value=value))
    if isinstance(value, int):
        if not -_INT64 <= value < _INT64:
            raise FilterError(
                f"Filter key {key!r} is compared with {value}, beyond the 64 bits of the engine."
            )
        return models.FieldCondition(key=path.text, match=models.MatchValue(value=value))
    if isinstance(value, float | date):
        # The engine compares only strings, ints and bools for equality; a float or a time needs a range.
        return _range(path, key, {"$gte": value, "$lte": value})
    raise FilterError(
        f"Filter key {key!r} is compared with {value!r}, {type_name(value)}; allowed: str, int, float, "
        'bool, datetime. To find a missing or null field, write {"$exists": False}.'
    )


def _one_of(path: MetadataPath, key: str, value: object) -> models.Condition:
    if isinstance(value, str | Mapping) or not isinstance(value, Iterable):
        raise FilterError(f"$in of filter key {key!r} is {value!r}, expected a list of values.")
    values = list(value)
    words = [_utf8(key, item) for item in values if isinstance(item, str)]
    numbers = [item for item in values if isinstance(item, int) and not isinstance(item, bool)]
    others = [item for item in values if not isinstance(item, str | int) or isinstance(item, bool)]
    for number in numbers:
        _equal(path, key, number)  # checks the size
    choices: list[models.Condition] = [_equal(path, key, item) for item in others]
    # MatchAny takes strings or ints, not both; an empty one matches nothing.
    if words or not values:
        choices.append(models.FieldCondition(key=path.text, match=models.MatchAny(any=words)))
    if numbers:
        choices.append(models.FieldCondition(key=path.text, match=models.MatchAny(any=numbers)))
    return choices[0] if len(choices) == 1 else models.Filter(should=choices)


def _every(path: MetadataPath, key: str, value: object) -> models.Condition:
    if not isinstance(value, list | tuple | set) or not value:
        raise FilterError(
            f"$all of filter key {key!r} is {value!r}, expected a list with at least one value."
        )
    return models.Filter(must=[_equal(path, key, item) for item in value])


def _exists(path: MetadataPath, key: str, value: object) -> models.Condition:
    if not isinstance(value, bool):
        raise FilterError(f"$exists of filter key {key!r} is {value!r}, expected True or False.")
    empty = models.IsEmptyCondition(is_empty=models.PayloadField(key=path.text))
    return _negated([empty]) if value else empty


def _text(path: MetadataPath, key: str, value: object) -> models.Condition:
    return _contains_words(path.text, key, value)


def _contains_words(path: str, key: str, value: object) -> models.Condition:
    if not isinstance(value, str) or not re.search(r"[^\W_]", value):
        raise FilterError(
            f"$text of filter key {key!r} is {value!r}, expected a string with at least one word."
        )
    return models.FieldCondition(key=path, match=models.MatchText(text=_utf8(key, value)))


def _geo(
    kind: type[BaseModel], field: str, shape: str
) -> Callable[[MetadataPath, str, Any], models.Condition]:
    """Return the operator for a shape of Qdrant's, whose dict has the names of Qdrant's model."""

    def condition(path: MetadataPath, key: str, value: Any) -> models.Condition:
        try:
            area = kind.model_validate(value)
        except ValidationError:
            area = None
        points = [] if area is None else list(_geo_points(area.model_dump()))
        in_range = all(-90 <= point["lat"] <= 90 and -180 <= point["lon"] <= 180 for point in points)
        if area is None or not in_range or not 0 <= getattr(area, "radius", 0) < math.inf:
            raise FilterError(
                f"${field} of filter key {key!r} is {value!r}, expected {shape}, where a point is "
                "{'lon': ..., 'lat': ...} in degrees."
            )
        return models.FieldCondition.model_validate({"key": path.text, field: area})

    return condition


def _geo_points(value: object) -> Iterator[dict[str, float]]:
    if isinstance(value, dict) and value.keys() == {"lon", "lat"}:
        yield value
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _geo_points(part)


def _field_not(path: MetadataPath, key: str, value: object) -> models.Condition:
    if not isinstance(value, Mapping):
        raise FilterError(f"$not of filter key {key!r} is {value!r}, expected operators; or use $ne.")
    return _negated([models.Filter(must=_field(path, key, value))])


def _negated(conditions: Sequence[models.Condition]) -> models.Filter:
    return models.Filter(must_not=list(conditions))


_OPERATORS: Final[dict[str, Callable[[MetadataPath, str, Any], models.Condition]]] = {
    "$eq": _equal,
    "$ne": lambda path, key, value: _negated([_equal(path, key, value)]),
    "$in": _one_of,
    "$nin": lambda path, key, value: _negated([_one_of(path, key, value)]),
    "$all": _every,
    "$contains": _equal,
    "$exists": _exists,
    "$text": _text,
    "$not": _field_not,
    "$geo_radius": _geo(models.GeoRadius, "geo_radius", "{'center': point, 'radius': metres}"),
    "$geo_bounding_box": _geo(
        models.GeoBoundingBox, "geo_bounding_box", "{'top_left': point, 'bottom_right': point}"
    ),
    "$geo_polygon": _geo(
        models.GeoPolygon, "geo_polygon", "{'exterior': {'points': [point, ...]}, 'interiors': [...]}"
    ),
}


def _range(path: MetadataPath, key: str, bounds: Mapping[str, object]) -> models.FieldCondition:
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in bounds.values()):
        for word, value in bounds.items():
            if not is_finite(value):  # type: ignore[arg-type]
                raise FilterError(f"{word} of filter key {key!r} is {value!r}, expected a finite number.")
        numbers = {_RANGE_WORDS[word]: value for word, value in bounds.items()}
        return models.FieldCondition(key=path.text, range=models.Range(**numbers))
    times = {_RANGE_WORDS[word]: _time(word, key, value) for word, value in bounds.items()}
    return models.FieldCondition(key=path.text, range=models.DatetimeRange(**times))


def _time(word: str, key: str, value: object) -> datetime:
    """Convert to a datetime; without a time zone it is UTC, as for strings in the engine."""
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            raise FilterError(
                f"{word} of filter key {key!r} is the string {value!r}. The engine does not order strings, "
                "only numbers, datetimes and ISO 8601 strings (2023-08-23T12:33:00Z)."
            ) from None
    if isinstance(value, date) and not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day)
    if not isinstance(value, datetime):
        raise FilterError(
            f"{word} of filter key {key!r} is {value!r}, {type_name(value)}; allowed: numbers, or "
            "datetimes and ISO 8601 strings, but not both in one range."
        )
    return value if value.tzinfo is not None else value.replace(tzinfo=UTC)


def _utf8(key: str, value: str) -> str:
    fault = text_fault(f"The value {value!r} of filter key {key!r}", value)
    if fault:
        raise FilterError(f"{fault}.")
    return value
