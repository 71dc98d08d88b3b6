"""Checks of one collection, in a folder or on a server: its model, its long texts, its payload indexes."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from splade_retriever.encoding.model_loading import ModelArgument, load_encoder
from splade_retriever.encoding.windows import WindowTokenizer
from splade_retriever.errors import CollectionMismatchError, SpladeError
from splade_retriever.filters import FilterLike, field_path, to_qdrant_filter
from splade_retriever.index.collection import Collection
from splade_retriever.index.collection_model import CollectionModel
from splade_retriever.index.collection_settings import differences
from splade_retriever.index.payload_indexes import filtered_paths
from splade_retriever.maintenance.diagnosis.findings import Finding
from splade_retriever.protocols import Encoder

__all__ = [
    "DocumentSample",
    "Expectations",
    "check_fields",
    "check_model",
    "check_second_model",
    "check_truncation",
    "expected_paths",
]

_TEXTS_PER_BATCH: Final = 256
_MANY_DOCUMENTS: Final = 10_000
"""Documents from which a filter without a payload index takes long."""
_PLAIN_PATH: Final = re.compile(r"[^\".]+(\.[^\".]+)*")
"""A path without quoted names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectations:
    """How a collection would be used; described at `diagnose`."""

    model: ModelArgument
    model_settings: Mapping[str, Any]
    second_model: ModelArgument
    vector_name: str | None
    filters: tuple[FilterLike, ...]
    fields: tuple[str, ...]
    created_indexes: tuple[str, ...]


class DocumentSample:
    """Counts over documents that are read one after another."""

    def __init__(self, encoder: Encoder | None, paths: Iterable[str]) -> None:
        """Count truncated texts by the tokenizer of `encoder`, and the kinds of values at payload paths."""
        tokenizer = getattr(encoder, "tokenizer", None)
        self._tokenizer = tokenizer if isinstance(tokenizer, WindowTokenizer) else None
        self._texts: list[str] = []
        self._truncated = 0
        self.documents = 0
        self.kinds: dict[str, set[str]] = {path: set() for path in paths}
        """Path -> kinds of payload index that suit the values at it; empty if no document has the field."""

    def add(self, text: str, payload: Mapping[str, Any]) -> None:
        """Count a document."""
        self.documents += 1
        for path, kinds in self.kinds.items():
            kinds.update(_kind(value) for value in _values_at(payload, path))
        if self._tokenizer is not None:
            self._texts.append(text)
            if len(self._texts) >= _TEXTS_PER_BATCH:
                self._count()

    @property
    def truncated(self) -> int | None:
        """Documents that are longer than the model reads; None without a tokenizer."""
        self._count()
        return None if self._tokenizer is None else self._truncated

    @property
    def max_length(self) -> int:
        """Tokens that the model reads of a text."""
        return 0 if self._tokenizer is None else self._tokenizer.max_length

    def _count(self) -> None:
        if self._tokenizer is not None and self._texts:
            self._truncated += sum(item.truncated > 0 for item in self._tokenizer.encode_batch(self._texts))
            self._texts.clear()


def check_model(collection: Collection, expected: Expectations) -> tuple[Finding, Encoder | None]:
    """Compare the model that a collection records with the one that would be used.

    Returns:
        The finding, and the encoder if it is the right one and can be opened without a download.
    """
    result = partial(Finding, check="model", collection=collection.name)
    settings = collection.settings
    try:
        encoder = _encoder(collection, expected)
    except CollectionMismatchError as error:
        found, _, advice = str(error).partition(". ")
        return result(level="fault", found=found, advice=advice), None
    except SpladeError as error:
        is_passed = expected.model is not None
        return result(
            level="fault" if is_passed else "warning",
            found=f"the model cannot be opened without a download: {error}",
            advice="Check its name, or load it once where the network can be reached.",
        ), None
    name = encoder.fingerprint.get("model")
    if settings is None:
        return result(
            level="warning",
            found="another program made the collection, which does not record its model",
            advice=(
                "Pass the model that made its vectors, model= or --model. "
                "SpladeIndex(..., model=..., adopt=True) records it."
            ),
        ), encoder if expected.model is not None else None
    differing = differences(settings.encoder, encoder.fingerprint)
    if differing:
        made_by, used = _described(settings.encoder, differing), _described(encoder.fingerprint, differing)
        return result(
            level="fault",
            found=f"made by {made_by}, but {used} would be used",
            advice=(
                "Leave the model out, which selects the one that made the collection, or encode the texts "
                "again with `splade reindex --model`."
            ),
        ), None
    precision = encoder.fingerprint.get("precision")
    return result(found=f"{name}" if precision is None else f"{name} ({precision})"), encoder


def check_second_model(collection: Collection, expected: Expectations) -> Finding | None:
    """Compare the second model that a collection records with the one that would be used; None for none."""
    result = partial(Finding, check="second model", collection=collection.name)
    passed, settings = expected.second_model, collection.settings
    if settings is None or settings.second_encoder is None:
        if settings is None or passed is None:
            return None
        return result(
            level="fault",
            found=f"the collection has no vectors of a second model, but {passed!r} would be used",
            advice="Leave the second model out, or add its vectors with `splade reindex --second-model`.",
        )
    try:
        encoder = CollectionModel(collection, passed, local_files_only=True, option="second_model").encoder
    except CollectionMismatchError as error:
        found, _, advice = str(error).partition(". ")
        return result(level="fault", found=found, advice=advice)
    except SpladeError as error:
        found, _, advice = str(error).partition(". ")
        return result(level="warning", found=f"it cannot be opened here: {found}", advice=advice)
    return result(found=f"{encoder.fingerprint.get('model')}")


def _described(fingerprint: Mapping[str, Any], differing: Mapping[str, Any]) -> str:
    """Name a model, with the settings that differ if the names are equal."""
    name = repr(fingerprint.get("model"))
    if "model" in differing:
        return name
    return f"{name} with {', '.join(f'{key} {fingerprint.get(key)!r}' for key in differing)}"


def _encoder(collection: Collection, expected: Expectations) -> Encoder:
    if expected.model is None:
        return CollectionModel(collection, None, local_files_only=True).unchecked
    if not isinstance(expected.model, str):
        return load_encoder(expected.model)
    return load_encoder(expected.model, settings={**expected.model_settings, "local_files_only": True})


def check_truncation(collection: Collection, sample: DocumentSample, *, of: int) -> Finding | None:
    """Report the share of documents of which the model reads the beginning only; None if it is not known.

    Args:
        collection: The collection.
        sample: The documents that were read.
        of: How many documents there are.
    """
    settings = collection.settings
    if settings is None or sample.truncated is None or not sample.documents:
        return None
    result = partial(Finding, check="long texts", collection=collection.name)
    if settings.windows != "truncate":
        return result(found=f'encoded completely, in windows (windows="{settings.windows}")')
    read = f"{sample.documents:,}" if sample.documents >= of else f"the first {sample.documents:,}"
    found = f"{sample.truncated:,} of {read} documents have more than {sample.max_length} tokens"
    if not sample.truncated:
        return result(found=found)
    return result(
        level="warning",
        found=f"{found} ({sample.truncated / sample.documents:.1%}), and their rest is not searched",
        advice="Encode them completely: `splade reindex --windows merge`.",
    )


# -- payload indexes -----------------------------------------------------------------------------------------


def expected_paths(collection: Collection, expected: Expectations) -> list[str]:
    """Return the payload paths that filters would use, sorted.

    Raises:
        FilterError: A filter is not valid.
    """
    layout = collection.layout
    path_of = partial(field_path, metadata_key=layout.metadata_key, escaped_path=layout.escaped_path)
    to_filter = partial(
        to_qdrant_filter,
        metadata_key=layout.metadata_key,
        content_key=layout.content_key,
        escaped_path=layout.escaped_path,
    )
    paths = {path for item in expected.filters for path in filtered_paths(to_filter(item))}
    paths.update(map(path_of, expected.fields))
    if layout.tenant_field is not None:
        paths.add(path_of(layout.tenant_field))
    return sorted(paths.difference(map(path_of, expected.created_indexes)))


def check_fields(
    collection: Collection, sample: DocumentSample, indexed: Mapping[str, Any], *, of: int, strict: bool
) -> Iterator[Finding]:
    """Report fields that filters use and that have no payload index.

    Args:
        collection: The collection.
        sample: Has the kinds of values of each field.
        indexed: The collection's payload indexes, by path.
        of: How many documents there are.
        strict: Whether the server refuses filters without an index.
    """
    for path, kinds in sample.kinds.items():
        name = path.removeprefix(f"{collection.layout.metadata_key}.")
        result = partial(Finding, check=f"payload index of {name!r}", collection=collection.name)
        kind = next(iter(kinds)) if len(kinds) == 1 else "keyword"
        advice = f'Create one: SpladeIndex(..., indexed_fields={{"{name}": "{kind}"}}).'
        if path in indexed:
            yield result(found=f"kind {_index_kind(indexed[path])}")
        elif not kinds and sample.documents:
            yield result(
                level="warning",
                found=f"none, and none of {sample.documents:,} documents has the field",
                advice="Check the spelling of the field: a filter that needs it finds nothing.",
            )
        elif strict:
            yield result(
                level="fault", found="none, and the server refuses filters without one", advice=advice
            )
        elif of >= _MANY_DOCUMENTS:
            yield result(
                level="warning", found=f"none: a filter reads each of {of:,} documents", advice=advice
            )
        else:
            yield result(found=f"none, which {of:,} documents do not need")


def _index_kind(index: Any) -> str:
    kind = getattr(index, "data_type", None)
    return str(getattr(kind, "value", kind))


def _values_at(payload: Mapping[str, Any], path: str) -> Iterator[Any]:
    """Yield the values at a path; elements of lists one by one."""
    if not _PLAIN_PATH.fullmatch(path):
        return
    values: list[Any] = [payload]
    for name in path.replace("[]", "").split("."):
        values = [item[name] for item in values if isinstance(item, Mapping) and name in item]
        values = [inner for item in values for inner in (item if isinstance(item, list) else [item])]
    yield from (item for item in values if item is not None)


def _kind(value: Any) -> str:
    kinds: tuple[tuple[type, str], ...] = ((bool, "bool"), (int, "integer"), (float, "float"))
    return next((kind for type_, kind in kinds if isinstance(value, type_)), "keyword")
