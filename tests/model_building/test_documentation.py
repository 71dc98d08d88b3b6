"""The evaluation collections made from installed packages."""

import gzip
import json
from pathlib import Path

import pytest

from model_building.documentation import Answer, collect, docstrings, section_answers
from splade_retriever.evaluation.beir import BeirCollection

BODY = " ".join(f"word{n}" for n in range(30))
PACKAGES = ("typer", "rich", "no-such-package")


def test_a_heading_asks_for_its_section_and_the_headings_above_are_its_title() -> None:
    page = f"# Moon\n\n[![badge](x)](y)\n{BODY}\n\n## `install` [it](https://x.org)\n\n{BODY}\n\n"
    page += "## Short\n\nfew words"

    assert list(section_answers(page)) == [Answer("Moon", "", BODY), Answer("install it", "Moon", BODY)]


def test_a_heading_that_is_underlined_counts_too() -> None:
    assert list(section_answers(f"Usage of it\n-----------\n\n{BODY}\n")) == [Answer("Usage of it", "", BODY)]


def test_the_first_sentence_of_a_docstring_asks_for_the_rest() -> None:
    source = (
        f'def land(x):\n    """Land on a moon. Softly.\n\n    {BODY}\n    """\n\n'
        f'class Rover:\n    def _hidden(self):\n        """A secret.\n\n        {BODY}"""\n\n'
        f'    def drive(self):\n        """Drive :func:`~moon.far` away\n\n        {BODY}"""\n\n'
        'def short():\n    """Do it.\n\n    few words\n    """\n'
    )

    assert list(docstrings(source, "moon")) == [
        Answer("Land on a moon", "moon.land", BODY),
        Answer("Drive moon.far away", "moon.Rover.drive", BODY),
    ]


@pytest.fixture(scope="module")
def collected(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("collected")
    collect(PACKAGES, folder)
    return folder


def documents(folder: Path, name: str) -> set[str]:
    return set(BeirCollection.read(folder / name).documents.values())


def test_the_collections_are_the_same_bytes_again_and_can_be_evaluated(
    collected: Path, tmp_path: Path
) -> None:
    collect(PACKAGES, tmp_path)

    for file in collected.rglob("*.*"):
        assert file.read_bytes() == (tmp_path / file.relative_to(collected)).read_bytes()
    assert set(json.loads((tmp_path / "packages.json").read_text())) == set(PACKAGES[:2])
    for name in ("documentation", "docstrings"):
        collection = BeirCollection.read(collected / name)
        assert len(collection.queries) >= 3
        assert len(set(collection.queries.values())) == len(collection.queries)
        assert collection.unknown_documents == 0


def test_a_text_of_the_training_data_is_left_out(collected: Path, tmp_path: Path) -> None:
    known = min(documents(collected, "docstrings"))
    learned = " ".join(known.split()[3:30])
    source = tmp_path / "data" / "docs"
    source.mkdir(parents=True)
    row = json.dumps({"text": f"Some say: {learned}."})
    (source / "passages.jsonl.gz").write_bytes(gzip.compress(row.encode()))

    collect(PACKAGES, tmp_path / "kept", training=tmp_path / "data")

    left_out = documents(collected, "docstrings") - documents(tmp_path / "kept", "docstrings")
    assert known in left_out
    assert len(left_out) < 5
