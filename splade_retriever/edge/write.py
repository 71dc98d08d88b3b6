# ruff: noqa: PLR0917 - the arguments and their order are qdrant-client's
"""Writing points: adding and replacing them, changing their vectors and payloads, deleting them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Final

from qdrant_client import models

from splade_retriever.edge import convert_points as convert
from splade_retriever.edge.base import (
    IDS_PER_CALL,
    EdgeBase,
    check_options,
    check_vector_names,
    chunks,
    done,
)
from splade_retriever.edge.convert_query import to_filter
from splade_retriever.edge.layout import StoredCollection
from splade_retriever.edge.rows import Row, rows_of_columns, rows_of_points
from splade_retriever.errors import InputError

__all__ = ["WriteCalls"]

_POINTS_PER_CALL: Final = 64
"""The engine holds the GIL for the length of a call: small calls let the other threads, and an event loop,
live."""
_POINTS_AT_ONCE: Final = 1024
"""Points that a caller puts into one write are written by one call, and so all or none, up to this many."""


class WriteCalls(EdgeBase):
    """The part of qdrant-client's interface that writes points."""

    def upsert(
        self,
        collection_name: str,
        points: models.Batch | Sequence[models.PointStruct],
        update_filter: models.Filter | None = None,
        update_mode: models.UpdateMode | None = None,
        **kwargs: Any,
    ) -> models.UpdateResult:
        """Add points, or replace those of the same ids.

        Args:
            collection_name: The collection.
            points: A list of points, or a batch.
            update_filter: Replace only points that pass; new ones are added all the same.
            update_mode: Whether to add, to replace, or both.
            kwargs: qdrant-client's options.

        Raises:
            InputError: A bad id, vector or payload; nothing was written.
        """
        check_options("upsert", kwargs)
        self._folder.get(collection_name)
        rows = list(rows_of_points(points))
        if not rows:
            raise InputError("upsert got no points, expected at least one.")
        self.upsert_rows(collection_name, rows, update_filter, update_mode)
        return done()

    def upsert_rows(
        self,
        collection_name: str,
        rows: Sequence[Row],
        update_filter: models.Filter | None = None,
        update_mode: models.UpdateMode | None = None,
    ) -> None:
        """Do what `upsert` does with points given as (id, vector or vectors by name, payload)."""
        collection = self._folder.get(collection_name)
        names = convert.names_in(collection.config)
        made = self._folder.told(
            f"write to collection {collection.name!r}",
            lambda: [convert.to_point(id, vector, payload, names) for id, vector, payload in rows],
        )
        for chunk in chunks(made, _POINTS_AT_ONCE):
            operation = partial(_upsert_points, chunk, update_filter, update_mode)
            self._update(collection, "write to", operation)

    def upload_points(
        self,
        collection_name: str,
        points: Iterable[models.PointStruct],
        update_filter: models.Filter | None = None,
        update_mode: models.UpdateMode | None = None,
        **kwargs: Any,
    ) -> None:
        """Add a stream of points of any length in bounded memory; see `upsert`.

        Raises:
            InputError: A bad point; those before its group of 64 are written.
        """
        check_options("upload_points", kwargs)
        self._stream(collection_name, rows_of_points(points), update_filter, update_mode)

    def upload_collection(
        self,
        collection_name: str,
        vectors: Any,
        payload: Iterable[dict[Any, Any]] | None = None,
        ids: Iterable[Any] | None = None,
        update_filter: models.Filter | None = None,
        update_mode: models.UpdateMode | None = None,
        **kwargs: Any,
    ) -> None:
        """Add columns: an array of vectors, or a dict of arrays by name, or an iterable of vectors.

        Without ids each point gets a random UUID4. Ends with the shortest column.
        """
        check_options("upload_collection", kwargs)
        rows = rows_of_columns(vectors, ids=ids, payloads=payload)
        self._stream(collection_name, rows, update_filter, update_mode)

    def _stream(
        self,
        collection_name: str,
        rows: Iterable[Row],
        update_filter: models.Filter | None,
        update_mode: models.UpdateMode | None,
    ) -> None:
        for chunk in chunks(rows, _POINTS_PER_CALL):
            self.upsert_rows(collection_name, chunk, update_filter, update_mode)

    def update_vectors(
        self,
        collection_name: str,
        points: Sequence[models.PointVectors],
        update_filter: models.Filter | None = None,
        **kwargs: Any,
    ) -> models.UpdateResult:
        """Replace the vectors that are named here of points that are there; the others stay.

        Raises:
            InputError: A bad vector (nothing was written), or a point that is not there (the others are).
        """
        check_options("update_vectors", kwargs)
        collection = self._folder.get(collection_name)
        if not points:
            raise InputError("update_vectors got no points, expected at least one.")
        names = convert.names_in(collection.config)
        condition = self._folder.told("convert a filter", lambda: to_filter(update_filter))
        made = [convert.to_point_vectors(point.id, point.vector, names) for point in points]
        self._each(
            collection, made, lambda part: convert.update.update_vectors(part, condition), _POINTS_PER_CALL
        )
        return done()

    def delete_vectors(
        self, collection_name: str, vectors: Sequence[str], points: Any, **kwargs: Any
    ) -> models.UpdateResult:
        """Delete named vectors of points; "" names the unnamed one."""
        check_options("delete_vectors", kwargs)
        collection = self._folder.get(collection_name)
        names = list(vectors)
        if not names:
            raise InputError("delete_vectors got no vector names, expected at least one.")
        check_vector_names(collection, names)
        make = convert.update
        return self._select(
            collection_name, points, make.delete_vectors, make.delete_vectors_by_filter, names
        )

    def delete(self, collection_name: str, points_selector: Any, **kwargs: Any) -> models.UpdateResult:
        """Delete points by ids (those not there are passed over) or by filter."""
        check_options("delete", kwargs)
        make = convert.update
        return self._select(
            collection_name, points_selector, make.delete_points, make.delete_points_by_filter
        )

    def set_payload(
        self,
        collection_name: str,
        payload: Mapping[str, Any],
        points: Any,
        key: str | None = None,
        **kwargs: Any,
    ) -> models.UpdateResult:
        """Set payload fields of points; other fields stay.

        Args:
            collection_name: The collection.
            payload: Fields and values.
            points: Ids, a filter, or a selector of qdrant_client.models.
            key: Path under which the fields go; None for the top.
            kwargs: qdrant-client's options.
        """
        check_options("set_payload", kwargs)
        given, make = convert.to_payload(payload), convert.update
        return self._select(collection_name, points, make.set_payload, make.set_payload_by_filter, given, key)

    def overwrite_payload(
        self, collection_name: str, payload: Mapping[str, Any], points: Any, **kwargs: Any
    ) -> models.UpdateResult:
        """Replace the whole payload of points."""
        check_options("overwrite_payload", kwargs)
        given, make = convert.to_payload(payload), convert.update
        return self._select(
            collection_name, points, make.overwrite_payload, make.overwrite_payload_by_filter, given
        )

    def delete_payload(
        self, collection_name: str, keys: Sequence[str], points: Any, **kwargs: Any
    ) -> models.UpdateResult:
        """Delete payload fields of points."""
        check_options("delete_payload", kwargs)
        paths, make = list(keys), convert.update
        return self._select(
            collection_name, points, make.delete_payload, make.delete_payload_by_filter, paths
        )

    def clear_payload(self, collection_name: str, points_selector: Any, **kwargs: Any) -> models.UpdateResult:
        """Delete the whole payload of points."""
        check_options("clear_payload", kwargs)
        make = convert.update
        return self._select(
            collection_name, points_selector, make.clear_payload, make.clear_payload_by_filter
        )

    def _select(
        self,
        collection_name: str,
        selector: Any,
        by_ids: Callable[..., Any],
        by_filter: Callable[..., Any],
        *settings: Any,
    ) -> models.UpdateResult:
        """Make a write to the points that a selector of qdrant-client names.

        Args:
            collection_name: The collection.
            selector: Ids, a filter, or a selector.
            by_ids: Builds the operation for some ids, from (ids, *settings).
            by_filter: Builds the operation for a filter, from (filter, *settings).
            settings: What both take after that.

        Raises:
            InputError: Nothing is selected, or a point is not there (the others are written).
        """
        collection = self._folder.get(collection_name)
        if isinstance(selector, models.FilterSelector):
            selector = selector.filter
        elif isinstance(selector, models.PointIdsList):
            selector = selector.points
        if isinstance(selector, models.Filter):
            self._update(collection, "write to", lambda: by_filter(to_filter(selector), *settings))
        elif isinstance(selector, list | tuple):
            if not selector:
                raise InputError("a write names no points, expected at least one id, or a filter.")
            ids = convert.to_ids(selector)
            self._each(collection, ids, lambda part: by_ids(part, *settings), IDS_PER_CALL)
        else:
            raise InputError(
                f"a write selects points by a {type(selector).__name__}, expected a list of ids, a "
                "models.Filter, models.PointIdsList or models.FilterSelector."
            )
        return done()

    def _each(
        self,
        collection: StoredCollection,
        items: Sequence[Any],
        operation: Callable[[list[Any]], Any],
        size: int,
    ) -> None:
        """Write in small calls; a point that is not there does not keep the others from being written."""
        missing: InputError | None = None
        for chunk in chunks(items, size):
            try:
                self._update(collection, "write to", partial(operation, chunk))
            except InputError as error:
                missing = missing or error
        if missing is not None:
            raise missing

    def batch_update_points(
        self, collection_name: str, update_operations: Sequence[models.UpdateOperation], **kwargs: Any
    ) -> list[models.UpdateResult]:
        """Make several writes, one after another."""
        check_options("batch_update_points", kwargs)
        return [self._operate(collection_name, operation) for operation in update_operations]

    def _operate(self, name: str, operation: models.UpdateOperation) -> models.UpdateResult:  # noqa: PLR0911 - one a kind
        if isinstance(operation, models.UpsertOperation):
            upsert = operation.upsert
            points = upsert.batch if isinstance(upsert, models.PointsBatch) else upsert.points
            return self.upsert(name, points, upsert.update_filter, upsert.update_mode)
        if isinstance(operation, models.DeleteOperation):
            return self.delete(name, operation.delete)
        if isinstance(operation, models.SetPayloadOperation):
            put = operation.set_payload
            return self.set_payload(name, put.payload, _either(put), put.key)
        if isinstance(operation, models.OverwritePayloadOperation):
            over = operation.overwrite_payload
            return self.overwrite_payload(name, over.payload, _either(over))
        if isinstance(operation, models.DeletePayloadOperation):
            drop = operation.delete_payload
            return self.delete_payload(name, drop.keys, _either(drop))
        if isinstance(operation, models.ClearPayloadOperation):
            return self.clear_payload(name, operation.clear_payload)
        if isinstance(operation, models.UpdateVectorsOperation):
            vectors = operation.update_vectors
            return self.update_vectors(name, vectors.points, vectors.update_filter)
        if isinstance(operation, models.DeleteVectorsOperation):
            gone = operation.delete_vectors
            return self.delete_vectors(name, gone.vector, _either(gone))
        raise InputError(
            f"batch_update_points got a {type(operation).__name__}, expected an operation of "
            "qdrant_client.models."
        )


def _upsert_points(points: list[Any], filter: models.Filter | None, mode: models.UpdateMode | None) -> Any:
    return convert.update.upsert_points(points, to_filter(filter), convert.to_update_mode(mode))


def _either(operation: Any) -> Any:
    """Give the ids of an operation, or else its filter."""
    chosen = operation.points if operation.points is not None else operation.filter
    if chosen is None:
        raise InputError(f"a {type(operation).__name__} selects nothing, expected points or a filter.")
    return chosen
