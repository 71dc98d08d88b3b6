"""`reindex` and `migrate` keep the settings of a collection on a cluster."""

from typing import Any

import pytest
from qdrant_client import QdrantClient, models

from splade_retriever.index.splade_index import SpladeIndex
from splade_retriever.maintenance.migrate import migrate
from splade_retriever.maintenance.reindex import reindex
from tests.maintenance.conftest import DoublingEncoder
from tests.qdrant_server import Cluster
from tests.words import WordEncoder

pytestmark = pytest.mark.own_server


def server_settings(client: QdrantClient, collection: str) -> dict[str, Any]:
    config = client.get_collection(collection).config
    return {
        "shard_number": config.params.shard_number,
        "replication_factor": config.params.replication_factor,
        "write_consistency_factor": config.params.write_consistency_factor,
        "optimizers": config.optimizer_config.model_dump(),
        "strict_mode": None if config.strict_mode_config is None else config.strict_mode_config.model_dump(),
    }


def test_shards_copies_consistency_optimizers_and_strict_mode_are_carried_over(cluster: Cluster) -> None:
    url = cluster.url
    client = cluster.nodes[0].client(timeout=30)
    with SpladeIndex(
        url, collection="docs.1", model=WordEncoder(), shard_number=6, replication_factor=2, timeout=30
    ) as index:
        index.add([f"moon {n}" for n in range(100)], ids=[str(n) for n in range(100)])
    client.update_collection(
        "docs.1",
        collection_params=models.CollectionParamsDiff(write_consistency_factor=2),
        optimizers_config=models.OptimizersConfigDiff(
            deleted_threshold=0.3, default_segment_number=3, indexing_threshold=12_345, flush_interval_sec=7
        ),
        strict_mode_config=models.StrictModeConfig(enabled=True, max_query_limit=321, max_timeout=50),
    )
    alias = models.CreateAlias(collection_name="docs.1", alias_name="docs")
    client.update_collection_aliases([models.CreateAliasOperation(create_alias=alias)])
    expected = server_settings(client, "docs.1")
    assert expected["shard_number"] == 6
    assert (expected["replication_factor"], expected["write_consistency_factor"]) == (2, 2)
    assert expected["strict_mode"]["max_query_limit"] == 321

    assert reindex(url, DoublingEncoder(), collection="docs", timeout=30).switch == "alias"
    migrate(url, url, collection="docs", target_collection="copy", timeout=30)
    migrate(url, url, collection="docs", target_collection="one", timeout=30, replication_factor=1)

    with SpladeIndex(url, collection="docs", model=DoublingEncoder()) as index:
        assert index.count() == 100
    assert client.get_collection_aliases("docs.2").aliases[0].alias_name == "docs"
    assert server_settings(client, "docs.2") == expected
    assert server_settings(client, "copy") == expected
    assert server_settings(client, "one") == {**expected, "replication_factor": 1}
