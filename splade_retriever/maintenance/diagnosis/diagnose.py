"""Checks an index folder, a server, or a folder of qdrant-client's local mode. Nothing is written."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Unpack

from splade_retriever.encoding.model_loading import ModelArgument, check_model_argument
from splade_retriever.errors import InputError
from splade_retriever.filters import FilterLike
from splade_retriever.index.options import ServerKeywords, ServerOptions
from splade_retriever.maintenance.diagnosis.collection_checks import Expectations
from splade_retriever.maintenance.diagnosis.findings import Diagnosis
from splade_retriever.maintenance.diagnosis.folder_checks import check_folder
from splade_retriever.maintenance.diagnosis.local_mode import check_local_mode, is_local_mode
from splade_retriever.maintenance.diagnosis.server_checks import check_server
from splade_retriever.validation import is_url, resolved_location

__all__ = ["diagnose"]


def diagnose(
    location: str | Path,
    *,
    collection: str | None = None,
    model: ModelArgument = None,
    model_settings: Mapping[str, Any] | None = None,
    second_model: ModelArgument = None,
    vector_name: str | None = None,
    filters: Iterable[FilterLike] = (),
    fields: Iterable[str] = (),
    created_indexes: Iterable[str] = (),
    api_key: str | None = None,
    **server: Unpack[ServerKeywords],
) -> Diagnosis:
    """Check an index, and say what to do about each fault.

    Of a folder: damaged files and documents, the model, truncated documents, payload indexes, the size,
    segments that are not optimised, free disk space and memory. Of a server: the same but for damage and disk
    space, which a server checks and does not report, and whether its version suits the client's.

    Args:
        location: An index folder, a folder of qdrant-client's local mode, or the URL of a Qdrant server.
        collection: Name of a collection; None for all, on a server all that this package made.
        model: The model that would be used; None for the one that each collection records. Models are never
            downloaded.
        model_settings: Arguments of `SparseTextEmbedding` for a model's name, such as `precision`.
        second_model: The second model that would be used, the same.
        vector_name: Sparse vector that would be searched; None for the one that the collection records.
        filters: Filters that would be used, whose fields need payload indexes.
        fields: More metadata keys that filters use.
        created_indexes: Metadata keys whose payload indexes are created when the index is opened
            (`indexed_fields`), and are not missed.
        api_key: Key of the server.
        **server: How to connect to it, as in `SpladeIndex`.

    Raises:
        InputError: An argument is not valid, or the location is neither a URL nor a folder with an index.
        CollectionNotFoundError: There is no index in the folder.
        IndexLockedError: A process has the folder open to write.
    """
    check_model_argument(model)
    check_model_argument(second_model)
    expected = Expectations(
        model=model,
        model_settings=dict(model_settings or {}),
        second_model=second_model,
        vector_name=vector_name,
        filters=tuple(filters),
        fields=tuple(fields),
        created_indexes=tuple(created_indexes),
    )
    place = resolved_location(location)
    if place == ":memory:":
        raise InputError("location is ':memory:', expected a folder or a URL: such an index is always empty.")
    if is_url(place):
        options = ServerOptions(api_key=api_key, **server)
        return Diagnosis(place, tuple(check_server(place, collection, expected, options)))
    if is_local_mode(Path(place)):
        return Diagnosis(place, tuple(check_local_mode(Path(place), collection)))
    return Diagnosis(place, tuple(check_folder(place, collection, expected)))
