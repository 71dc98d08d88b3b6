"""Floats of metadata: returned as they were added, found by equality, and not written again."""

import random
from typing import Any

import pytest

from splade_retriever.index.splade_index import SpladeIndex
from splade_retriever.validation import is_same_json
from tests.words import WordEncoder

DRAW = random.Random(7)
FLOATS = [DRAW.random() * 10 ** DRAW.randint(-12, 15) for _ in range(150)] + [n / 3 for n in range(1, 100)]
FLOATS += [1.0, -0.5, 0.1 + 0.2, 1732700000.1234567, 5e-324, 1.7976931348623157e308]
IDS = [str(n) for n in range(len(FLOATS))]
TEXTS = [f"text {id}" for id in IDS]


@pytest.fixture(name="floats")
def index_of_floats(client: Any) -> SpladeIndex:
    index = SpladeIndex(client=client, model=WordEncoder())
    index.add(TEXTS, [{"f": value, "in": [{"ab": [1, value]}]} for value in FLOATS], IDS)
    return index


def test_floats_come_back_as_they_were_added(floats: SpladeIndex) -> None:
    expected = {id: {"f": value, "in": [{"ab": [1, value]}]} for id, value in zip(IDS, FLOATS, strict=True)}

    assert {hit.id: hit.metadata for hit in floats.scroll()} == expected
    assert {hit.id: hit.metadata for hit in floats.get(IDS)} == expected
    assert {hit.id: hit.metadata for hit in floats.search("text", k=len(IDS))} == expected


@pytest.mark.parametrize("path", ["f", "in[].ab"])
def test_a_float_is_found_by_equality_and_as_the_bound_of_a_range(floats: SpladeIndex, path: str) -> None:
    for n in range(0, len(FLOATS), 9):
        assert IDS[n] in {hit.id for hit in floats.scroll({path: FLOATS[n]})}
        if path == "f":
            others = {id for id, value in zip(IDS, FLOATS, strict=True) if value > FLOATS[n]}
            assert {hit.id for hit in floats.scroll({path: {"$gt": FLOATS[n]}})} == others


def test_documents_with_unchanged_floats_are_not_written_again(
    floats: SpladeIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes: list[Any] = []
    monkeypatch.setattr(floats.store, "set_payload", lambda *args, **_: writes.append(args))

    floats.add(TEXTS, [{"f": value, "in": [{"ab": [1, value]}]} for value in FLOATS], IDS)

    assert writes == []


def test_replaced_metadata_has_its_own_floats(floats: SpladeIndex) -> None:
    for value in (0.1 + 0.2, 0.3, FLOATS[3], 2):
        floats.update_metadata("3", {"f": value})
        assert is_same_json(floats.get(["3"])[0].metadata, {"f": value})


def test_a_value_of_another_kind_is_a_change(floats: SpladeIndex) -> None:
    for value in (1, True, 1.0, "1", [1], None):
        floats.add([TEXTS[0]], [{"f": value}], ["0"])
        assert is_same_json(floats.get(["0"])[0].metadata, {"f": value})
