"""Points and their parts: qdrant-client's types -> Qdrant Edge's, and the engine's answers back.

Both describe the same engine, so nearly every type has a counterpart of the same name.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, TypeAlias
from uuid import UUID

import numpy as np
import qdrant_edge as edge
from qdrant_client import models

from splade_retriever.edge.convert_config import UNNAMED, Names, same_name
from splade_retriever.edge.exact_floats import exact_path, with_exact_floats, without_exact_floats
from splade_retriever.errors import InputError, NotSupportedError
from splade_retriever.validation import MAX_DEPTH, json_fault, type_name

__all__ = [
    "Id",
    "completed",
    "from_record",
    "from_scored",
    "point_id",
    "refuse_inference",
    "to_ids",
    "to_payload",
    "to_point",
    "to_point_vectors",
    "to_sparse",
    "to_stored_payload",
    "to_update_mode",
    "to_with_payload",
    "to_with_vectors",
    "update",
]

Id: TypeAlias = int | str

_MAX_INDEX: Final = 2**32 - 1
_MAX_ID: Final = 2**64 - 1
update = edge.UpdateOperation


def completed() -> models.UpdateResult:
    """Return a server's answer to a write that is done."""
    return models.UpdateResult(operation_id=0, status=models.UpdateStatus.COMPLETED)


# -- to the engine -------------------------------------------------------------------------------------------


def point_id(id: object) -> Id:
    """Return the canonical form of an id: an unsigned 64-bit int, or a UUID as a string.

    Raises:
        InputError: If the id is neither.
    """
    if isinstance(id, int) and not isinstance(id, bool) and 0 <= id <= _MAX_ID:
        return id
    if isinstance(id, UUID):
        return str(id)
    if isinstance(id, str):
        try:
            return str(UUID(id))
        except ValueError:
            pass
    raise InputError(
        f"Point id {id!r} is not valid, expected an int from 0 to 2**64 - 1 or a UUID. Change the id."
    )


def to_ids(ids: Iterable[object]) -> list[Id]:
    """Check ids; see `point_id`."""
    return [point_id(id) for id in ids]


def to_payload(payload: Mapping[str, Any] | None) -> dict[str, Any]:
    """Convert a payload to JSON values, as a server does with a request's body (datetimes become strings).

    Raises:
        InputError: If the payload holds values that JSON does not have, such as NaN, or is nested deeper than
            the engine can read.
    """
    from pydantic_core import PydanticSerializationError, to_jsonable_python

    if not payload:
        return {}
    fault = json_fault("payload", payload)
    if fault is None:
        return dict(payload)
    try:
        jsonable: dict[str, Any] = to_jsonable_python(payload)
    except (PydanticSerializationError, ValueError, RecursionError) as error:
        raise InputError(f"A payload cannot be stored: {fault}. Nothing was written.") from error
    fault = json_fault("payload", jsonable)
    if fault is not None:
        raise InputError(f"A payload cannot be stored: {fault}. Nothing was written.")
    return jsonable


def to_stored_payload(
    payload: Mapping[str, Any] | None, *, merged: bool = False, under: str | None = None
) -> dict[str, Any]:
    """Convert a payload to JSON values that the engine returns unchanged; see `to_payload`.

    Args:
        payload: The payload.
        merged: Whether it is merged into a stored payload.
        under: Path of the payload field under which it is stored; None for the top level.
    """
    jsonable = to_payload(payload)
    levels = 0 if under is None else 1 + under.count(".") + under.count("[")
    fault = json_fault("payload", jsonable, max_depth=max(0, MAX_DEPTH - levels)) if levels else None
    if fault is not None:
        raise InputError(f"A payload cannot be stored under {under!r}: {fault}. Nothing was written.")
    return with_exact_floats(jsonable, merged=merged)


def to_point(id: object, vector: Any, payload: Mapping[str, Any] | None, names: Names) -> edge.Point:
    """Check a point and convert it.

    Raises:
        InputError: If the id, a vector or the payload cannot be stored.
    """
    checked = point_id(id)
    return edge.Point(checked, _stored_vectors(vector, names, checked), to_stored_payload(payload))


def to_point_vectors(id: object, vector: Any, names: Names) -> edge.PointVectors:
    """Check new vectors of a point and convert them.

    Raises:
        InputError: If the id or a vector cannot be stored.
    """
    checked = point_id(id)
    return edge.PointVectors(checked, _stored_vectors(vector, names, checked))


def _stored_vectors(vector: Any, names: Names, id: Id) -> dict[str, Any]:
    named = dict(vector) if isinstance(vector, Mapping) else {UNNAMED: vector}
    return {
        name: _stored_vector(value, name, names, id) for name, value in named.items() if value is not None
    }


def _stored_vector(vector: Any, name: str, names: Names, id: Id) -> Any:
    def fault(found: str, remedy: str) -> InputError:
        return InputError(f"Vector {name!r} of point {id!r} {found}. Nothing was written. {remedy}")

    params = names.get(name)
    if params is None:
        existing = ", ".join(map(repr, names)) or "none"
        raise fault(f"is not one of the collection's vectors (found: {existing})", "Name one of these.")
    if isinstance(params, models.SparseVectorParams):
        if not isinstance(vector, models.SparseVector):
            raise fault(f"is {type_name(vector)}, expected a SparseVector", "Pass models.SparseVector(...).")
        return to_sparse(vector, lambda found: fault(found, "Correct the vector, or omit an empty one."))
    refuse_inference(vector)
    if isinstance(vector, models.SparseVector):
        raise fault("is sparse, expected a dense vector", "Name a sparse vector, or pass a list of floats.")
    try:
        array = np.asarray(vector, dtype=np.float32)
    except (TypeError, ValueError):
        raise fault("is not an array of numbers", "Pass a list of floats.") from None
    dimensions = 1 if params.multivector_config is None else 2
    if array.ndim != dimensions or array.shape[-1] != params.size or not array.size:
        expected = str((params.size,) if dimensions == 1 else ("rows", params.size))
        raise fault(f"has the shape {array.shape}, expected {expected}", "Use the collection's encoder.")
    if not np.isfinite(array).all():
        raise fault("holds NaN or infinity, expected finite numbers", "Check the encoder.")
    return array.tolist()


def to_sparse(vector: models.SparseVector, fault: Callable[[str], InputError], *, minimum: int = 1) -> Any:
    """Convert a sparse vector after the checks that Qdrant Edge does not make.

    Args:
        vector: The vector.
        fault: Makes the error from what is wrong, a phrase such as "is empty".
        minimum: The smallest number of weights that is accepted.
    """
    indices, values = vector.indices, vector.values
    if len(indices) != len(values):
        raise fault(f"has {len(indices)} indices and {len(values)} values, expected as many of both")
    if len(indices) < minimum:
        raise fault("is empty, expected at least one weight")
    if len(set(indices)) != len(indices):
        raise fault("repeats an index, expected each once")
    if indices and not (min(indices) >= 0 and max(indices) <= _MAX_INDEX):
        raise fault(f"has indices from {min(indices)} to {max(indices)}, expected 0 to 2**32 - 1")
    if not np.isfinite(np.asarray(values, dtype=np.float32)).all():
        raise fault("holds NaN or infinity, expected finite weights")
    return edge.SparseVector(indices, values)


def refuse_inference(value: Any) -> None:
    """Raise NotSupportedError for values that a server would encode."""
    if isinstance(value, models.Document | models.Image | models.InferenceObject):
        raise NotSupportedError(
            f"EdgeClient got {type_name(value)}, and does not encode. Pass the vector, or use a Qdrant "
            "server with inference."
        )


def to_update_mode(mode: models.UpdateMode | None) -> Any:
    """Convert the mode of an upsert: whether it inserts points, replaces points, or both."""
    return same_name(edge.UpdateMode, mode)


def to_with_payload(with_payload: Any) -> Any:
    """Convert the choice of payload fields to return.

    Raises:
        InputError: If it is a single string.
    """
    if isinstance(with_payload, str):
        raise InputError(f"with_payload is {with_payload!r}, a str, expected a bool or a list. Pass [key].")
    if isinstance(with_payload, models.PayloadSelectorInclude):
        return _with_exact_paths(with_payload.include)
    if isinstance(with_payload, models.PayloadSelectorExclude):
        return edge.PayloadSelector.Exclude(list(with_payload.exclude))
    if with_payload is None or isinstance(with_payload, bool):
        return with_payload
    return _with_exact_paths(with_payload)


def _with_exact_paths(paths: Iterable[str]) -> list[str]:
    listed = list(paths)
    exact = (exact_path(path) for path in listed if isinstance(path, str))
    return [*listed, *(path for path in exact if path is not None)]


def to_with_vectors(with_vectors: Any) -> Any:
    """Convert the choice of vectors to return.

    Raises:
        InputError: If it is a single string.
    """
    if isinstance(with_vectors, str):
        raise InputError(f"with_vectors is {with_vectors!r}, a str, expected a bool or a list. Pass [name].")
    return with_vectors if with_vectors is None or isinstance(with_vectors, bool) else list(with_vectors)


# -- from the engine -----------------------------------------------------------------------------------------


def from_record(record: edge.Record) -> models.Record:
    """Convert a point that was read."""
    return models.Record.model_construct(
        id=_from_id(record.id),
        payload=without_exact_floats(record.payload),
        vector=_from_vector(record.vector),
        shard_key=None,
        order_value=record.order_value,
    )


def from_scored(point: edge.ScoredPoint, *, with_vectors: bool) -> models.ScoredPoint:
    """Convert a point that a query found."""
    return models.ScoredPoint.model_construct(
        id=_from_id(point.id),
        version=point.version,
        score=point.score,
        payload=without_exact_floats(point.payload),
        # The engine returns the vectors that MMR compared even if nobody asked for them.
        vector=_from_vector(point.vector) if with_vectors else None,
        shard_key=None,
        order_value=point.order_value,
    )


def _from_id(id: Any) -> Id:
    return id if isinstance(id, int) else str(id)


def _from_vector(vector: Any) -> Any:
    if isinstance(vector, dict):
        return {name: _from_vector(value) for name, value in vector.items()}
    if isinstance(vector, edge.SparseVector):
        return models.SparseVector.model_construct(indices=vector.indices, values=vector.values)
    return vector
