"""An index among threads and in an event loop."""

import asyncio
import threading
import time
from typing import Any

import pytest
from qdrant_client import QdrantClient

from splade_retriever.errors import InputError
from splade_retriever.index.documents import Hits
from splade_retriever.index.splade_index import SpladeIndex
from tests.index.parts import MOON
from tests.words import WordEncoder


def test_eight_threads_search_while_one_adds() -> None:
    index = SpladeIndex(model=WordEncoder())
    index.add([f"moon {n}" for n in range(200)])
    done = threading.Event()
    faults: list[BaseException] = []
    searches = [0] * 8

    def look(n: int) -> None:
        try:
            while not done.is_set():
                hits = index.search("moon", k=5)
                assert len(hits) == 5
                assert all(hit.text.startswith("moon") for hit in hits)
                searches[n] += 1
        except BaseException as error:  # noqa: BLE001 - handed to the test's thread
            faults.append(error)

    threads = [threading.Thread(target=look, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    try:
        index.add((f"moon {n}" for n in range(200, 1200)), batch_size=50)
        ended = time.monotonic() + 20
        while not all(searches) and not faults and time.monotonic() < ended:
            time.sleep(0.01)  # on a busy machine a thread may not have had its turn
    finally:
        done.set()
        for thread in threads:
            thread.join()
    count = index.count()
    index.close()

    assert faults == []
    assert count == 1200
    assert min(searches) > 0


def test_the_async_methods_return_the_same_as_the_others() -> None:
    async def run() -> None:
        with SpladeIndex(model=WordEncoder()) as index:
            ids = await index.aadd(MOON, ids=["a", "b", "c"])
            assert ids == ["a", "b", "c"]
            assert await index.asearch("rover lander") == index.search("rover lander")
            assert await index.aget(["a"]) == index.get(["a"])
            assert await index.acount() == 3
            await index.adelete(["a"])
            assert await index.acount() == 2

    asyncio.run(run())


def test_a_cancelled_add_ends_soon_and_keeps_acknowledged_documents() -> None:
    acknowledged: list[str] = []

    async def run(index: SpladeIndex) -> None:
        task = asyncio.create_task(
            index.aadd((f"text {n}" for n in range(1_000_000)), batch_size=10, on_written=acknowledged.extend)
        )
        while not acknowledged:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with SpladeIndex(model=WordEncoder()) as index:
        started = time.monotonic()
        asyncio.run(run(index))
        assert time.monotonic() - started < 20
        assert index.count() >= len(acknowledged)


def test_searches_that_wait_at_the_same_time_are_encoded_together() -> None:
    sizes: list[int] = []

    class Slow(WordEncoder):
        def query_embed(self, query: Any) -> Any:
            sizes.append(len(query))
            time.sleep(0.02)
            return super().query_embed(query)

    async def run(index: SpladeIndex) -> None:
        hits = await asyncio.gather(*(index.asearch(text) for text in MOON * 10))
        assert [found[0].text for found in hits] == MOON * 10
        with pytest.raises(InputError):
            await index.asearch("moon", k=0)

    with SpladeIndex(client=QdrantClient(":memory:"), model=Slow()) as index:
        index.add(MOON)
        asyncio.run(run(index))

    assert sum(sizes) == 30
    assert len(sizes) <= 15  # 4 where nothing else runs


def test_a_search_that_fails_does_not_fail_others_in_its_batch() -> None:
    class Picky(WordEncoder):
        def query_embed(self, query: Any) -> Any:
            time.sleep(0.02)
            if "poison" in query:
                raise RuntimeError("poison")
            return super().query_embed(query)

    async def run(index: SpladeIndex) -> list[Any]:
        asked = ["moon", "poison", "rover", "lander"]
        return await asyncio.gather(*map(index.asearch, asked), return_exceptions=True)

    with SpladeIndex(client=QdrantClient(":memory:"), model=Picky()) as index:
        index.add(MOON)
        answers = asyncio.run(run(index))

    assert [type(answer) for answer in answers] == [Hits, RuntimeError, Hits, Hits]
