"""EdgeClient: qdrant-client's interface, served in this process by Qdrant Edge, without a server.

Its methods are in four parts: collections.py manages collections, write.py writes points, read.py reads
them, query.py ranks them. Each part calls the open folder (storage.py, layout.py, lock.py); the convert_*
modules and engine_errors.py translate between qdrant-client and the engine.
"""

from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from qdrant_client import QdrantClient, models
from qdrant_client.client_base import QdrantBase

from splade_retriever.edge.collections import CollectionManager
from splade_retriever.edge.delegation import delegate
from splade_retriever.edge.query import PointSearcher
from splade_retriever.edge.read import PointReader
from splade_retriever.edge.segments import unoptimized_bytes
from splade_retriever.edge.storage import EdgeFolder
from splade_retriever.edge.unsupported import server_only
from splade_retriever.edge.write import PointWriter

__all__ = ["EdgeClient"]


class EdgeClient(QdrantBase):
    """qdrant-client's interface on a folder of Qdrant Edge shards: an index without a server.

    Takes the same arguments and returns the same types as `QdrantClient`, so code written for one works with
    the other. Safe to use from several threads. Clients of one process that open the same folder share its
    engine; across processes, one opens a folder to write, and any number may open it with read_only=True.

    A client belongs to the process that opened it: in a fork, its methods raise ForkedProcessError.

    A write is in the engine's log when its method returns, and survives a killed process. The log is applied
    every 256 calls and on `close`. A process killed during an upsert of up to 1,024 points leaves all of them
    or none; a larger one and a stream (`upload_points`) are written in several calls of the engine.

    Nothing is optimised unless asked for; see `optimize`.

    Differences from a server: an empty sparse vector is refused (omit it), and payload floats come back
    exactly, which a server may change in the 17th digit.
    """

    def __init__(
        self,
        location: str | Path = ":memory:",
        *,
        temporary: bool = False,
        holder: int | None = None,
        create: bool = True,
        read_only: bool = False,
        ignore_damage: bool = False,
    ) -> None:
        """Open a folder, or create it.

        Args:
            location: The folder, or ":memory:" for a temporary one, which is removed on `close` or with the
                client.
            temporary: Remove this folder, too. With read_only=True it is such a copy already.
            holder: Id of the process for which the folder is held, named in the error that another process
                gets when it opens the folder; None for this process.
            create: Whether a folder that does not exist, or is empty, becomes an index. With False nothing
                is written to such a folder.
            read_only: Open a private copy of the folder, and refuse writes. Works on a folder that cannot be
                written, and in several processes at once. The copy does not show later writes of other
                processes: open the folder again for these. If this process has the folder open already, the
                client shares its engine and shows every write.
            ignore_damage: Open collections whose files are damaged, to read what is left. The engine may
                return wrong data, or end the process: use an `EdgeProcess` and read_only=True.

        Raises:
            CollectionNotFoundError: If there is no index, with create=False or read_only=True.
            IndexLockedError: If another process has the folder open to write.
            StorageError: If the folder cannot be read or written, or is not an index.
        """
        super().__init__()
        self._folder: Final = EdgeFolder(
            location,
            temporary=temporary,
            holder=holder,
            create=create,
            read_only=read_only,
            ignore_damage=ignore_damage,
        )
        self._collections: Final = CollectionManager(self._folder)
        self._writer: Final = PointWriter(self._folder)
        self._reader: Final = PointReader(self._folder)
        self._searcher: Final = PointSearcher(self._folder, self._reader)

    @property
    def location(self) -> str:
        """The folder as it was passed, or ":memory:"."""
        return self._folder.location

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._folder.closed

    @property
    def read_only(self) -> bool:
        """Whether the client refuses writes."""
        return self._folder.read_only

    def close(self, grpc_grace: float | None = None, **kwargs: Any) -> None:
        """Write everything to the disk and release the folder. A second call does nothing."""
        self._folder.close()

    def damaged_files(self, collection_name: str) -> list[str] | None:
        """Return the names of a collection's files that changed since it was closed, without opening it.

        Returns:
            The names, sorted; empty if no file changed. None if the collection was not closed, because its
            process was killed: then there are no checksums to compare.

        Raises:
            CollectionNotFoundError: If there is no such collection.
        """
        return self._folder.damaged_files(self._folder.get(collection_name))

    def unoptimized_bytes(self, collection_name: str) -> int:
        """Return the bytes of the sparse vectors that were not optimised when the folder was opened.

        Raises:
            CollectionNotFoundError: If there is no such collection.
        """
        return unoptimized_bytes(self._folder.get(collection_name).shard_folder)

    def hand_over(self) -> tuple[Path, bool]:
        """Close, and leave the folder, even a temporary one, to the next client.

        Returns:
            The folder, and whether it is a temporary one, which the next client must remove.

        Raises:
            NotSupportedError: If another client of this process shares the folder.
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
        """Return the engine's name and version."""
        return models.VersionInfo(title="Qdrant Edge", version=version("qdrant-edge-py"))

    def migrate(
        self,
        dest_client: QdrantBase,
        collection_names: list[str] | None = None,
        batch_size: int = 100,
        recreate_on_collision: bool = False,
    ) -> None:
        """Copy collections into another client, such as a server's."""
        from qdrant_client.migrate.migrate import migrate

        migrate(
            self,
            dest_client,
            collection_names=collection_names,
            batch_size=batch_size,
            recreate_on_collision=recreate_on_collision,
        )

    get_collections = delegate("_collections", CollectionManager.get_collections)
    collection_exists = delegate("_collections", CollectionManager.collection_exists)
    create_collection = delegate("_collections", CollectionManager.create_collection)
    recreate_collection = delegate("_collections", CollectionManager.recreate_collection)
    delete_collection = delegate("_collections", CollectionManager.delete_collection)
    replace_collection = delegate("_collections", CollectionManager.replace_collection)
    get_collection = delegate("_collections", CollectionManager.get_collection)
    update_collection = delegate("_collections", CollectionManager.update_collection)
    create_vector_name = delegate("_collections", CollectionManager.create_vector_name)
    delete_vector_name = delegate("_collections", CollectionManager.delete_vector_name)
    create_payload_index = delegate("_collections", CollectionManager.create_payload_index)
    delete_payload_index = delegate("_collections", CollectionManager.delete_payload_index)
    optimize = delegate("_collections", CollectionManager.optimize)
    stored_bytes = delegate("_collections", CollectionManager.stored_bytes)
    flush = delegate("_collections", CollectionManager.flush)

    upsert = delegate("_writer", PointWriter.upsert)
    upsert_rows = delegate("_writer", PointWriter.upsert_rows)
    upload_points = delegate("_writer", PointWriter.upload_points)
    upload_collection = delegate("_writer", PointWriter.upload_collection)
    update_vectors = delegate("_writer", PointWriter.update_vectors)
    delete_vectors = delegate("_writer", PointWriter.delete_vectors)
    delete = delegate("_writer", PointWriter.delete)
    set_payload = delegate("_writer", PointWriter.set_payload)
    overwrite_payload = delegate("_writer", PointWriter.overwrite_payload)
    delete_payload = delegate("_writer", PointWriter.delete_payload)
    clear_payload = delegate("_writer", PointWriter.clear_payload)
    batch_update_points = delegate("_writer", PointWriter.batch_update_points)

    retrieve = delegate("_reader", PointReader.retrieve)
    scroll = delegate("_reader", PointReader.scroll)
    count = delegate("_reader", PointReader.count)
    facet = delegate("_reader", PointReader.facet)

    query_points = delegate("_searcher", PointSearcher.query_points)
    query_batch_points = delegate("_searcher", PointSearcher.query_batch_points)
    query_points_groups = delegate("_searcher", PointSearcher.query_points_groups)

    search_matrix_pairs = server_only(QdrantClient.search_matrix_pairs, "distance matrices")
    search_matrix_offsets = server_only(QdrantClient.search_matrix_offsets, "distance matrices")
    update_collection_aliases = server_only(QdrantClient.update_collection_aliases, "aliases")
    get_collection_aliases = server_only(QdrantClient.get_collection_aliases, "aliases")
    get_aliases = server_only(QdrantClient.get_aliases, "aliases")
    list_snapshots = server_only(QdrantClient.list_snapshots, "snapshots")
    create_snapshot = server_only(QdrantClient.create_snapshot, "snapshots")
    delete_snapshot = server_only(QdrantClient.delete_snapshot, "snapshots")
    list_full_snapshots = server_only(QdrantClient.list_full_snapshots, "snapshots")
    create_full_snapshot = server_only(QdrantClient.create_full_snapshot, "snapshots")
    delete_full_snapshot = server_only(QdrantClient.delete_full_snapshot, "snapshots")
    recover_snapshot = server_only(QdrantClient.recover_snapshot, "snapshots")
    list_shard_snapshots = server_only(QdrantClient.list_shard_snapshots, "snapshots")
    create_shard_snapshot = server_only(QdrantClient.create_shard_snapshot, "snapshots")
    delete_shard_snapshot = server_only(QdrantClient.delete_shard_snapshot, "snapshots")
    recover_shard_snapshot = server_only(QdrantClient.recover_shard_snapshot, "snapshots")
    create_shard_key = server_only(QdrantClient.create_shard_key, "shard keys")
    delete_shard_key = server_only(QdrantClient.delete_shard_key, "shard keys")
    list_shard_keys = server_only(QdrantClient.list_shard_keys, "shard keys")
    cluster_collection_update = server_only(QdrantClient.cluster_collection_update, "clusters")
    collection_cluster_info = server_only(QdrantClient.collection_cluster_info, "clusters")
    cluster_status = server_only(QdrantClient.cluster_status, "clusters")
    cluster_telemetry = server_only(QdrantClient.cluster_telemetry, "clusters")
    recover_current_peer = server_only(QdrantClient.recover_current_peer, "clusters")
    remove_peer = server_only(QdrantClient.remove_peer, "clusters")
    get_optimizations = server_only(QdrantClient.get_optimizations, "queues of optimisations")
