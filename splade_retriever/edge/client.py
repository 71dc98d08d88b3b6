"""EdgeClient: qdrant-client's interface, served in this process by Qdrant Edge, without a server.

Its calls stand in groups: edge_collections.py manages collections, edge_write.py writes points,
edge_read.py reads them, edge_search.py ranks them, edge_server_only.py refuses what needs a server. Under
them, edge_folder.py keeps the folder (edge_stored.py its layout, edge_lock.py its lock), and
edge_convert.py, edge_query.py and edge_errors.py speak to the engine.
"""

from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from qdrant_client import models
from qdrant_client.client_base import QdrantBase

from splade_retriever.edge.collections import CollectionCalls
from splade_retriever.edge.query import SearchCalls
from splade_retriever.edge.read import ReadCalls
from splade_retriever.edge.storage import EdgeFolder
from splade_retriever.edge.unsupported import ServerOnlyCalls
from splade_retriever.edge.write import WriteCalls

__all__ = ["EdgeClient"]


class EdgeClient(CollectionCalls, WriteCalls, ReadCalls, SearchCalls, ServerOnlyCalls):
    """qdrant-client's interface on a folder of Qdrant Edge shards: an index without a server.

    Takes the arguments and gives the types that `QdrantClient` does, so code written for one works with the
    other. Safe to use from several threads. A folder is open in one client at a time.

    A write is in the engine's log when its call returns, and survives a killed process; the log is worked off
    every 256 calls and on `close`. Of an upsert of up to 1,024 points a killed process leaves all or none;
    a larger one and a stream (`upload_points`) are made in several calls of the engine.

    Nothing is optimised without being asked, see `optimize`.

    What differs from a server: an empty sparse vector is refused (leave it out), and payload floats may come
    back changed in the 17th digit, since the engine does not read its own JSON exactly.
    """

    def __init__(
        self, location: str | Path = ":memory:", *, temporary: bool = False, holder: int | None = None
    ) -> None:
        """Open a folder, or make it.

        Args:
            location: The folder, or ":memory:" for a temporary one, which is removed on `close` or with the
                client.
            temporary: Remove this folder, too.
            holder: The process for which the folder is held, named to others that want it; None for this one.

        Raises:
            IndexLockedError: It is open already, here or in another process.
            StorageError: It cannot be read or written, or holds something else.
        """
        super().__init__(EdgeFolder(location, temporary=temporary, holder=holder))

    @property
    def location(self) -> str:
        """The folder as it was given, or ":memory:"."""
        return self._folder.location

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._folder.closed

    def close(self, **kwargs: Any) -> None:
        """Write everything out and let go of the folder; a second call does nothing."""
        self._folder.close()

    def hand_over(self) -> tuple[Path, bool]:
        """Close, and leave the folder to whoever opens it next, also a temporary one.

        Returns:
            The folder, and whether it is a temporary one, to be removed by the next client.
        """
        return self._folder.hand_over()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"EdgeClient({self.location!r}{', closed' if self.closed else ''})"

    def info(self) -> models.VersionInfo:
        """Name the engine and its version."""
        return models.VersionInfo(title="Qdrant Edge", version=version("qdrant-edge-py"))

    def migrate(
        self,
        dest_client: QdrantBase,
        collection_names: list[str] | None = None,
        batch_size: int = 100,
        recreate_on_collision: bool = False,
    ) -> None:
        """Copy collections into another client, such as one of a server."""
        from qdrant_client.migrate.migrate import migrate

        migrate(
            self,
            dest_client,
            collection_names=collection_names,
            batch_size=batch_size,
            recreate_on_collision=recreate_on_collision,
        )
