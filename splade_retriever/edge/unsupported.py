"""The calls of qdrant-client that need a server: each says so, and by what they are served."""

from collections.abc import Callable
from typing import Any, NoReturn

from qdrant_client.client_base import QdrantBase

from splade_retriever.errors import NotSupportedError

__all__ = ["ServerOnlyCalls"]


def _server_only(method: str, what: str) -> Callable[..., NoReturn]:
    def refuse(self: QdrantBase, *args: Any, **kwargs: Any) -> NoReturn:
        raise NotSupportedError(
            f"EdgeClient has no {method}: Qdrant Edge keeps no {what}. Use a Qdrant server: "
            "QdrantClient(url=...)."
        )

    refuse.__name__ = refuse.__qualname__ = method
    refuse.__doc__ = f"Raise NotSupportedError: only a Qdrant server keeps {what}."
    return refuse


class ServerOnlyCalls(QdrantBase):
    """Aliases, snapshots, shard keys, clusters: what a shard in one process has not."""

    update_collection_aliases = _server_only("update_collection_aliases", "aliases")
    get_collection_aliases = _server_only("get_collection_aliases", "aliases")
    get_aliases = _server_only("get_aliases", "aliases")
    list_snapshots = _server_only("list_snapshots", "snapshots")
    create_snapshot = _server_only("create_snapshot", "snapshots")
    delete_snapshot = _server_only("delete_snapshot", "snapshots")
    list_full_snapshots = _server_only("list_full_snapshots", "snapshots")
    create_full_snapshot = _server_only("create_full_snapshot", "snapshots")
    delete_full_snapshot = _server_only("delete_full_snapshot", "snapshots")
    recover_snapshot = _server_only("recover_snapshot", "snapshots")
    list_shard_snapshots = _server_only("list_shard_snapshots", "snapshots")
    create_shard_snapshot = _server_only("create_shard_snapshot", "snapshots")
    delete_shard_snapshot = _server_only("delete_shard_snapshot", "snapshots")
    recover_shard_snapshot = _server_only("recover_shard_snapshot", "snapshots")
    create_shard_key = _server_only("create_shard_key", "shard keys")
    delete_shard_key = _server_only("delete_shard_key", "shard keys")
    list_shard_keys = _server_only("list_shard_keys", "shard keys")
    cluster_collection_update = _server_only("cluster_collection_update", "clusters")
    collection_cluster_info = _server_only("collection_cluster_info", "clusters")
    cluster_status = _server_only("cluster_status", "clusters")
    cluster_telemetry = _server_only("cluster_telemetry", "clusters")
    recover_current_peer = _server_only("recover_current_peer", "clusters")
    remove_peer = _server_only("remove_peer", "clusters")
    get_optimizations = _server_only("get_optimizations", "queues of optimisations")
