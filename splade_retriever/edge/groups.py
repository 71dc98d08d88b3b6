"""Group a ranking by the values of a payload field, as a Qdrant server does.

Qdrant Edge ranks points and does not group them.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from qdrant_client import models

__all__ = ["Groups"]

_PART: Final = re.compile(r'"([^"]*)"|([^.\[\]"]+)|\[(\d*)\]')
"""A part of a payload path: a quoted key, a key, or [] (every element) or [n] (one element)."""


class Groups:
    """The best groups of a ranking, filled from the top."""

    def __init__(self, group_by: str, limit: int, group_size: int) -> None:
        """Start without groups.

        Args:
            group_by: Path of the payload field.
            limit: Largest number of groups.
            group_size: Largest number of points per group.
        """
        self._group_by, self._limit, self._size = group_by, limit, group_size
        self._groups: dict[tuple[type, Any], list[models.ScoredPoint]] = {}

    def add(self, ranked: Sequence[models.ScoredPoint]) -> None:
        """Add points, best first, whose payloads have the field.

        A point with several values joins several groups. A point with a value that is neither a string nor
        an integer joins none, as on a server.
        """
        for point in ranked:
            values = _values_at(point.payload or {}, self._group_by)
            if any(type(value) not in (int, str) for value in values):
                continue
            for value in dict.fromkeys(values):
                self._groups.setdefault((type(value), value), []).append(point)

    def _best(self) -> list[tuple[Any, list[models.ScoredPoint]]]:
        return [(value, hits[: self._size]) for (_, value), hits in list(self._groups.items())[: self._limit]]

    @property
    def full(self) -> bool:
        """Whether there are as many groups as wanted, each as large as wanted: more points change nothing."""
        best = self._best()
        return len(best) == self._limit and all(len(hits) == self._size for _, hits in best)

    def values(self) -> list[Any]:
        """Return the groups' values, best group first."""
        return [value for value, _ in self._best()]

    def point_ids(self) -> list[Any]:
        """Return the ids of the points in the groups, each once."""
        return list(dict.fromkeys(point.id for _, hits in self._best() for point in hits))

    def result(
        self, records: Mapping[Any, models.Record], lookups: Mapping[Any, models.Record]
    ) -> models.GroupsResult:
        """Return the groups.

        Args:
            records: Payload and vectors of each point, by its id.
            lookups: The point that a group's value names in another collection, by the value.
        """
        groups = []
        for value, hits in self._best():
            found = [
                point.model_copy(
                    update={"payload": records[point.id].payload, "vector": records[point.id].vector}
                )
                for point in hits
                if point.id in records
            ]
            groups.append(models.PointGroup.model_construct(id=value, hits=found, lookup=lookups.get(value)))
        return models.GroupsResult.model_construct(groups=groups)


def _values_at(payload: Mapping[str, Any], path: str) -> list[Any]:
    """Return the values under a payload path; a list at its end counts as its elements."""
    found: list[Any] = [payload]
    for quoted, key, index in _PART.findall(path):
        name = quoted or key
        if name:
            found = [value[name] for value in found if isinstance(value, Mapping) and name in value]
        elif index:
            found = [v[int(index)] for v in found if isinstance(v, list) and int(index) < len(v)]
        else:
            found = [item for value in found if isinstance(value, list) for item in value]
    return [item for value in found for item in (value if isinstance(value, list) else [value])]
