"""Read what is left of a damaged index folder, and check each document against what is stored with it.

A point stores a checksum of its text, and a content hash of everything that decided its vector. The engine
may return wrong data for a damaged file, or end its process. So it runs on a copy of the folder, and if files
are damaged or were never compared, in a child process. A child that ended is started again.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from qdrant_client import models

from splade_retriever.edge.client import EdgeClient
from splade_retriever.edge.process import EdgeProcess
from splade_retriever.errors import InputError, StorageError
from splade_retriever.index.collection_settings import CollectionSettings
from splade_retriever.index.documents import Document, DocumentKey, Hit
from splade_retriever.index.payload import (
    Layout,
    has_text,
    joined_windows,
    package_fields,
    point_id,
    text_checksum,
    to_hit,
    window_count,
)
from splade_retriever.maintenance.reencode import find_encoded_text

__all__ = ["DamagedDocument", "ReadDocument", "Salvage"]

_PAGE: Final = 256
_MAX_STARTS: Final = 50
"""How often the engine is started again for one folder before its reading is given up."""


@dataclass(frozen=True, slots=True)
class DamagedDocument:
    """A document that cannot be read, or that differs from what was stored with it."""

    id: str
    """The user's id where it can be read, else the engine's id of the point."""
    reason: str


@dataclass(frozen=True, slots=True)
class ReadDocument:
    """A document that was read."""

    document: Document
    payload: dict[str, Any]
    """The payload of its first point."""
    verified: bool
    """Whether its text was compared with a checksum or a content hash. Documents that older versions or other
    programs wrote may have neither."""
    knows_encoded_text: bool
    """Whether the text that its vector was made of is known."""


class Salvage:
    """The documents of a folder whose files may be damaged. The folder is only read."""

    def __init__(self, folder: str | Path) -> None:
        """Copy the folder, and open the copy.

        Raises:
            CollectionNotFoundError: There is no index in the folder.
            IndexLockedError: Another process has the folder open to write.
            StorageError: The folder cannot be read, or is something else.
        """
        self._folder = folder
        self._starts = 0
        self._client: EdgeClient | EdgeProcess = self._opened()

    @property
    def client(self) -> EdgeClient | EdgeProcess:
        """The client of the copy; another one after the engine ended its process."""
        return self._client

    @property
    def collections(self) -> list[str]:
        """The names of the collections, sorted."""
        return sorted(described.name for described in self._client.get_collections().collections)

    def damaged_files(self, collection: str) -> list[str] | None:
        """Compare a collection's files with the checksums of its last closing; None if there are none.

        Call it before the documents of the collection are read.
        """
        return self._client.damaged_files(collection)

    def documents(self, collection: str) -> Iterator[ReadDocument | DamagedDocument]:
        """Read and check all documents of a collection, in the engine's order.

        Raises:
            StorageError: Not even the ids can be read.
        """
        config = self._client.get_collection(collection).config
        settings = CollectionSettings.from_metadata(config.metadata, collection)
        checker = _Checker(settings, settings.layout if settings is not None else None)
        for ids in self._pages_of_ids(collection):
            records, faults = self._retrieve(collection, ids)
            yield from (DamagedDocument(str(id), reason) for id, reason in faults.items())
            for record in records:
                if checker.is_first(record):
                    yield self._document(collection, record, checker)

    def close(self) -> None:
        """End the child process, if there is one, and remove the copy."""
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _document(
        self, collection: str, first: models.Record, checker: "_Checker"
    ) -> ReadDocument | DamagedDocument:
        hits = []
        verified = True
        try:
            later = checker.later_points(first)
            records, faults = self._retrieve(collection, later)
            if faults or len(records) < len(later):
                raise InputError("some of its windows cannot be read")
            by_id = {record.id: record for record in records}
            for number, record in enumerate([first, *(by_id[id] for id in later)]):
                hit, has_checksum = checker.checked(record, number)
                hits.append(hit)
                verified = verified and has_checksum
        except InputError as error:
            return DamagedDocument(checker.shown_id(first), str(error).removesuffix("."))
        hit = hits[0] if len(hits) == 1 else joined_windows(hits)
        return checker.read_document(hit, first, verified=verified)

    def _pages_of_ids(self, collection: str) -> Iterator[list[models.ExtendedPointId]]:
        offset: Any = None
        while True:
            page = partial(_page_of_ids, collection=collection, offset=offset)
            records, offset = self._call(page)
            yield [record.id for record in records]
            if offset is None:
                return

    def _retrieve(
        self, collection: str, ids: Sequence[models.ExtendedPointId]
    ) -> tuple[list[models.Record], dict[models.ExtendedPointId, str]]:
        """Return points, and the faults of those that cannot be read, by id."""
        if not ids:
            return [], {}
        try:
            records = self._call(lambda client: client.retrieve(collection, ids=ids))
        except StorageError as error:
            if len(ids) == 1:
                return [], {ids[0]: f"the engine cannot read it ({error})"}
            middle = len(ids) // 2
            halves = [self._retrieve(collection, half) for half in (ids[:middle], ids[middle:])]
            return [*halves[0][0], *halves[1][0]], halves[0][1] | halves[1][1]
        present = {record.id for record in records}
        return records, {id: "the engine does not find it" for id in ids if id not in present}

    def _call(self, call: Callable[[EdgeClient | EdgeProcess], Any]) -> Any:
        try:
            return call(self._client)
        except StorageError:
            self._client.close()
            if self._starts > _MAX_STARTS:
                raise
            self._client = self._started()
            raise

    def _opened(self) -> EdgeClient | EdgeProcess:
        """Open the copy in this process if all its files equal their checksums, else in a child."""
        client = EdgeClient(self._folder, read_only=True, ignore_damage=True)
        names = [described.name for described in client.get_collections().collections]
        if all(client.damaged_files(name) == [] for name in names):
            return client
        client.close()
        return self._started()

    def _started(self) -> EdgeProcess:
        self._starts += 1
        return EdgeProcess(self._folder, read_only=True, ignore_damage=True)


def _page_of_ids(
    client: EdgeClient | EdgeProcess, collection: str, offset: models.ExtendedPointId | None
) -> tuple[list[models.Record], models.ExtendedPointId | None]:
    return client.scroll(collection, limit=_PAGE, offset=offset, with_payload=False)


class _Checker:
    """Compares points of one collection with what is stored with them."""

    def __init__(self, settings: CollectionSettings | None, layout: Layout | None) -> None:
        self._recipe = None if settings is None else settings.recipe()
        self._layout = layout

    def is_first(self, record: models.Record) -> bool:
        """Return whether a point is the first of its document, as far as can be read."""
        window = package_fields(record).get("window")
        return not isinstance(window, dict) or window.get("n", 0) == 0

    def shown_id(self, record: models.Record) -> str:
        """Return an id for the user."""
        return str(package_fields(record).get("id", record.id))

    def later_points(self, first: models.Record) -> list[models.ExtendedPointId]:
        """Return the ids of the other points of a document.

        Raises:
            InputError: The first one is damaged.
        """
        count = window_count(first)
        if count == 1:
            return []
        key = self._key(to_hit(first, self._layout_of(first), ""))
        return [point_id(key, self._layout_of(first), n) for n in range(1, count)]

    def checked(self, record: models.Record, number: int) -> tuple[Hit, bool]:
        """Return a point as a hit, and whether it has a checksum, which its text then matches.

        Raises:
            InputError: It is damaged, or its payload is not that of a document.
        """
        layout = self._layout_of(record)
        if not has_text(record, layout):
            raise InputError(f"its payload has no text under {layout.content_key!r}")
        hit = to_hit(record, layout, "")
        own = package_fields(record)
        if own and record.id != point_id(self._key(hit), layout, number):
            raise InputError("its id differs from the one it was stored under")
        checksum = own.get("checksum")
        if checksum is not None and checksum != text_checksum(hit.text):
            raise InputError("its text differs from its checksum")
        return hit, checksum is not None

    def read_document(self, hit: Hit, first: models.Record, *, verified: bool) -> ReadDocument:
        """Return a whole document, compared with its content hash where it has no checksum."""
        own = package_fields(first)
        document = Document(
            position=0,
            id=hit.id,
            text=hit.text,
            metadata=hit.metadata,
            extra=own.get("extra", hit.extra or None),
            tenant=self._key(hit).tenant,
        )
        known = False
        if self._recipe is not None and own.get("hash") is not None:
            document, known = find_encoded_text(document, own["hash"], self._recipe)
        return ReadDocument(document, dict(first.payload or {}), verified or known, known)

    def _key(self, hit: Hit) -> DocumentKey:
        layout = self._layout or Layout()
        return DocumentKey(hit.id, layout.tenant_of(hit.metadata))

    def _layout_of(self, record: models.Record) -> Layout:
        return self._layout or Layout.of_payload(record.payload or {}) or Layout(native_ids=True)
