"""Files to passages: what is cut where, what is named how, and what is said of what cannot be read."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from splade_retriever import SparseTextEmbedding, SpladeIndex
from splade_retriever.errors import InputError
from splade_retriever.files.loaders import Note, Passage, Reading, Splitter, find_files, read_file
from splade_retriever.files.sync import SyncReport, sync_files
from tests.words import WordEncoder, WordTokenizer

WORDS = WordTokenizer(512)


def words(n: int, word: str = "word") -> str:
    return " ".join([word] * n)


def read(
    path: Path, content: str | bytes, *, tokens: int = 64, reading: Reading | None = None
) -> list[Passage | Note]:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return list(read_file(path, reading or Reading(), Splitter(WORDS, tokens)))


def passages(found: list[Passage | Note]) -> list[Passage]:
    assert all(isinstance(item, Passage) for item in found), found
    return [item for item in found if isinstance(item, Passage)]


def notes(found: list[Passage | Note]) -> list[tuple[str, str]]:
    return [(Path(item.place).name, item.reason) for item in found if isinstance(item, Note)]


# -- cutting -------------------------------------------------------------------------------------------------


def test_a_short_text_is_one_passage(tmp_path: Path) -> None:
    (found,) = passages(read(tmp_path / "a.txt", "The lander.\n\nThe rover.\n"))

    source = (tmp_path / "a.txt").as_posix()
    assert found == Passage(
        f"{source}#1", "The lander.\n\nThe rover.", {"source": source, "passage": 1, "line": 1}
    )


def test_a_long_text_is_cut_between_paragraphs(tmp_path: Path) -> None:
    text = "\n\n".join(words(40, name) for name in ("one", "two", "three"))

    found = passages(read(tmp_path / "a.txt", text))

    assert [p.text for p in found] == [words(40, "one"), words(40, "two"), words(40, "three")]
    assert [p.metadata["line"] for p in found] == [1, 3, 5]


def test_a_long_paragraph_is_cut_between_sentences() -> None:
    text = " ".join(words(20, name) + "." for name in ("One", "Two", "Three", "Four"))

    spans = Splitter(WORDS, 45).split(text)

    assert [text[start:end] for start, end in spans] == [
        f"{words(20, 'One')}. {words(20, 'Two')}.",
        f"{words(20, 'Three')}. {words(20, 'Four')}.",
    ]


def test_passages_of_one_text_are_about_equally_long() -> None:
    text = "\n\n".join(words(10) for _ in range(7))

    spans = Splitter(WORDS, 64).split(text)

    assert Splitter(WORDS, 64).count([text[start:end] for start, end in spans]) == [40, 30]


@pytest.mark.parametrize(
    "text", [words(150_000), "x" * 1_000_000, "word," * 100_000], ids=["words", "one word", "commas"]
)
def test_a_megabyte_on_one_line_is_cut_within_the_limit(text: str) -> None:
    tokenizer = SparseTextEmbedding(lazy_load=True).tokenizer
    splitter = Splitter(tokenizer, 256)

    pieces = [text[start:end] for start, end in splitter.split(text)]

    assert max(splitter.count(pieces)) + splitter.special <= 256
    assert "".join("".join(pieces).split()) == "".join(text.split())


@settings(deadline=None, max_examples=60)
@given(st.text(alphabet="ab .!\n\t。é", max_size=400))
def test_no_text_is_lost_and_no_passage_is_too_long(text: str) -> None:
    splitter = Splitter(WORDS, 16)

    spans = splitter.split(text)

    pieces = [text[start:end] for start, end in spans]
    assert "".join("".join(pieces).split()) == "".join(text.split())
    assert all(piece == piece.strip() and piece for piece in pieces)
    assert max(splitter.count(pieces), default=0) <= 16


@pytest.mark.parametrize("tokens", [0, 15, 513])
def test_a_passage_size_that_the_model_cannot_read_is_refused(tokens: int) -> None:
    with pytest.raises(InputError, match=r"expected 16\.\.512"):
        Splitter(WORDS, tokens)


# -- Markdown ------------------------------------------------------------------------------------------------


def test_a_markdown_passage_carries_its_headings(tmp_path: Path) -> None:
    text = "intro\n\n# Moon\n\nrock\n\n## Far side\ncraters\n\n# Mars #\ndust\n"

    found = passages(read(tmp_path / "a.md", text))

    assert [(p.text, p.metadata.get("heading"), p.metadata["line"]) for p in found] == [
        ("intro", None, 1),
        ("rock", "Moon", 5),
        ("craters", "Moon > Far side", 8),
        ("dust", "Mars", 11),
    ]
    assert [p.context for p in found] == ["", "Moon", "Moon > Far side", "Mars"]


def test_code_front_matter_and_underlined_headings_are_understood(tmp_path: Path) -> None:
    text = '---\ntitle: "Guide"\n---\nUse it\n======\n```sh\n# no heading\n```\nAfter\n-----\nend\n'

    found = passages(read(tmp_path / "a.md", text))

    assert [(p.text, p.metadata["heading"]) for p in found] == [
        ("```sh\n# no heading\n```", "Guide > Use it"),
        ("end", "Guide > Use it > After"),
    ]


def test_a_list_or_table_above_a_rule_is_no_heading(tmp_path: Path) -> None:
    (found,) = passages(read(tmp_path / "a.md", "- item\n---\n\n| a |\n|---|\n"))

    assert "heading" not in found.metadata


# -- records -------------------------------------------------------------------------------------------------


def test_json_lines_keep_their_ids_and_the_rest_becomes_metadata(tmp_path: Path) -> None:
    rows = [{"id": 7, "text": "moon", "year": 2023, "note": None}, {"_id": "b", "text": "sun", "tags": ["x"]}]

    found = passages(read(tmp_path / "a.jsonl", "\n".join(map(json.dumps, rows))))

    source = (tmp_path / "a.jsonl").as_posix()
    assert [(p.id, p.text, p.metadata) for p in found] == [
        ("7", "moon", {"source": source, "line": 1, "year": 2023}),
        ("b", "sun", {"source": source, "line": 2, "tags": ["x"]}),
    ]


def test_a_record_without_id_is_named_by_its_line_and_its_title_is_encoded_with_it(tmp_path: Path) -> None:
    (found,) = passages(read(tmp_path / "a.jsonl", '\n{"text": "rock", "title": "Moon"}\n'))

    assert found.id.endswith("a.jsonl#2")
    assert found.context == found.metadata["title"] == "Moon"


def test_a_record_longer_than_the_model_reads_becomes_several_passages(tmp_path: Path) -> None:
    found = passages(read(tmp_path / "a.jsonl", json.dumps({"id": "long", "text": words(600)}), tokens=256))

    assert [p.id for p in found] == ["long#1", "long#2", "long#3"]
    assert " ".join(p.text for p in found) == words(600)


def test_bad_lines_are_told_with_their_place(tmp_path: Path) -> None:
    found = read(
        tmp_path / "a.jsonl",
        '{"text": "good"}\n{"text": \n[1]\n{"body": "x"}\n{"text": ""}\n{"text": ["y"]}\n'
        '{"id": "1", "text": "z"}\n{"id": "1", "text": "again"}\n',
    )

    assert [place for place, _ in notes(found)] == [f"a.jsonl:{line}" for line in (2, 3, 4, 5, 6, 8)]
    reasons = [reason for _, reason in notes(found)]
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

    (found,) = passages(read(tmp_path / "a.csv", "\r\n".join(delimiter.join(row) for row in rows)))

    assert (found.id, found.text) == ("a", "two\nlines")
    kept = {key: value for key, value in found.metadata.items() if key != "source"}
    assert kept == {"line": 2, "year": 2023, "mass": -1.5, "zip": "01069"}


def test_a_table_without_the_text_column_says_which_it_has(tmp_path: Path) -> None:
    found = read(tmp_path / "a.csv", "name,body\nx,y\n")

    assert notes(found) == [("a.csv", "has no column 'text' (found: 'name', 'body'). Pass --text-field")]
    (named,) = passages(
        read(tmp_path / "a.csv", "name,body\nx,y\n", reading=Reading(text_field="body", id_field="name"))
    )
    assert (named.id, named.text) == ("x", "y")


def test_a_row_of_another_length_is_skipped_and_an_open_quote_ends_the_table(tmp_path: Path) -> None:
    found = read(tmp_path / "a.csv", 'text,n\nmoon,1\nsun,2,3\nmars,4\n"open,5\n')

    assert [item.text for item in found if isinstance(item, Passage)] == ["moon", "mars"]
    assert notes(found)[0] == ("a.csv:3", "has 3 cells, expected 2")
    assert "is not CSV" in notes(found)[1][1]


def test_a_cell_of_a_megabyte_is_read(tmp_path: Path) -> None:
    found = passages(read(tmp_path / "a.csv", "text\n" + words(200_000) + "\n", tokens=256))

    assert sum(len(p.text.split()) for p in found) == 200_000


# -- what a file is ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b" \n\n", "is empty"),
        (b"\x89PNG\x00\x01", "is binary"),
        (b"# \n", "holds no text"),
    ],
)
def test_a_file_without_text_is_told(tmp_path: Path, content: bytes, reason: str) -> None:
    assert notes(read(tmp_path / "a.md", content)) == [("a.md", reason)]


def test_other_encodings_are_read_and_told_where_they_are_a_guess(tmp_path: Path) -> None:
    latin = read(tmp_path / "a.txt", "Königsberg".encode("latin-1"))
    utf16 = read(tmp_path / "b.txt", "Königsberg".encode("utf-16"))
    bom = read(tmp_path / "c.txt", b"\xef\xbb\xbf" + "Königsberg".encode())

    assert [item.text for found in (latin, utf16, bom) for item in found if isinstance(item, Passage)] == [
        "Königsberg"
    ] * 3
    assert notes(latin) == [("a.txt", "is not UTF-8; it was read as Windows-1252")]
    assert notes(utf16) == notes(bom) == []


def test_folders_are_walked_in_order_without_hidden_files_and_the_index_itself(tmp_path: Path) -> None:
    for name in ("b.md", "a/z.txt", ".git/x.md", "index/y.md", "a/code.py", "a/.hidden.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")

    found = list(find_files([tmp_path, tmp_path / "b.md"], Reading(), leave_out=tmp_path / "index"))

    assert [item.name for item in found if isinstance(item, Path)] == ["b.md", "z.txt"]
    assert notes(found) == [("code.py", ".py files are not read; --include '*.py' reads them as text")]
    included = find_files([tmp_path / "a"], Reading(include=("*.py",)))
    assert [item.name for item in included if isinstance(item, Path)] == ["code.py", "z.txt"]


def test_a_path_that_is_not_there_is_named() -> None:
    with pytest.raises(InputError, match="'nowhere'"):
        list(find_files([Path("nowhere")], Reading()))


def test_sources_are_absolute_or_relative_to_a_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    assert Reading().source_of(Path("docs/../a.md")) == (tmp_path / "a.md").as_posix()
    assert Reading(base=tmp_path / "docs").source_of(Path("docs/a.md")) == "a.md"


# -- keeping an index in step --------------------------------------------------------------------------------


class Desk:
    """A folder of files and an index of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "files"
        self.folder.mkdir()
        self.encoder = WordEncoder()
        self.index = SpladeIndex(":memory:", model=self.encoder)

    def write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text, encoding="utf-8", errors="surrogatepass")

    def run(self, *, base: Path | None = None, **settings: bool) -> SyncReport:
        reading = Reading(base=base)
        return sync_files(
            self.index,
            list(find_files([self.folder], reading)),
            reading=reading,
            splitter=Splitter(self.encoder.tokenizer, 16),
            folders=[self.folder],
            **settings,
        )

    def texts(self) -> set[str]:
        return {hit.text for hit in self.index.scroll()}


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def figures(report: SyncReport) -> tuple[int, int, int, int, int]:
    return report.files, report.new, report.changed, report.unchanged, report.removed


def test_a_second_run_encodes_nothing(desk: Desk) -> None:
    desk.write("a.txt", "moon")
    desk.write("b.txt", "sun")
    assert figures(desk.run()) == (2, 2, 0, 0, 0)
    encoded = desk.encoder.encoded

    assert figures(desk.run()) == (2, 0, 0, 2, 0)
    assert desk.encoder.encoded == encoded


def test_a_changed_file_is_replaced_and_what_is_gone_from_it_is_removed(desk: Desk) -> None:
    desk.write("a.txt", f"{words(16, 'one')}\n\n{words(16, 'two')}\n\n{words(16, 'three')}")
    desk.write("b.txt", "sun")
    desk.run()
    desk.write("a.txt", f"{words(16, 'one')}\n\n{words(16, 'new')}")

    assert figures(desk.run()) == (2, 0, 1, 2, 1)
    assert desk.texts() == {words(16, "one"), words(16, "new"), "sun"}


def test_the_passages_of_a_deleted_file_are_removed_and_other_documents_stay(desk: Desk) -> None:
    desk.write("a.txt", "moon")
    desk.write("b.txt", "sun")
    desk.index.add(["by hand"], ids=["mine"])
    desk.run()
    (desk.folder / "a.txt").unlink()

    assert figures(desk.run()) == (1, 0, 0, 1, 1)
    assert desk.texts() == {"sun", "by hand"}


@pytest.mark.parametrize("base", [None, "other", "other/../other"])
def test_files_are_missed_in_a_folder_that_is_named_in_a_roundabout_way(desk: Desk, base: str | None) -> None:
    (desk.folder / "docs").mkdir()
    (desk.folder / "other").mkdir()
    relative_to = None if base is None else desk.folder / base
    desk.folder = desk.folder / "other" / ".." / "docs"
    desk.write("a.txt", "moon")
    desk.write("b.txt", "sun")
    desk.run(base=relative_to)
    (desk.folder / "a.txt").unlink()

    assert figures(desk.run(base=relative_to)) == (1, 0, 0, 1, 1)


def test_a_file_that_became_empty_loses_its_passages(desk: Desk) -> None:
    desk.write("a.txt", "moon")
    desk.run()
    desk.write("a.txt", "")

    report = desk.run()

    assert (report.removed, desk.texts()) == (1, set())
    assert [note.reason for note in report.skipped] == ["is empty"]


def test_a_file_that_cannot_be_opened_keeps_its_passages(desk: Desk) -> None:
    desk.write("a.txt", "moon")
    desk.run()
    (desk.folder / "a.txt").unlink()
    (desk.folder / "a.txt").mkdir()
    reading = Reading()

    report = sync_files(
        desk.index, [desk.folder / "a.txt"], reading=reading, splitter=Splitter(desk.encoder.tokenizer)
    )

    assert "cannot be opened" in report.skipped[0].reason
    assert desk.texts() == {"moon"}


def test_a_record_that_the_index_cannot_hold_is_told_with_its_line(desk: Desk) -> None:
    desk.write(
        "a.jsonl", '{"text": "moon"}\n{"text": "sun", "n": 9999999999999999999}\n{"text": "\\ud800"}\n'
    )

    report = desk.run()

    assert desk.texts() == {"moon"}
    assert [note.place[-9:] for note in report.skipped] == ["a.jsonl:2", "a.jsonl:3"]
    assert "64 bits" in report.skipped[0].reason


def test_strict_stops_at_the_first_bad_line(desk: Desk) -> None:
    desk.write("a.jsonl", '{"text": "moon"}\nbad\n')

    with pytest.raises(InputError, match=r"a\.jsonl:2 is not JSON"):
        desk.run(strict=True)


def test_headings_are_found_though_the_text_has_not_their_words(desk: Desk) -> None:
    desk.write("a.md", "# Moon\nIt has craters.\n")
    desk.run()

    (hit,) = desk.index.search("moon")

    assert hit.text == "It has craters."
