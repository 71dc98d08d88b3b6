"""qdrant-client's filters -> Qdrant Edge's."""

from datetime import date, datetime
from typing import Any, Final

import qdrant_edge as edge
from qdrant_client import models

from splade_retriever.edge.convert_points import to_ids
from splade_retriever.edge.exact_floats import stored_bounds
from splade_retriever.errors import InputError
from splade_retriever.validation import type_name

__all__ = ["to_condition", "to_filter", "to_geo_point", "to_iso"]

_SLICE: Final[Any] = getattr(edge, "SliceCondition")  # noqa: B009 - the stubs of 0.9.0 leave it out


_MAX_LEVELS: Final = 32
"""The engine writes the filter of a deletion to its log and does not read more than about 60 levels back: the
collection could not be opened again after a kill."""


def to_filter(filter: models.Filter | None) -> edge.Filter | None:
    """Convert a filter; an empty one matches every point.

    Raises:
        InputError: If the filter is not valid, or nested too deeply.
    """
    if filter is None:
        return None
    _check_levels(filter)
    return _filter(filter)


def _check_levels(filter: models.Filter) -> None:
    level: list[Any] = [filter]
    for _ in range(_MAX_LEVELS):
        level = [inner for outer in level for inner in _filters_in(outer)]
    if level:
        raise InputError(f"A filter is nested more than {_MAX_LEVELS} levels deep. Use fewer levels.")


def _filters_in(filter: models.Filter) -> list[models.Filter]:
    groups = [filter.must, filter.should, filter.must_not]
    if filter.min_should is not None:
        groups.append(filter.min_should.conditions)
    found = []
    for group in groups:
        for condition in group if isinstance(group, list) else [group]:
            if isinstance(condition, models.NestedCondition):
                found.append(condition.nested.filter)
            elif isinstance(condition, models.Filter):
                found.append(condition)
    return found


def _filter(filter: models.Filter) -> edge.Filter:
    min_should = filter.min_should
    return edge.Filter(
        must=_conditions(filter.must),
        should=_conditions(filter.should),
        must_not=_conditions(filter.must_not),
        min_should=None
        if min_should is None
        else edge.MinShould([to_condition(item) for item in min_should.conditions], min_should.min_count),
    )


def _conditions(conditions: Any) -> list[Any] | None:
    if not conditions:
        return None
    return [to_condition(item) for item in (conditions if isinstance(conditions, list) else [conditions])]


def to_condition(condition: models.Condition) -> Any:  # noqa: PLR0911 - one per kind
    """Convert one condition of a filter."""
    if isinstance(condition, models.FieldCondition):
        return _field_condition(condition)
    if isinstance(condition, models.IsEmptyCondition):
        return edge.IsEmptyCondition(condition.is_empty.key)
    if isinstance(condition, models.IsNullCondition):
        return edge.IsNullCondition(condition.is_null.key)
    if isinstance(condition, models.HasIdCondition):
        return edge.HasIdCondition(set(to_ids(condition.has_id)))
    if isinstance(condition, models.HasVectorCondition):
        return edge.HasVectorCondition(condition.has_vector)
    if isinstance(condition, models.NestedCondition):
        nested = condition.nested
        return edge.NestedCondition(nested.key, _filter(nested.filter))
    if isinstance(condition, models.SliceCondition):
        return _SLICE(condition.slice.total, condition.slice.index)
    if isinstance(condition, models.Filter):
        return _filter(condition)
    raise InputError(f"A filter holds {type_name(condition)}, expected a condition of qdrant_client.models.")


def _field_condition(condition: models.FieldCondition) -> edge.FieldCondition:
    count = condition.values_count
    return edge.FieldCondition(
        condition.key,
        match=_match(condition.match),
        range=_range(condition.range),
        geo_bounding_box=_geo_box(condition.geo_bounding_box),
        geo_radius=_geo_radius(condition.geo_radius),
        geo_polygon=_geo_polygon(condition.geo_polygon),
        values_count=None
        if count is None
        else edge.ValuesCount(lt=count.lt, gt=count.gt, lte=count.lte, gte=count.gte),
        is_empty=condition.is_empty,
        is_null=condition.is_null,
    )


def _match(match: models.Match | None) -> Any:
    if match is None:
        return None
    # Each kind has one field, which its counterpart in Edge takes as the one argument.
    (value,) = (getattr(match, name) for name in type(match).model_fields)
    if isinstance(value, bool):
        value = _Bool(value)
    return getattr(edge, type(match).__name__)(value)


class _Bool:
    """A bool that Edge does not take for an integer.

    Edge 0.9.0 tries integers first and would look for 1 instead of True. Its bindings accept NumPy's bool,
    which they recognise by the name of its type; but up to NumPy 2.2 that one is an integer, too.
    """

    __module__ = "numpy"
    __slots__ = ("_value",)

    def __init__(self, value: bool) -> None:
        self._value = value

    def __bool__(self) -> bool:
        return self._value


_Bool.__name__ = "bool_"


def _range(range: models.RangeInterface | None) -> Any:
    if range is None:
        return None
    bounds = {name: getattr(range, name) for name in ("gte", "gt", "lte", "lt")}
    if isinstance(range, models.Range):
        # The engine may hold another float for the bound itself, which counts as equal to it.
        end = {"gte": 0, "gt": 1, "lte": 1, "lt": 0}
        return edge.RangeFloat(
            **{
                name: value if value is None else stored_bounds(value)[end[name]]
                for name, value in bounds.items()
            }
        )
    return edge.RangeDateTime(**{name: to_iso(value) for name, value in bounds.items()})


def to_iso(moment: datetime | date | None) -> str | None:
    """Write a moment in the form that the engine reads."""
    return None if moment is None else moment.isoformat()


def to_geo_point(point: models.GeoPoint) -> edge.GeoPoint:
    """Convert a place."""
    return edge.GeoPoint(lon=point.lon, lat=point.lat)


def _geo_box(box: models.GeoBoundingBox | None) -> edge.GeoBoundingBox | None:
    if box is None:
        return None
    return edge.GeoBoundingBox(to_geo_point(box.top_left), to_geo_point(box.bottom_right))


def _geo_radius(circle: models.GeoRadius | None) -> edge.GeoRadius | None:
    return None if circle is None else edge.GeoRadius(to_geo_point(circle.center), circle.radius)


def _geo_polygon(polygon: models.GeoPolygon | None) -> edge.GeoPolygon | None:
    if polygon is None:
        return None
    rings = [[to_geo_point(point) for point in ring.points] for ring in polygon.interiors or ()]
    return edge.GeoPolygon([to_geo_point(point) for point in polygon.exterior.points], rings or None)
