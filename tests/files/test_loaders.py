"""A file to passages: text, records and encodings, and the issues of what cannot be read."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from splade_retriever import SparseTextEmbedding, SpladeIndex
from splade_retriever.files.loaders import read_file
from splade_retriever.files.passages import FileIssue, Passage, ReadOptions
from splade_retriever.files.splitter import Splitter
from splade_retriever.files.sync import sync_files
from tests.files.reading import WORDS, issues_of, passages_of, read, words

# -- text ----------------------------------------------------------------------------------------------------


def test_a_short_text_is_one_passage(tmp_path: Path) -> None:
    (found,) = passages_of(read(tmp_path / "a.txt", "The lander.\n\nThe rover.\n"))

    source = (tmp_path / "a.txt").as_posix()
    assert found == Passage(
        f"{source}#1", "The lander.\n\nThe rover.", {"source": source, "passage": 1, "line": 1}
    )


def test_a_long_text_is_cut_between_paragraphs(tmp_path: Path) -> None:
    text = "\n\n".join(words(40, name) for name in ("one", "two", "three"))

    found = passages_of(read(tmp_path / "a.txt", text))

    assert [p.text for p in found] == [words(40, "one"), words(40, "two"), words(40, "three")]
    assert [p.metadata["line"] for p in found] == [1, 3, 5]


# -- records -------------------------------------------------------------------------------------------------


def test_the_id_of_a_record_is_scoped_by_its_file_and_other_fields_become_metadata(tmp_path: Path) -> None:
    rows = [{"id": 7, "text": "moon", "year": 2023, "note": None}, {"_id": "b", "text": "sun", "tags": ["x"]}]

    found = passages_of(read(tmp_path / "a.jsonl", "\n".join(map(json.dumps, rows))))

    source = (tmp_path / "a.jsonl").as_posix()
    assert [(p.id, p.text, p.metadata) for p in found] == [
        (f"{source}#7", "moon", {"source": source, "line": 1, "id": 7, "year": 2023}),
        (f"{source}#b", "sun", {"source": source, "line": 2, "_id": "b", "tags": ["x"]}),
    ]


def test_a_record_without_id_is_named_by_its_line_and_its_title_is_encoded_with_it(tmp_path: Path) -> None:
    (found,) = passages_of(read(tmp_path / "a.jsonl", '\n{"text": "rock", "title": "Moon"}\n'))

    assert found.id.endswith("a.jsonl#line 2")
    assert found.context == found.metadata["title"] == "Moon"


def test_a_record_longer_than_the_model_reads_becomes_several_passages(tmp_path: Path) -> None:
    found = passages_of(
        read(tmp_path / "a.jsonl", json.dumps({"id": "long", "text": words(600)}), tokens=256)
    )

    source = (tmp_path / "a.jsonl").as_posix()
    assert [p.id for p in found] == [f"{source}#long#{n}" for n in (1, 2, 3)]
    assert " ".join(p.text for p in found) == words(600)


def test_bad_lines_are_reported_with_their_line(tmp_path: Path) -> None:
    found = read(
        tmp_path / "a.jsonl",
        '{"text": "good"}\n{"text": \n[1]\n{"body": "x"}\n{"text": ""}\n{"text": ["y"]}\n',
    )

    assert [place for place, _ in issues_of(found)] == [f"a.jsonl:{line}" for line in (2, 3, 4, 5, 6)]
    reasons = [reason for _, reason in issues_of(found)]
    assert reasons[0].startswith("is not JSON")
    assert reasons[1:] == [
        "is a JSON list, expected an object",
        "has no text: field 'text' is missing (found: 'body'). Pass --text-field",
        "has no text: field 'text' is empty",
        "has no text: field 'text' is a list",
    ]
    assert [item.text for item in found if isinstance(item, Passage)] == ["good"]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_a_table_is_read_by_its_header_and_numbers_are_numbers(tmp_path: Path, delimiter: str) -> None:
    rows = [["id", "text", "year", "mass", "zip", "none"], ["a", '"two\nlines"', "2023", "-1.5", "01069", ""]]

    (found,) = passages_of(read(tmp_path / "a.csv", "\r\n".join(delimiter.join(row) for row in rows)))

    assert found.text == "two\nlines"
    kept = {key: value for key, value in found.metadata.items() if key != "source"}
    assert kept == {"line": 2, "id": "a", "year": 2023, "mass": -1.5, "zip": "01069"}


def test_a_table_without_the_text_column_says_which_it_has(tmp_path: Path) -> None:
    found = read(tmp_path / "a.csv", "name,body\nx,y\n")

    assert issues_of(found) == [("a.csv", "has no column 'text' (found: 'name', 'body'). Pass --text-field")]
    (named,) = passages_of(
        read(tmp_path / "a.csv", "name,body\nx,y\n", options=ReadOptions(text_field="body", id_field="name"))
    )
    assert (named.id[-7:], named.text) == ("a.csv#x", "y")


def test_a_row_of_another_length_is_skipped_and_an_open_quote_ends_the_table(tmp_path: Path) -> None:
    found = read(tmp_path / "a.csv", 'text,n\nmoon,1\nsun,2,3\nmars,4\n"open,5\n')

    assert [item.text for item in found if isinstance(item, Passage)] == ["moon", "mars"]
    assert issues_of(found)[0] == ("a.csv:3", "has 3 cells, expected 2")
    assert "is not CSV" in issues_of(found)[1][1]


def test_a_cell_of_a_megabyte_is_read(tmp_path: Path) -> None:
    found = passages_of(read(tmp_path / "a.csv", "text\n" + words(200_000) + "\n", tokens=256))

    assert sum(len(p.text.split()) for p in found) == 200_000


# -- encodings -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b" \n\n", "is empty"),
        (b"\x89PNG\x00\x01", "is binary"),
        (b"# \n", "has no text"),
    ],
)
def test_a_file_without_text_is_reported(tmp_path: Path, content: bytes, reason: str) -> None:
    assert issues_of(read(tmp_path / "a.md", content)) == [("a.md", reason)]


def test_other_encodings_are_read_and_a_guess_is_reported(tmp_path: Path) -> None:
    latin = read(tmp_path / "a.txt", "Königsberg".encode("latin-1"))
    utf16 = read(tmp_path / "b.txt", "Königsberg".encode("utf-16"))
    bom = read(tmp_path / "c.txt", b"\xef\xbb\xbf" + "Königsberg".encode())

    assert [item.text for found in (latin, utf16, bom) for item in found if isinstance(item, Passage)] == [
        "Königsberg"
    ] * 3
    assert issues_of(latin) == [("a.txt", "is not UTF-8; it was read as Windows-1252")]
    assert issues_of(utf16) == issues_of(bom) == []


def test_sources_are_absolute_or_relative_to_a_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    assert ReadOptions().source_of(Path("docs/../a.md")) == (tmp_path / "a.md").as_posix()
    assert ReadOptions(base=tmp_path / "docs").source_of(Path("docs/a.md")) == "a.md"


# -- files that are not read ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_only_regular_files_are_read(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.txt"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()

    (issue,) = read_file(path, ReadOptions(), Splitter(WORDS, 64))

    assert isinstance(issue, FileIssue)
    assert issue.reason in ("cannot be read: it is not a regular file", "cannot be read: it is a folder")


@pytest.mark.parametrize("record", ['{"text": "\\ud800"}', '{"text": "sun", "title": "\\ud800"}'])
def test_a_record_with_half_a_surrogate_pair_is_an_issue_of_its_line(tmp_path: Path, record: str) -> None:
    tokenizer = SparseTextEmbedding(lazy_load=True).tokenizer
    path = tmp_path / "a.jsonl"
    path.write_text(f'{{"text": "moon"}}\n{record}\n{{"text": "sun"}}\n')

    with SpladeIndex(":memory:") as index:
        report = sync_files(index, [path], options=ReadOptions(), splitter=Splitter(tokenizer))

        assert [issue.place for issue in report.skipped] == [f"{path}:2"]
        assert "surrogate" in report.skipped[0].reason
        assert index.count() == 2


MEASURE = """
import resource, sys
from pathlib import Path
from splade_retriever import SparseTextEmbedding
from splade_retriever.files.loaders import read_file
from splade_retriever.files.passages import ReadOptions
from splade_retriever.files.splitter import Splitter
splitter = Splitter(SparseTextEmbedding(lazy_load=True).tokenizer)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
passages = sum(1 for _ in read_file(Path(sys.argv[1]), ReadOptions(), splitter))
print(passages, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


@pytest.mark.parametrize("name", ["cell.csv", "line.jsonl", "text.txt"])
def test_the_memory_for_a_long_text_is_a_small_multiple_of_its_length(tmp_path: Path, name: str) -> None:
    text = words(200_000, "lander")  # 1.4 MB
    content = {"cell.csv": f"text\n{text}\n", "line.jsonl": json.dumps({"text": text}), "text.txt": text}
    (tmp_path / name).write_text(content[name])

    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tmp_path / name)], capture_output=True, text=True, check=True
    )

    passages, megabytes = map(float, done.stdout.split())
    assert passages > 600
    assert megabytes < 100
