"""Encodes a collection anew, with another model or other settings, and switches over when it is complete."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from splade_retriever.edge.client import EdgeClient
from splade_retriever.edge.process import EdgeProcess
from splade_retriever.encoding.model_loading import ModelArgument, load_encoder
from splade_retriever.errors import (
    CollectionMismatchError,
    InputError,
    NotSupportedError,
    StorageError,
)
from splade_retriever.index import documents as docs
from splade_retriever.index.collection import Collection
from splade_retriever.index.collection_settings import SETTINGS_KEY, CollectionSettings
from splade_retriever.index.connection import call_with_retry
from splade_retriever.index.documents import OWN_KEY, Document, Hit
from splade_retriever.index.ingest import Stored, ingest
from splade_retriever.index.point_encoding import to_points
from splade_retriever.index.splade_index import SpladeIndex
from splade_retriever.maintenance.staging import (
    StagingMark,
    create_like,
    finish,
    index_like,
    missing,
    opened,
    staging_mark_of,
)
from splade_retriever.protocols import DenseEncoder, Encoder

if TYPE_CHECKING:
    from qdrant_client import models
    from qdrant_client.client_base import QdrantBase

__all__ = ["ReindexReport", "Switch", "reindex"]

Switch = Literal["nothing to do", "replaced", "alias", "new name"]
"""How the new collection came to be used: in the old one's place (a folder), by its alias (a server), or
under a new name that is to be used from now on."""

_READ: Final = 64
_CONTEXT_KEYS: Final = ("heading", "title")
"""Metadata that `splade index` encodes above a text."""


@dataclass(slots=True)
class ReindexReport:
    """What was done."""

    index: str
    collection: str
    new_collection: str
    """Where the new vectors are: the same name where they took the old ones' place."""
    switch: Switch
    model: str
    old_model: str
    documents: int = 0
    encoded: int = 0
    """Documents that were encoded in this run; the others were left by an interrupted one."""
    other_text: int = 0
    """Documents whose vector was made of another text than the stored one, which is not stored (an adapter's
    own, or a ready vector): they were encoded by their stored text."""
    seconds: float = 0.0


@dataclass(slots=True)
class _Work:
    """Everything that the encoding of one collection needs."""

    source: Collection
    target: Collection
    old: CollectionSettings
    new: CollectionSettings
    encoder: Encoder
    dense: DenseEncoder | None
    report: ReindexReport
    counted: set[str] = field(default_factory=set)


def reindex(
    place: "str | Path | QdrantBase",
    model: ModelArgument = None,
    *,
    collection: str = "splade",
    into: str | None = None,
    dense: DenseEncoder | None = None,
    max_active_dims: int | None = None,
    min_weight: float | None = None,
    windows: Literal["truncate", "merge", "points"] | None = None,
    window_overlap: int | None = None,
    restart: bool = False,
    api_key: str | None = None,
    batch_size: int = 64,
    on_progress: Callable[[int, int], object] | None = None,
) -> ReindexReport:
    """Encode all documents into a new collection, and switch to it when it is complete.

    Until then the old collection is as it was, and in use. Interrupted and started again with the same
    arguments, documents that are encoded already are not encoded again. The switch:

    - a folder: the new collection takes the old one's place and name, in one step that a kill cannot halve;
    - a server, where `collection` is an alias: the alias is changed in one call; the old collection stays;
    - a server, where it is a collection: a collection cannot be renamed, so the new one keeps its own name,
      which the report tells.

    Dense vectors are taken over where each document is one point; else `dense` makes them anew. An index that
    is open on the collection in this process must be opened again afterwards.

    Args:
        place: A folder, the URL of a server, or a ready client.
        model: An encoder or a model's name; None for the one that the collection has.
        collection: The collection, or an alias of it.
        into: Name of the new collection; None for one made of the old name.
        dense: The collection's dense encoder.
        max_active_dims: As in `SpladeIndex`; 0 for all, None to leave it as it is.
        min_weight: As in `SpladeIndex`; None to leave it as it is.
        windows: As in `SpladeIndex`; None to leave it as it is.
        window_overlap: As in `SpladeIndex`; None to leave it as it is.
        restart: Throw away what an interrupted run with other arguments has left.
        api_key: Of the server.
        batch_size: Documents to encode and write together.
        on_progress: Called with documents done and documents in all, after each batch.

    Raises:
        CollectionNotFoundError: There is no such collection.
        CollectionMismatchError: The collection does not remember its model, or `into` is something else.
        InputError: Bad settings.
        NotSupportedError: The collection holds vectors that cannot be made anew or taken over.
        StorageError: The store failed, or the new collection is not complete; the old one stays in use.
    """
    started = time.perf_counter()
    asked = {
        "max_active_dims": max_active_dims,
        "min_weight": min_weight,
        "windows": windows,
        "window_overlap": window_overlap,
    }
    with opened(place, collection, create=False, api_key=api_key) as source:
        old = _memory(source)
        encoder = _encoder(source, model)
        settings: dict[str, Any] = {name: value for name, value in asked.items() if value is not None}
        if max_active_dims == 0:
            settings["max_active_dims"] = None
        new = replace(old, encoder=dict(encoder.fingerprint), **settings)
        new.check()
        report = ReindexReport(
            index=source.location,
            collection=collection,
            new_collection=collection,
            switch="nothing to do",
            model=str(new.encoder.get("model")),
            old_model=str(old.encoder.get("model")),
            documents=_documents_in(source),
        )
        if new.recipe() != old.recipe():
            alias_of = _alias_of(source)
            name = into or _new_name(source, alias_of)
            target = Collection(source.client, name, source.location, owned=False)
            work = _Work(source, target, old, new, encoder, dense, report)
            _check_vectors(work)
            _prepare(work, restart=restart)
            _encode_all(work, batch_size, on_progress)
            _check_complete(work)
            _switch(work, alias_of)
    report.seconds = time.perf_counter() - started
    return report


# -- before --------------------------------------------------------------------------------------------------


def _memory(source: Collection) -> CollectionSettings:
    if not source.exists():
        raise missing(source)
    source.open({}, {}, None)
    if source.settings is None:
        raise CollectionMismatchError(
            f"collection {source.name!r} does not remember which model made it, expected one that "
            "splade-retriever made or adopted. Open it once with SpladeIndex(..., model=..., adopt=True)."
        )
    return source.settings


def _encoder(source: Collection, model: ModelArgument) -> Encoder:
    if model is None:
        return SpladeIndex(client=source.client, collection=source.name, create=False).model
    return load_encoder(model)


def _alias_of(source: Collection) -> str | None:
    """Find the collection that a name is an alias of; None for a collection's own name."""
    if isinstance(source.client, EdgeClient | EdgeProcess):
        return None
    aliases = call_with_retry(
        source.client.get_aliases, doing=f"list the aliases at {source.location!r}"
    ).aliases
    return next((found.collection_name for found in aliases if found.alias_name == source.name), None)


def _new_name(source: Collection, alias_of: str | None) -> str:
    """Name the new collection: the next number that is free or that an interrupted run has left."""
    if isinstance(source.client, EdgeClient | EdgeProcess):
        return f"{source.name}.next"
    number = 2
    while True:
        name = f"{source.name}.{number}"
        candidate = Collection(source.client, name, source.location, owned=False)
        if name != alias_of and (not candidate.exists() or staging_mark_of(candidate) is not None):
            return name
        number += 1


def _check_vectors(work: _Work) -> None:
    """See that every vector of the collection can be made anew or taken over."""
    params = work.source.call("get_collection").config.params
    dense = params.vectors if isinstance(params.vectors, dict) else ({"": None} if params.vectors else {})
    others = {*dense, *(params.sparse_vectors or {})} - {work.old.vector_name, work.old.dense_name}
    if others:
        raise NotSupportedError(
            f"collection {work.source.name!r} holds the vectors {sorted(map(repr, others))} beside those "
            "that it remembers, and they would be lost. Encode the documents into a new collection by hand."
        )
    if work.dense is not None and work.old.dense_name is None:
        raise InputError(
            f"dense= is given, but collection {work.source.name!r} has no dense vectors. Leave it out."
        )
    taken_over = work.old.dense_name is not None and work.dense is None
    if taken_over and "points" in (work.old.windows, work.new.windows):
        raise NotSupportedError(
            f"collection {work.source.name!r} has a dense vector a window, and the windows change with the "
            "model, so the vectors cannot be taken over. Pass dense= with its dense encoder (in Python)."
        )


def _prepare(work: _Work, *, restart: bool) -> None:
    """Create the new collection, or go on with the one that an interrupted run left."""
    source, target = work.source, work.target
    mark = work.new.to_metadata()[SETTINGS_KEY]
    if target.exists():
        arrival = staging_mark_of(target)
        if arrival is None or arrival.command != "reindex":
            raise CollectionMismatchError(
                f"collection {target.name!r} at {target.location!r} is in the way, expected none, or one "
                "that `splade reindex` left. Choose another name for the new collection."
            )
        if restart:
            target.call("delete_collection")
        elif not _is_of(arrival, mark):
            model = ((arrival.memory or {}).get("encoder") or {}).get("model")
            raise CollectionMismatchError(
                f"collection {target.name!r} was left by an interrupted reindex with model {model!r} or "
                f"other settings, expected model {work.report.model!r} with those given now. Run that "
                "one to its end, or pass restart (--restart) to throw it away."
            )
    if not target.exists():
        create_like(source, target, command="reindex", memory=mark)
    index_like(source, target)
    target.settings, target.layout = work.new, work.new.layout


def _is_of(arrival: StagingMark, memory: dict[str, Any]) -> bool:
    left = CollectionSettings.from_metadata({SETTINGS_KEY: dict(arrival.memory or {})}, "")
    wanted = CollectionSettings.from_metadata({SETTINGS_KEY: memory}, "")
    return left is not None and wanted is not None and left.recipe() == wanted.recipe()


# -- encoding ------------------------------------------------------------------------------------------------


def _encode_all(work: _Work, batch_size: int, on_progress: Callable[[int, int], object] | None) -> None:
    recipe = work.new.recipe()
    done = 0

    def written(ids: list[str]) -> None:
        nonlocal done
        done += len(ids)
        if on_progress is not None:
            on_progress(done, work.report.documents)

    ingest(
        _documents(work),
        batch_size=batch_size,
        hash_of=lambda document: docs.content_hash(document, recipe),
        lookup=lambda batch: _lookup(work, batch),
        encode=lambda batch: _encode(work, batch),
        write=work.target.write,
        on_error="raise",
        on_written=written,
        stop=threading.Event(),
        overlap=not work.target.one_thread,
    )
    work.report.documents = done


def _documents(work: _Work) -> Iterator[Document]:
    """Read the documents of the old collection, those kept as windows put together again."""
    source, recipe = work.source, work.old.recipe()
    records = source.scroll(source.of_documents(None), batch_size=_READ, with_vectors=False)
    for position, record in enumerate(records):
        hit = _whole(source, record)
        own = (record.payload or {}).get(OWN_KEY) or {}
        document = Document(position, hit.id, hit.text, hit.metadata, own.get("extra", hit.extra or None))
        encoded_text, known = _encoded_text(document, own.get("hash"), recipe)
        if not known:
            work.report.other_text += 1
        yield replace(document, encoded_text=encoded_text)


def _whole(source: Collection, record: "models.Record") -> Hit:
    first = docs.to_hit(record, source.layout, "")
    if first.window is None:
        return first
    count = (record.payload or {})[OWN_KEY]["window"]["of"]
    points = [docs.point_id(first.id, source.layout, n) for n in range(1, count)]
    found = {other.id: other for other in source.call("retrieve", ids=points, with_payload=True)}
    lost = [point for point in points if point not in found]
    if lost:
        raise StorageError(
            f"document {first.id!r} of collection {source.name!r} has {count} windows, of which "
            f"{len(lost)} are missing. The old collection stays in use; add that document again first."
        )
    return docs.whole_hit([first, *(docs.to_hit(found[point], source.layout, "") for point in points)])


def _encoded_text(document: Document, stored_hash: str | None, recipe: str) -> tuple[str | None, bool]:
    """Find the text that the old vector was made of, which the content hash proves.

    Returns:
        The text, None for the stored one; and whether that is known. A point of another program has no hash:
        its text is taken for what was encoded.
    """
    if stored_hash is None:
        return None, True
    above = [document.metadata.get(key) for key in _CONTEXT_KEYS]
    contexts = [f"{words}\n{document.text}" for words in above if isinstance(words, str) and words]
    for candidate in (None, *contexts):
        if docs.content_hash(replace(document, encoded_text=candidate), recipe) == stored_hash:
            return candidate, True
    return None, False


def _lookup(work: _Work, batch: Sequence[Document]) -> dict[str, Stored]:
    """Read what the new collection holds of these documents already."""
    layout = work.target.layout
    if layout.metadata_key is not None:
        return work.target.lookup(batch)
    # Metadata that lie inside a node are not changed in place: such a document is made anew.
    points = {docs.point_id(document.id, layout): document for document in batch}
    found: dict[str, Stored] = {}
    for record in work.target.call("retrieve", ids=list(points), with_payload=True):
        document, hit = points[record.id], docs.to_hit(record, layout, "")
        own = (record.payload or {}).get(OWN_KEY) or {}
        if hit.metadata == document.metadata:
            windows = (own.get("window") or {}).get("of", 1)
            found[document.id] = Stored(own.get("hash"), hit.metadata, windows)
    return found


def _encode(work: _Work, batch: Sequence[Document]) -> "list[list[models.PointStruct]]":
    """Make the new points; payload keys that are neither ours nor the layout's are taken over."""
    source, dense_name = work.source, work.old.dense_name
    points = [docs.point_id(document.id, source.layout) for document in batch]
    kept = None if work.dense is not None else dense_name
    found = {
        record.id: record
        for record in source.call(
            "retrieve", ids=points, with_payload=True, with_vectors=False if kept is None else [kept]
        )
    }
    dense: DenseEncoder | None = work.dense
    if kept is not None:
        dense = _Kept([_vector(found[point], kept) for point in points])
    made = to_points(batch, work.new, work.target.layout, work.encoder, dense)
    for point, windows in zip(points, made, strict=True):
        others = {key: value for key, value in (found[point].payload or {}).items() if key != OWN_KEY}
        for window in windows:
            window.payload = {**others, **(window.payload or {})}
    work.report.encoded += len(batch)
    return made


class _Kept:
    """Stands in for a dense encoder: gives the vectors that are stored."""

    def __init__(self, vectors: list[list[float]]) -> None:
        self._vectors = vectors

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return self._vectors

    def embed_query(self, text: str) -> list[float]:
        raise NotImplementedError


def _vector(record: "models.Record", name: str) -> list[float]:
    vector: Any = record.vector
    found = vector.get(name) if isinstance(vector, dict) else vector
    return list(found or [])


# -- switching -----------------------------------------------------------------------------------------------


def _check_complete(work: _Work) -> None:
    """Remove what the old collection has no longer, and see that everything is there.

    Raises:
        StorageError: The numbers of documents differ.
    """
    source, target = work.source, work.target
    if _documents_in(target) > _documents_in(source):
        gone = []
        for record in target.scroll(target.of_documents(None), batch_size=_READ, with_vectors=False):
            hit = docs.to_hit(record, target.layout, "")
            if not source.stored([hit.id]):
                windows = ((record.payload or {}).get(OWN_KEY) or {}).get("window") or {}
                gone += [
                    docs.point_id(hit.id, target.layout, n) for n in reversed(range(windows.get("of", 1)))
                ]
        target.delete_points(gone)
    here, there = _documents_in(source), _documents_in(target)
    if not here == there == work.report.documents:
        raise StorageError(
            f"collection {target.name!r} holds {there} documents, expected the {here} of {source.name!r} "
            f"({work.report.documents} were read). The old collection stays in use. It may have changed "
            "meanwhile: run the same command again."
        )


def _documents_in(store: Collection) -> int:
    return int(store.call("count", count_filter=store.of_documents(None), exact=True).count)


def _switch(work: _Work, alias_of: str | None) -> None:
    from qdrant_client import models

    source, target, report = work.source, work.target, work.report
    memory = work.new.to_metadata()[SETTINGS_KEY]
    client = source.client
    if isinstance(client, EdgeClient | EdgeProcess) and target.name == f"{source.name}.next":
        metadata = dict(client.get_collection(target.name).config.metadata or {}) | {SETTINGS_KEY: memory}
        client.replace_collection(source.name, target.name, metadata=metadata)
        report.switch = "replaced"
        return
    # Killed between the two calls, the new collection is whole and the alias still leads to the old one.
    finish(target, memory)
    report.new_collection, report.switch = target.name, "new name"
    if alias_of is not None:
        change: list[Any] = [
            models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name=source.name)),
            models.CreateAliasOperation(
                create_alias=models.CreateAlias(collection_name=target.name, alias_name=source.name)
            ),
        ]
        call_with_retry(
            lambda: client.update_collection_aliases(change_aliases_operations=change),
            doing=f"switch alias {source.name!r} to collection {target.name!r}",
        )
        report.switch = "alias"
