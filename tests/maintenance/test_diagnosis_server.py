"""`diagnose` on a real Qdrant server: what is found, and that nothing changes."""

from typing import Any

import pytest
from qdrant_client import QdrantClient, models

from splade_retriever.index.splade_index import SpladeIndex
from splade_retriever.maintenance.diagnosis import Diagnosis, diagnose
from tests.index.parts import MOON
from tests.qdrant_server import ServerAddress
from tests.words import WordEncoder

pytestmark = pytest.mark.server
SPARSE = {"splade": models.SparseVectorParams()}


def checked(server: ServerAddress, **arguments: Any) -> Diagnosis:
    return diagnose(server.url, api_key=server.api_key, model=WordEncoder(max_length=5), **arguments)


def found(diagnosis: Diagnosis) -> dict[str, tuple[str, str]]:
    """Check -> level and finding."""
    return {finding.check: (finding.level, finding.found) for finding in diagnosis.findings}


@pytest.fixture(name="filled")
def filled_server(empty_server: ServerAddress) -> ServerAddress:
    model = WordEncoder(max_length=5)
    with SpladeIndex(
        empty_server.url, api_key=empty_server.api_key, model=model, windows="truncate"
    ) as index:
        index.add(MOON, [{"year": 2023}] * 3)
    return empty_server


def test_a_sound_server_has_no_fault_and_is_not_changed(
    filled: ServerAddress, server_client: QdrantClient
) -> None:
    before = server_client.get_collection("splade")
    diagnosis = checked(filled, fields=["year"])
    after = server_client.get_collection("splade")
    assert (after.config, after.payload_schema, after.points_count) == (
        before.config,
        before.payload_schema,
        before.points_count,
    )
    assert diagnosis.ok
    checks = found(diagnosis)
    assert checks["versions"][1].startswith("server 1.")
    assert "GB; a server does not report its free disk space" in checks["memory"][1]
    assert checks["model"] == ("ok", "words")
    assert checks["segments"][1].startswith("3 points in ")
    assert checks["long texts"][0] == "warning"
    assert checks["long texts"][1].startswith("3 of 3 documents have more than 5 tokens (100.0%)")
    assert checks["payload index of 'year'"] == ("ok", "none, which 3 documents do not need")


def test_a_server_that_refuses_filters_without_an_index_is_a_fault(
    filled: ServerAddress, server_client: QdrantClient
) -> None:
    server_client.update_collection(
        "splade",
        strict_mode_config=models.StrictModeConfig(enabled=True, unindexed_filtering_retrieve=False),
    )
    diagnosis = checked(filled, filters=[{"year": {"$gte": 2000}}])
    (fault,) = diagnosis.at_level("fault")
    assert fault.check == "payload index of 'year'"
    assert fault.found == "none, and the server refuses filters without one"
    assert 'indexed_fields={"year": "integer"}' in fault.advice


def test_optimizing_that_is_turned_off_is_a_warning(
    filled: ServerAddress, server_client: QdrantClient
) -> None:
    server_client.update_collection(
        "splade", optimizers_config=models.OptimizersConfigDiff(indexing_threshold=0)
    )
    level, text = found(checked(filled))["segments"]
    assert (level, "turned off" in text) == ("warning", True)


def test_collections_of_other_programs_are_checked_if_they_are_named(
    filled: ServerAddress, server_client: QdrantClient
) -> None:
    server_client.create_collection("other", vectors_config={}, sparse_vectors_config=SPARSE)
    assert "1 of other programs" in found(checked(filled))["collections"][1]
    assert found(checked(filled, collection="other"))["model"][0] == "warning"
    server_client.delete_collection("splade")
    level, text = found(checked(filled))["collections"]
    assert (level, "made none of the server's 1 collections" in text) == ("warning", True)


def test_an_alias_is_checked_and_a_missing_collection_is_a_fault(
    filled: ServerAddress, server_client: QdrantClient
) -> None:
    alias = models.CreateAlias(collection_name="splade", alias_name="live")
    server_client.update_collection_aliases([models.CreateAliasOperation(create_alias=alias)])
    try:
        assert found(checked(filled, collection="live"))["model"] == ("ok", "words")
    finally:
        deleted = models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name="live"))
        server_client.update_collection_aliases([deleted])
    (fault,) = checked(filled, collection="no").at_level("fault")
    assert fault.found == "there is no collection 'no' (found: 'splade')"
