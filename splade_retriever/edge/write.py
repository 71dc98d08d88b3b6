# ruff: noqa: PLR0917 - the arguments and their order are qdrant-client's
"""Write points: add and replace them, change their vectors and payloads, delete them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Final

from qdrant_client import models

from splade_retriever.edge.arguments import check_options
from splade_retriever.edge.convert_config import check_vector_names, names_in
from splade_retriever.edge.convert_filter import to_filter
from splade_retriever.edge.convert_points import (
    completed,
    to_ids,
    to_point,
    to_point_vectors,
    to_stored_payload,
    to_update_mode,
    update,
)
from splade_retriever.edge.layout import StoredCollection
from splade_retriever.edge.point_rows import Row, rows_of_columns, rows_of_points
from splade_retriever.edge.storage import IDS_PER_CALL, EdgeFolder, batched
from splade_retriever.errors import InputError
from splade_retriever.validation import type_name

__all__ = ["PointWriter", "write_stream"]

_POINTS_PER_CALL: Final = 64
"""The engine holds the GIL for the length of a call. Small calls let other threads and an event loop run."""
_MAX_POINTS_AT_ONCE: Final = 1024
"""The points of one upsert are written by one call of the engine, all or none, up to this many."""


class PointWriter:
    """The methods of an EdgeClient that write points."""

    def __init__(self, folder: EdgeFolder) -> None:
        """Write to the collections of an open folder."""
        self._folder = folder

    def upsert(
        self,
        /,
        collection_name: str,
        points: models.Batch | Sequence[models.PointStruct],
        wait: bool = True,
        ordering: models.WriteOrdering | None = None,
        shard_key_selector: Any = None,
        update_filter: models.Filter | None = None,
        update_mode: models.UpdateMode | None = None,
        timeout: int | None = None,
        **kwargs: Any,
    ) -> models.UpdateResult:
        """Add points, or replace those of the same ids.

        Args:
            collection_name: The collection.
            points: A list of points, or a batch.
            wait: No effect: a write is done when its method returns.
            ordering: No effect.
            shard_key_selector: None.
            update_filter: Replace only points that match; new points are added in any case.
            update_mode: Whether to add, to replace, or both.
            timeout: No effect.
            kwargs: Refused.

        Raises:
            InputError: If an id, a vector or a payload is not valid. Nothing was written.
        """
        check_options("upsert", kwargs, shard_key_selector=shard_key_selector)
        self._folder.get(collection_name)
        rows = list(rows_of_points(points))
        if not rows:
            raise InputError("upsert got no points, expected at least one.")
        self.upsert_rows(collection_name, rows, update_filter, update_mode)
        return completed()

    def upsert_rows(
        self,
        /,
        collection_name: str,
        rows: Sequence[Row],
        update_filter: models.Filter | None = None,
        update_mode: models.UpdateMode | None = None,
    ) -> None:
        """Do what `upsert` does with points given as (id, vector or vectors by name, payload)."""
        collection = self._folder.get(collection_name)
        names = names_in(collection.config)
        converted = self._folder.translate_errors(
            f"write to collection {collection.name!r}",
            lambda: [to_point(id, vector, payload, names) for id, vector, payload in rows],
        )
        for points in batched(converted, _MAX_POINTS_AT_ONCE):
            operation = partial(_upsert_points, points, update_filter, update_mode)
            self._folder.update(collection, "write to", operation)

    def upload_points(
        self,
        /,
        collection_name: str,
        points: Iterable[models.PointStruct],
        batch_size: int = 64,
        parallel: int = 1,
        method: str | None = None,
        max_retries: int = 3,
        wait: bool = False,
        shard_key_selector: Any = None,
        update_filter: models.Filter | None = None,
        update_mode: models.UpdateMode | None = None,
        **kwargs: Any,
    ) -> None:
        """Add a stream of points of any length in bounded memory; see `upsert`.

        Raises:
            InputError: If a point is not valid. The points before its group of 64 are written.
        """
        check_options("upload_points", kwargs, shard_key_selector=shard_key_selector)
        rows = rows_of_points(points)
        write_stream(self.upsert_rows, collection_name, rows, update_filter, update_mode)

    def upload_collection(
        self,
        /,
        collection_name: str,
        vectors: Any,
        payload: Iterable[dict[Any, Any]] | None = None,
        ids: Iterable[Any] | None = None,
        batch_size: int = 64,
        parallel: int = 1,
        method: str | None = None,
        max_retries: int = 3,
        wait: bool = False,
        shard_key_selector: Any = None,
        update_filter: models.Filter | None = None,
        update_mode: models.UpdateMode | None = None,
        **kwargs: Any,
    ) -> None:
        """Add columns: an array of vectors, a dict of arrays by name, or an iterable of vectors.

        Without ids each point gets a random UUID4. Ends with the shortest column.
        """
        check_options("upload_collection", kwargs, shard_key_selector=shard_key_selector)
        rows = rows_of_columns(vectors, ids=ids, payloads=payload)
        write_stream(self.upsert_rows, collection_name, rows, update_filter, update_mode)

    def update_vectors(
        self,
        /,
        collection_name: str,
        points: Sequence[models.PointVectors],
        wait: bool = True,
        ordering: models.WriteOrdering | None = None,
        shard_key_selector: Any = None,
        update_filter: models.Filter | None = None,
        timeout: int | None = None,
        **kwargs: Any,
    ) -> models.UpdateResult:
        """Replace the named vectors of existing points; their other vectors stay.

        Raises:
            InputError: If a vector is not valid (nothing was written), or a point does not exist (the others
                are written).
        """
        check_options("update_vectors", kwargs, shard_key_selector=shard_key_selector)
        collection = self._folder.get(collection_name)
        if not points:
            raise InputError("update_vectors got no points, expected at least one.")
        names = names_in(collection.config)
        condition = self._folder.translate_errors("convert a filter", lambda: to_filter(update_filter))
        converted = [to_point_vectors(point.id, point.vector, names) for point in points]
        self._write_in_parts(
            collection, converted, lambda part: update.update_vectors(part, condition), _POINTS_PER_CALL
        )
        return completed()

    def delete_vectors(
        self,
        /,
        collection_name: str,
        vectors: Sequence[str],
        points: Any,
        wait: bool = True,
        ordering: models.WriteOrdering | None = None,
        shard_key_selector: Any = None,
        timeout: int | None = None,
        **kwargs: Any,
    ) -> models.UpdateResult:
        """Delete named vectors of points; "" is the name of the unnamed one."""
        check_options("delete_vectors", kwargs, shard_key_selector=shard_key_selector)
        collection = self._folder.get(collection_name)
        names = list(vectors)
        if not names:
            raise InputError("delete_vectors got no vector names, expected at least one.")
        check_vector_names(collection.name, collection.config, names)
        return self._write_selected(
            collection_name, points, update.delete_vectors, update.delete_vectors_by_filter, names
        )

    def delete(
        self,
        /,
        collection_name: str,
        points_selector: Any,
        wait: bool = True,
        ordering: models.WriteOrdering | None = None,
        shard_key_selector: Any = None,
        timeout: int | None = None,
        **kwargs: Any,
    ) -> models.UpdateResult:
        """Delete points by ids or by filter. Ids that do not exist are skipped."""
        check_options("delete", kwargs, shard_key_selector=shard_key_selector)
        return self._write_selected(
            collection_name, points_selector, update.delete_points, update.delete_points_by_filter
        )

    def set_payload(
        self,
        /,
        collection_name: str,
        payload: Mapping[str, Any],
        points: Any,
        key: str | None = None,
        wait: bool = True,
        ordering: models.WriteOrdering | None = None,
        shard_key_selector: Any = None,
        timeout: int | None = None,
        **kwargs: Any,
    ) -> models.UpdateResult:
        """Set payload fields of points; other fields stay.

        Args:
            collection_name: The collection.
            payload: Fields and values.
            points: Ids, a filter, or a selector of qdrant_client.models.
            key: Path under which the fields are set; None for the top level.
            wait: No effect: a write is done when its method returns.
            ordering: No effect.
            shard_key_selector: None.
            timeout: No effect.
            kwargs: Refused.
        """
        check_options("set_payload", kwargs, shard_key_selector=shard_key_selector)
        return self._write_selected(
            collection_name,
            points,
            update.set_payload,
            update.set_payload_by_filter,
            to_stored_payload(payload, merged=True, under=key),
            key,
        )

    def overwrite_payload(
        self,
        /,
        collection_name: str,
        payload: Mapping[str, Any],
        points: Any,
        wait: bool = True,
        ordering: models.WriteOrdering | None = None,
        shard_key_selector: Any = None,
        timeout: int | None = None,
        **kwargs: Any,
    ) -> models.UpdateResult:
        """Replace the complete payload of points."""
        check_options("overwrite_payload", kwargs, shard_key_selector=shard_key_selector)
        return self._write_selected(
            collection_name,
            points,
            update.overwrite_payload,
            update.overwrite_payload_by_filter,
            to_stored_payload(payload),
        )

    def delete_payload(
        self,
        /,
        collection_name: str,
        keys: Sequence[str],
        points: Any,
        wait: bool = True,
        ordering: models.WriteOrdering | None = None,
        shard_key_selector: Any = None,
        timeout: int | None = None,
        **kwargs: Any,
    ) -> models.UpdateResult:
        """Delete payload fields of points."""
        check_options("delete_payload", kwargs, shard_key_selector=shard_key_selector)
        return self._write_selected(
            collection_name, points, update.delete_payload, update.delete_payload_by_filter, list(keys)
        )

    def clear_payload(
        self,
        /,
        collection_name: str,
        points_selector: Any,
        wait: bool = True,
        ordering: models.WriteOrdering | None = None,
        shard_key_selector: Any = None,
        timeout: int | None = None,
        **kwargs: Any,
    ) -> models.UpdateResult:
        """Delete the complete payload of points."""
        check_options("clear_payload", kwargs, shard_key_selector=shard_key_selector)
        return self._write_selected(
            collection_name, points_selector, update.clear_payload, update.clear_payload_by_filter
        )

    def batch_update_points(
        self,
        /,
        collection_name: str,
        update_operations: Sequence[models.UpdateOperation],
        wait: bool = True,
        ordering: models.WriteOrdering | None = None,
        timeout: int | None = None,
        **kwargs: Any,
    ) -> list[models.UpdateResult]:
        """Make several writes, one after another."""
        check_options("batch_update_points", kwargs)
        return [self._operate(collection_name, operation) for operation in update_operations]

    def _operate(self, name: str, operation: models.UpdateOperation) -> models.UpdateResult:  # noqa: PLR0911 - one per kind
        if isinstance(operation, models.UpsertOperation):
            upsert = operation.upsert
            points = upsert.batch if isinstance(upsert, models.PointsBatch) else upsert.points
            return self.upsert(
                name, points, update_filter=upsert.update_filter, update_mode=upsert.update_mode
            )
        if isinstance(operation, models.DeleteOperation):
            return self.delete(name, operation.delete)
        if isinstance(operation, models.SetPayloadOperation):
            put = operation.set_payload
            return self.set_payload(name, put.payload, _ids_or_filter(put), put.key)
        if isinstance(operation, models.OverwritePayloadOperation):
            over = operation.overwrite_payload
            return self.overwrite_payload(name, over.payload, _ids_or_filter(over))
        if isinstance(operation, models.DeletePayloadOperation):
            drop = operation.delete_payload
            return self.delete_payload(name, drop.keys, _ids_or_filter(drop))
        if isinstance(operation, models.ClearPayloadOperation):
            return self.clear_payload(name, operation.clear_payload)
        if isinstance(operation, models.UpdateVectorsOperation):
            vectors = operation.update_vectors
            return self.update_vectors(name, vectors.points, update_filter=vectors.update_filter)
        if isinstance(operation, models.DeleteVectorsOperation):
            deleted = operation.delete_vectors
            return self.delete_vectors(name, deleted.vector, _ids_or_filter(deleted))
        raise InputError(
            f"batch_update_points got {type_name(operation)}, expected an operation of qdrant_client.models."
        )

    def _write_selected(
        self,
        collection_name: str,
        selector: Any,
        by_ids: Callable[..., Any],
        by_filter: Callable[..., Any],
        *settings: Any,
    ) -> models.UpdateResult:
        """Write to the points that a selector of qdrant-client names.

        Args:
            collection_name: The collection.
            selector: Ids, a filter, or a selector.
            by_ids: Builds the operation for some ids, from (ids, *settings).
            by_filter: Builds the operation for a filter, from (filter, *settings).
            settings: The further arguments of both.

        Raises:
            InputError: If nothing is selected, or a point does not exist (the others are written).
        """
        collection = self._folder.get(collection_name)
        if isinstance(selector, models.FilterSelector):
            selector = selector.filter
        elif isinstance(selector, models.PointIdsList):
            selector = selector.points
        if isinstance(selector, models.Filter):
            self._folder.update(collection, "write to", lambda: by_filter(to_filter(selector), *settings))
        elif isinstance(selector, list | tuple):
            if not selector:
                raise InputError("A write names no points, expected at least one id, or a filter.")
            ids = to_ids(selector)
            self._write_in_parts(collection, ids, lambda part: by_ids(part, *settings), IDS_PER_CALL)
        else:
            raise InputError(
                f"A write selects points by {type_name(selector)}, expected a list of ids, a "
                "models.Filter, models.PointIdsList or models.FilterSelector."
            )
        return completed()

    def _write_in_parts(
        self,
        collection: StoredCollection,
        items: Sequence[Any],
        operation: Callable[[list[Any]], Any],
        size: int,
    ) -> None:
        """Write in calls of `size` items. If a point does not exist, the others are written nevertheless."""
        missing: list[InputError] = []
        for some in batched(items, size):
            try:
                self._folder.update(collection, "write to", partial(operation, some))
            except InputError as error:
                missing.append(error)
        try:
            if missing:
                raise missing[0]
        finally:
            missing.clear()  # a traceback that refers to itself would keep the folder open


def write_stream(
    upsert_rows: Callable[..., None],
    collection_name: str,
    rows: Iterable[Row],
    update_filter: models.Filter | None,
    update_mode: models.UpdateMode | None,
) -> None:
    """Write a stream of rows by calls of `upsert_rows`, each with a few of them."""
    for some in batched(rows, _POINTS_PER_CALL):
        upsert_rows(collection_name, some, update_filter, update_mode)


def _upsert_points(points: list[Any], filter: models.Filter | None, mode: models.UpdateMode | None) -> Any:
    return update.upsert_points(points, to_filter(filter), to_update_mode(mode))


def _ids_or_filter(operation: Any) -> Any:
    """Return the ids of an operation, or else its filter."""
    selector = operation.points if operation.points is not None else operation.filter
    if selector is None:
        raise InputError(f"A {type(operation).__name__} selects nothing, expected points or a filter.")
    return selector
