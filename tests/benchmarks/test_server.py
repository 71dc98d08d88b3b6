"""The benchmarks of a server measure what they say, on a few documents."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import server
from benchmarks.server_footprint import disk, fill, memory, wait_until_optimised
from splade_retriever import SpladeIndex
from tests.qdrant_server import QdrantServer, ServerAddress
from tests.words import WordEncoder


@pytest.mark.server
@pytest.mark.parametrize("protocol", server.PROTOCOLS)
def test_both_ways_write_and_search_the_same_documents(
    empty_server: ServerAddress, protocol: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if empty_server.api_key is not None or empty_server.grpc_port is None:
        pytest.skip("the benchmark opens servers without a key, whose gRPC port is known")
    for way in server.WAYS:
        server.step(empty_server.url, str(empty_server.grpc_port), way, protocol, "500")
    figures = [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    assert [sorted(one) for one in figures] == [sorted(server.KEYS)] * 2
    assert all(value > 0 for one in figures for value in one.values())


@pytest.mark.own_server
def test_memory_and_disk_of_a_server_are_read(
    start_server: Callable[..., QdrantServer], tmp_path: Path
) -> None:
    started = start_server()
    with SpladeIndex(started.url, model=WordEncoder()) as index:
        postings = fill(index, 0, 20, 12)
        wait_until_optimised(index, idle_s=0.0)
        (folder,) = tmp_path.rglob("collections/splade")
        sizes = disk(folder)

    assert 20 <= postings <= 240
    assert sizes["disk"] > 0 < sizes["log"]
    assert memory(os.getpid())["memory"] > 2**20
