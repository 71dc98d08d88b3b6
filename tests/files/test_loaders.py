"""A file to passages: text, records and encodings, and the issues of what cannot be read."""

import json
from pathlib import Path

import pytest

from splade_retriever.files.passages import Passage, ReadOptions
from tests.files.reading import issues_of, passages_of, read, words

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


def test_json_lines_keep_their_ids_and_the_rest_becomes_metadata(tmp_path: Path) -> None:
    rows = [{"id": 7, "text": "moon", "year": 2023, "note": None}, {"_id": "b", "text": "sun", "tags": ["x"]}]

    found = passages_of(read(tmp_path / "a.jsonl", "\n".join(map(json.dumps, rows))))

    source = (tmp_path / "a.jsonl").as_posix()
    assert [(p.id, p.text, p.metadata) for p in found] == [
        ("7", "moon", {"source": source, "line": 1, "year": 2023}),
        ("b", "sun", {"source": source, "line": 2, "tags": ["x"]}),
    ]


def test_a_record_without_id_is_named_by_its_line_and_its_title_is_encoded_with_it(tmp_path: Path) -> None:
    (found,) = passages_of(read(tmp_path / "a.jsonl", '\n{"text": "rock", "title": "Moon"}\n'))

    assert found.id.endswith("a.jsonl#2")
    assert found.context == found.metadata["title"] == "Moon"


def test_a_record_longer_than_the_model_reads_becomes_several_passages(tmp_path: Path) -> None:
    found = passages_of(
        read(tmp_path / "a.jsonl", json.dumps({"id": "long", "text": words(600)}), tokens=256)
    )

    assert [p.id for p in found] == ["long#1", "long#2", "long#3"]
    assert " ".join(p.text for p in found) == words(600)


def test_bad_lines_are_reported_with_their_line(tmp_path: Path) -> None:
    found = read(
        tmp_path / "a.jsonl",
        '{"text": "good"}\n{"text": \n[1]\n{"body": "x"}\n{"text": ""}\n{"text": ["y"]}\n'
        '{"id": "1", "text": "z"}\n{"id": "1", "text": "again"}\n',
    )

    assert [place for place, _ in issues_of(found)] == [f"a.jsonl:{line}" for line in (2, 3, 4, 5, 6, 8)]
    reasons = [reason for _, reason in issues_of(found)]
    assert reasons[0].startswith("is not JSON")
    assert reasons[1:] == [
        "is a JSON list, expected an object",
        "has no text: field 'text' is missing",
        "has no text: field 'text' is empty",
        "has no text: field 'text' is a list",
        "has the id '1' of line 7, which it replaces",
    ]
    assert [item.text for item in found if isinstance(item, Passage)] == ["good", "z", "again"]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_a_table_is_read_by_its_header_and_numbers_are_numbers(tmp_path: Path, delimiter: str) -> None:
    rows = [["id", "text", "year", "mass", "zip", "none"], ["a", '"two\nlines"', "2023", "-1.5", "01069", ""]]

    (found,) = passages_of(read(tmp_path / "a.csv", "\r\n".join(delimiter.join(row) for row in rows)))

    assert (found.id, found.text) == ("a", "two\nlines")
    kept = {key: value for key, value in found.metadata.items() if key != "source"}
    assert kept == {"line": 2, "year": 2023, "mass": -1.5, "zip": "01069"}


def test_a_table_without_the_text_column_says_which_it_has(tmp_path: Path) -> None:
    found = read(tmp_path / "a.csv", "name,body\nx,y\n")

    assert issues_of(found) == [("a.csv", "has no column 'text' (found: 'name', 'body'). Pass --text-field")]
    (named,) = passages_of(
        read(tmp_path / "a.csv", "name,body\nx,y\n", options=ReadOptions(text_field="body", id_field="name"))
    )
    assert (named.id, named.text) == ("x", "y")


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
