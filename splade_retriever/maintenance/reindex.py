"""Encodes a collection again, with another model or other settings, and switches when that is complete."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Unpack

from splade_retriever.edge.client import EdgeClient
from splade_retriever.edge.process import EdgeProcess
from splade_retriever.encoding.model_loading import ModelArgument, load_encoder
from splade_retriever.errors import CollectionMismatchError, InputError, NotSupportedError, StorageError
from splade_retriever.index.collection import Collection
from splade_retriever.index.collection_model import CollectionModel
from splade_retriever.index.collection_settings import SECOND_NAME, SETTINGS_KEY, CollectionSettings
from splade_retriever.index.field_indexes import index_own_filters
from splade_retriever.index.opening import load_settings
from splade_retriever.index.options import ServerKeywords, VectorOptions
from splade_retriever.index.point_encoding import Encoders
from splade_retriever.index.splade_index import SpladeIndex
from splade_retriever.maintenance.reencode import PassReport, Reencoding, count_documents
from splade_retriever.maintenance.staging import (
    MAX_PASSES,
    StagingMark,
    changed_all_the_time,
    create_like,
    dense_vector_names,
    finish,
    index_like,
    not_found,
    open_collection,
    staging_mark,
)
from splade_retriever.protocols import DenseEncoder, Encoder, NodeEncoder, as_dense
from splade_retriever.validation import checked_int

if TYPE_CHECKING:
    from qdrant_client.client_base import QdrantBase

__all__ = ["ReindexReport", "Switch", "reindex"]

Switch = Literal["nothing to do", "replaced", "alias", "new name"]
"""How the new collection is used from now on: in the place of the old one (a folder), by the old alias (a
server), or by a new name."""


@dataclass(slots=True)
class ReindexReport:
    """Result of a reindexing."""

    index: str
    collection: str
    new_collection: str
    """Name of the collection with the new vectors: the same where it replaced the old one."""
    switch: Switch
    model: str
    old_model: str
    documents: int = 0
    encoded: int = 0
    """Documents that were encoded in this run; an interrupted run had encoded the others."""
    other_text: int = 0
    """Documents whose old vector was made of a text that is not stored (an adapter's own text, or a vector
    that the caller computed). They were encoded by their stored text."""
    passes: int = 0
    """Passes over all documents; more than two if the collection was changed meanwhile."""
    carried_over: int = 0
    """Documents that were written or deleted between the last pass and the switch of the alias, and repeated
    in the new collection after it."""
    seconds: float = 0.0


def reindex(
    place: "str | Path | QdrantBase",
    model: ModelArgument = None,
    *,
    collection: str = "splade",
    into: str | None = None,
    second_model: ModelArgument | Literal["none"] = None,
    dense: DenseEncoder | NodeEncoder | None = None,
    max_active_dims: int | None = None,
    min_weight: float | None = None,
    windows: Literal["truncate", "merge", "points"] | None = None,
    window_overlap: int | None = None,
    restart: bool = False,
    api_key: str | None = None,
    batch_size: int = 64,
    on_progress: Callable[[int, int], object] | None = None,
    **server: Unpack[ServerKeywords],
) -> ReindexReport:
    """Encode all documents into a new collection, and switch to it when it is complete.

    Until then the old collection stays as it is, and in use. Documents that are changed, added or deleted
    meanwhile are brought up to date in further passes, until a pass finds no difference. After an interrupt,
    the same call continues without encoding a document twice. The switch:

    - In a folder, the new collection takes the place and the name of the old one, in one step that a kill
      cannot divide.
    - On a server, where `collection` is an alias, the alias is changed in one call; the old collection stays.
      What was written to it between the last pass and the switch is repeated in the new one after the switch.
    - On a server, where `collection` is a collection, the new one has another name, which the report names,
      since a collection cannot be renamed.

    Dense vectors are copied if each document is one point; else `dense` makes them again. An index that is
    open on the collection in this process must be opened again afterwards.

    Args:
        place: A folder, the URL of a server, or a client.
        model: An encoder or the name of a model; None for the model of the collection.
        collection: The collection, or an alias of it.
        into: Name of the new collection; None to derive it from the old name.
        second_model: A second sparse encoder, which the collection then has beside the model; "none" to
            remove it, None for no change.
        dense: The dense encoder of the collection, as in `SpladeIndex`.
        max_active_dims: As in `SpladeIndex`; 0 for all, None for no change.
        min_weight: As in `SpladeIndex`; None for no change.
        windows: As in `SpladeIndex`; None for no change.
        window_overlap: As in `SpladeIndex`; None for no change.
        restart: Delete what an interrupted run with other arguments left.
        api_key: Key of the server.
        batch_size: Documents to encode and write together.
        on_progress: Called with the documents done and the number of documents, after each batch of the first
            pass.
        **server: How to connect to a server: `prefer_grpc`, `grpc_port`, `timeout`, `retry_for`, `ca`,
            `verify` as in `SpladeIndex`. `timeout` is 60 and `retry_for` 300 seconds unless set.

    Raises:
        CollectionNotFoundError: There is no such collection.
        CollectionMismatchError: The collection does not record its model, or `into` is something else.
        InputError: Bad settings.
        NotSupportedError: The collection has vectors that can be neither made again nor copied.
        StorageError: The store failed, or the collection was changed during each pass; the old one stays in
            use.
    """
    started = time.perf_counter()
    batch_size = checked_int("batch_size", batch_size, minimum=1)
    dense_encoder = None if dense is None else as_dense(dense)
    with open_collection(place, collection, create=False, api_key=api_key, server=server) as source:
        old = _settings_of(source)
        second = _second_for(source, old, second_model)
        encoders = Encoders(_encoder_for(source, model), dense_encoder, second)
        # None is "no change" here, and 0 "all weights".
        kept = checked_int("max_active_dims", max_active_dims, minimum=0, optional=True)
        vectors = VectorOptions(
            min_weight=min_weight,
            windows=windows,
            window_overlap=window_overlap,
            max_active_dims=kept or None,
        )
        changed = vectors.set()
        if kept == 0:
            changed["max_active_dims"] = None
        new = replace(old, encoder=dict(encoders.sparse.fingerprint), **_second(old, encoders), **changed)
        new.check()
        report = ReindexReport(
            index=source.location,
            collection=collection,
            new_collection=collection,
            switch="nothing to do",
            model=str(new.encoder.get("model")),
            old_model=str(old.encoder.get("model")),
            documents=count_documents(source),
        )
        if new.recipe() != old.recipe():
            alias_of = _alias_target(source)
            name = into or _new_name(source, alias_of)
            target = source.beside(name)
            work = Reencoding(source, target, old, new, encoders)
            _check_vectors(work)
            _prepare(work, restart=restart)
            last = _encode_all(work, report, batch_size, on_progress)
            _switch(work, report, alias_of)
            if report.switch == "alias" and alias_of is not None:
                replaced = source.beside(alias_of)
                replaced.settings, replaced.layout = source.settings, source.layout
                report.carried_over = work.carry_over(replaced, last.read, batch_size=batch_size)
    report.seconds = time.perf_counter() - started
    return report


# -- before --------------------------------------------------------------------------------------------------


def _settings_of(source: Collection) -> CollectionSettings:
    if not source.exists():
        raise not_found(source)
    load_settings(source, requested={}, vector_names={})
    if source.settings is None:
        raise CollectionMismatchError(
            f"Collection {source.name!r} does not record which model made it, expected one that "
            "splade-retriever made or adopted. Open it once with SpladeIndex(..., model=..., adopt=True)."
        )
    return source.settings


def _encoder_for(source: Collection, model: ModelArgument) -> Encoder:
    if model is None:
        return SpladeIndex(client=source.client, collection=source.name, create=False).model
    return load_encoder(model)


def _second_for(
    source: Collection, old: CollectionSettings, model: ModelArgument | Literal["none"]
) -> Encoder | None:
    if model is None:
        stored = CollectionModel(source, None, option="second_model")
        return None if old.second_encoder is None else stored.encoder
    return None if model == "none" else load_encoder(model)


def _second(old: CollectionSettings, encoders: Encoders) -> dict[str, Any]:
    """Return the settings of the second model, under the name of its vectors that the collection has."""
    if encoders.second is None:
        return {"second_encoder": None, "second_name": None}
    name = old.second_name or SECOND_NAME
    return {"second_encoder": dict(encoders.second.fingerprint), "second_name": name}


def _alias_target(source: Collection) -> str | None:
    """Return the collection that a name is an alias of; None for the name of a collection."""
    if isinstance(source.client, EdgeClient | EdgeProcess):
        return None
    return source.aliases_in_store().get(source.name)


def _new_name(source: Collection, alias_of: str | None) -> str:
    """Return the next numbered name that is free or that an interrupted run left."""
    if isinstance(source.client, EdgeClient | EdgeProcess):
        return f"{source.name}.next"
    number = 2
    while True:
        name = f"{source.name}.{number}"
        candidate = source.beside(name)
        if name != alias_of and (not candidate.exists() or staging_mark(candidate) is not None):
            return name
        number += 1


def _check_vectors(work: Reencoding) -> None:
    """Check that every vector of the collection can be made again or copied."""
    params = work.source.describe().config.params
    names = {*dense_vector_names(params), *(params.sparse_vectors or {})}
    others = names - {work.old.vector_name, work.old.second_name, work.old.dense_name}
    if others:
        raise NotSupportedError(
            f"Collection {work.source.name!r} has the vectors {sorted(map(repr, others))} beside its own, "
            "and they would be lost. Encode the documents into a new collection instead."
        )
    dense = work.encoders.dense
    if dense is not None and work.old.dense_name is None:
        raise InputError(
            f"dense= is passed, but collection {work.source.name!r} has no dense vectors. Leave it out."
        )
    is_copied = work.old.dense_name is not None and dense is None
    if is_copied and "points" in (work.old.windows, work.new.windows):
        raise NotSupportedError(
            f"Collection {work.source.name!r} has one dense vector per window, and the windows change with "
            "the model, so the vectors cannot be copied. Pass dense= with its dense encoder (in Python)."
        )


def _prepare(work: Reencoding, *, restart: bool) -> None:
    """Create the new collection, or continue with the one that an interrupted run left."""
    source, target = work.source, work.target
    settings = work.new.to_metadata()[SETTINGS_KEY]
    if target.exists():
        mark = staging_mark(target)
        if mark is None or mark.command != "reindex":
            raise CollectionMismatchError(
                f"Collection {target.name!r} exists at {target.location!r}, expected no collection, or one "
                "that `splade reindex` left. Choose another name for the new collection."
            )
        if restart:
            target.drop()
        elif not _has_settings(mark, settings):
            model = ((mark.settings or {}).get("encoder") or {}).get("model")
            raise CollectionMismatchError(
                f"Collection {target.name!r} was left by an interrupted reindexing with model {model!r} or "
                f"other settings, expected model {work.new.encoder.get('model')!r} with the present "
                "settings. Run that one again to its end, or pass restart (--restart) to delete it."
            )
    if not target.exists():
        create_like(source, target, command="reindex", settings=settings)
    index_like(source, target)
    target.settings, target.layout = work.new, work.new.layout
    index_own_filters(target)


def _has_settings(mark: StagingMark, settings: dict[str, Any]) -> bool:
    left = CollectionSettings.from_metadata({SETTINGS_KEY: dict(mark.settings or {})}, "")
    wanted = CollectionSettings.from_metadata({SETTINGS_KEY: settings}, "")
    return left is not None and wanted is not None and left.recipe() == wanted.recipe()


# -- encoding and switching ----------------------------------------------------------------------------------


def _encode_all(
    work: Reencoding,
    report: ReindexReport,
    batch_size: int,
    on_progress: Callable[[int, int], object] | None,
) -> PassReport:
    """Encode all documents, then repeat until a pass finds no difference, and return that pass.

    Raises:
        StorageError: The collection was changed during each pass.
    """
    total = report.documents

    def advance(done: int) -> None:
        if on_progress is not None and report.passes == 1:
            on_progress(done, total)

    while report.passes <= MAX_PASSES:
        report.passes += 1
        found = work.run_pass(batch_size=batch_size, on_written=advance)
        report.documents, report.other_text = found.documents, found.other_text
        report.encoded += found.encoded
        if found.changes == 0 and count_documents(work.source) == count_documents(work.target):
            return found
    raise StorageError(changed_all_the_time(work.source, work.target, "reindex"))


def _switch(work: Reencoding, report: ReindexReport, alias_of: str | None) -> None:
    source, target = work.source, work.target
    settings = work.new.to_metadata()[SETTINGS_KEY]
    client = source.client
    if isinstance(client, EdgeClient | EdgeProcess) and target.name == f"{source.name}.next":
        metadata = dict(client.get_collection(target.name).config.metadata or {}) | {SETTINGS_KEY: settings}
        client.replace_collection(source.name, target.name, metadata=metadata)
        report.switch = "replaced"
        return
    # After a kill between the two calls, the new collection is complete and the alias points to the old one.
    finish(source, target, settings)
    report.new_collection, report.switch = target.name, "new name"
    if alias_of is not None:
        source.switch_alias(target.name)
        report.switch = "alias"
