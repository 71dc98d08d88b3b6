"""PDF, DOCX, PPTX, HTML, EPUB and notebooks to passages, with pages and headings."""

import io
import json
import sys
import zipfile
from pathlib import Path

import pytest

from splade_retriever import SparseTextEmbedding, SpladeIndex
from splade_retriever.files.discovery import find_files
from splade_retriever.files.documents import DOCUMENTS
from splade_retriever.files.loaders import read_file
from splade_retriever.files.passages import FileIssue, Passage, ReadOptions
from splade_retriever.files.splitter import Splitter
from splade_retriever.files.sync import sync_files
from tests.files import documents
from tests.files.reading import WORDS, issues_of, passages_of

NOTEBOOK = {
    "cells": [
        {"cell_type": "markdown", "source": ["# Moon\n", "A lander.\n"]},
        {"cell_type": "code", "source": "print('rover')", "outputs": [{"text": "noise"}]},
    ],
    "nbformat": 4,
}
HTML = (
    "<html><head><style>noise {}</style><script>noise()</script></head>"
    "<body><h1>Moon</h1><p>A lander.</p></body></html>"
)


def read(path: Path, content: bytes | str) -> list[Passage | FileIssue]:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return list(read_file(path, ReadOptions(base=path.parent), Splitter(WORDS, max_tokens=64)))


def test_pages_of_a_pdf_and_slides_are_kept(tmp_path: Path) -> None:
    for name, content in {
        "a.pdf": documents.pdf(["A lander.", "A rover."]),
        "a.pptx": documents.pptx(["A lander.", "A rover."]),
    }.items():
        first, second = passages_of(read(tmp_path / name, content))

        assert (first.id, first.metadata["page"]) == (f"{name}#1", 1)
        assert (second.id, second.metadata["page"]) == (f"{name}#2", 2)
        assert (first.text, second.text) == ("A lander.", "A rover.")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.docx", documents.docx("Moon", "A lander.")),
        ("a.html", HTML),
        ("a.HTM", HTML),
        ("a.ipynb", json.dumps(NOTEBOOK)),
    ],
    ids=["docx", "html", "htm", "ipynb"],  # a DOCX holds the time, and workers must collect the same tests
)
def test_headings_of_documents_are_kept(name: str, content: bytes | str, tmp_path: Path) -> None:
    found = passages_of(read(tmp_path / name, content))

    assert found[0].context == "Moon"
    assert found[0].metadata == {"source": name, "passage": 1, "heading": "Moon"}
    assert found[0].text.startswith("A lander.")
    assert not any("noise" in passage.text for passage in found)


def test_an_epub_is_read(tmp_path: Path) -> None:
    found = passages_of(read(tmp_path / "a.epub", documents.epub("A lander.")))

    assert any("A lander." in passage.text for passage in found)


def test_source_code_is_read_as_text(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("def moon():\n    return 1\n")

    (path,) = find_files([tmp_path], ReadOptions())

    assert isinstance(path, Path)
    (found,) = passages_of(list(read_file(path, ReadOptions(), Splitter(WORDS, max_tokens=64))))
    assert found.text == "def moon():\n    return 1"


def bomb() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("a.xml", "w") as entry:
        for _ in range(260):
            entry.write(bytes(2**20))
    return file.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.pdf", b"%PDF-1.4 broken", "cannot be converted to text (PdfiumError); is it damaged?"),
        ("a.docx", b"PK broken", "cannot be converted to text (BadZipFile); is it damaged?"),
        ("a.ipynb", b"[]", "has no list of cells; is it a notebook of format 4?"),
        ("a.ipynb", b"[" * 100_000, "cannot be converted to text (RecursionError); is it damaged?"),
        ("a.pdf", documents.pdf([""]), "has no text; a scanned document needs text recognition first"),
        ("a.html", b"<p></p>", "has no text"),
    ],
)
def test_a_document_that_cannot_be_read_is_an_issue(
    name: str, content: bytes, reason: str, tmp_path: Path
) -> None:
    assert issues_of(read(tmp_path / name, content)) == [(name, reason)]


def test_an_archive_that_unpacks_to_too_much_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    ((_, reason),) = issues_of(read(tmp_path / "a.docx", bomb()))

    assert reason == "holds 272,629,760 bytes, expected at most 268,435,456"


@pytest.mark.parametrize("suffix", sorted(DOCUMENTS - {".ipynb"}))
def test_a_missing_package_names_the_extra(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in ("markitdown", "pypdfium2"):
        monkeypatch.setitem(sys.modules, package, None)

    ((_, reason),) = issues_of(read(tmp_path / f"a{suffix}", b"x"))

    assert reason == f'{suffix} files need an extra package. Run: pip install "splade-retriever[files]"'


def test_a_folder_of_documents_is_kept_in_step(tmp_path: Path) -> None:
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "a.pdf").write_bytes(documents.pdf(["The lander reached the Moon.", "Tides."]))
    (folder / "b.docx").write_bytes(documents.docx("Rover", "It drove down the ramp."))
    model = SparseTextEmbedding()
    options, splitter = ReadOptions(base=folder), Splitter(model.tokenizer)

    with SpladeIndex(":memory:", model=model) as index:

        def sync() -> tuple[int, int]:
            report = sync_files(
                index,
                list(find_files([folder], options)),
                options=options,
                splitter=splitter,
                folders=[folder],
            )
            return report.new, report.removed

        assert sync() == (3, 0)
        (hit,) = index.search("moon lander", k=1)
        assert (hit.id, hit.metadata["page"]) == ("a.pdf#1", 1)
        (folder / "a.pdf").write_bytes(b"%PDF-1.4 broken")
        assert sync() == (0, 0)  # nothing is known about a damaged file, so its passages are kept
        (folder / "a.pdf").unlink()
        assert sync() == (0, 2)
