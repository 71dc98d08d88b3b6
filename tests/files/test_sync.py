"""A collection in step with a folder of files."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from splade_retriever.errors import InputError
from splade_retriever.files.passages import ReadOptions
from splade_retriever.files.splitter import Splitter
from splade_retriever.files.sync import SyncReport, sync_files
from tests.files.conftest import Desk
from tests.files.reading import words


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


def test_a_file_that_vanishes_between_the_listing_and_the_reading_is_skipped_and_reported(desk: Desk) -> None:
    desk.write("a.txt", "moon")
    desk.write("b.txt", "sun")

    report = desk.run(after_listing=(desk.folder / "a.txt").unlink)

    assert [(issue.place, issue.reason) for issue in report.skipped] == [
        (str(desk.folder / "a.txt"), "cannot be read: No such file or directory")
    ]
    assert desk.texts() == {"sun"}


def test_a_file_that_vanishes_while_others_are_written_is_skipped_and_reported(desk: Desk) -> None:
    for n in range(300):
        desk.write(f"{n:03}.txt", f"moon {n}")

    def remove(done: int, total: int) -> None:
        (desk.folder / "299.txt").unlink(missing_ok=True)

    report = desk.run(on_written=remove)

    assert [issue.place for issue in report.skipped] == [str(desk.folder / "299.txt")]
    assert desk.index.count() == 299


def test_the_progress_ends_with_the_bytes_of_the_files(desk: Desk) -> None:
    desk.write(
        "a.jsonl", "".join(f'{{"id": {n}, "text": "moon", "link": "{"x" * 99}"}}\n' for n in range(40))
    )
    desk.write("b.txt", "\n\n".join([words(16, "one"), words(16, "two")]))
    desk.write("c.txt", "Häuser")
    seen: list[tuple[int, int]] = []

    desk.run(on_written=lambda *at: seen.append(at))

    assert seen[-1] == (43, sum(file.stat().st_size for file in desk.folder.iterdir()))


def test_the_passages_of_a_stored_file_that_vanishes_are_removed(desk: Desk) -> None:
    desk.write("a.txt", "moon")
    desk.run()

    report = desk.run(after_listing=(desk.folder / "a.txt").unlink)

    assert [issue.place for issue in report.skipped] == [str(desk.folder / "a.txt")]
    assert desk.texts() == set()


def test_the_passages_of_a_deleted_file_are_removed_and_other_documents_stay(desk: Desk) -> None:
    desk.write("a.txt", "moon")
    desk.write("b.txt", "sun")
    desk.index.add(["by hand"], ids=["mine"])
    desk.run()
    (desk.folder / "a.txt").unlink()

    assert figures(desk.run()) == (1, 0, 0, 1, 1)
    assert desk.texts() == {"sun", "by hand"}


@pytest.mark.parametrize("base", [None, "other", "other/../other"])
def test_deleted_files_are_noticed_however_the_folder_is_written(desk: Desk, base: str | None) -> None:
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
    assert [issue.reason for issue in report.skipped] == ["is empty"]


def test_a_file_that_cannot_be_read_keeps_its_passages(desk: Desk) -> None:
    desk.write("a.txt", "moon")
    desk.run()
    (desk.folder / "a.txt").unlink()
    (desk.folder / "a.txt").mkdir()
    options = ReadOptions()

    report = sync_files(
        desk.index, [desk.folder / "a.txt"], options=options, splitter=Splitter(desk.encoder.tokenizer)
    )

    assert "cannot be read" in report.skipped[0].reason
    assert desk.texts() == {"moon"}


def test_a_record_that_the_index_refuses_is_reported_with_its_line(desk: Desk) -> None:
    desk.write(
        "a.jsonl", '{"text": "moon"}\n{"text": "sun", "n": 9999999999999999999}\n{"text": "\\ud800"}\n'
    )

    report = desk.run()

    assert desk.texts() == {"moon"}
    assert [issue.place[-9:] for issue in report.skipped] == ["a.jsonl:2", "a.jsonl:3"]
    assert "64 bits" in report.skipped[0].reason


def test_strict_stops_at_the_first_bad_line(desk: Desk) -> None:
    desk.write("a.jsonl", '{"text": "moon"}\nbad\n')

    with pytest.raises(
        InputError, match=r"a\.jsonl:2 is not JSON.*before it are indexed.*--strict"
    ) as caught:
        desk.run(strict=True)
    assert "on_error" not in str(caught.value)
    assert desk.texts() == {"moon"}


def test_a_passage_is_found_by_the_words_of_its_heading(desk: Desk) -> None:
    desk.write("a.md", "# Moon\nIt has craters.\n")
    desk.run()

    (hit,) = desk.index.search("moon")

    assert hit.text == "It has craters."


def test_equal_ids_in_two_files_are_two_documents(desk: Desk) -> None:
    desk.write("a.csv", "id,text\n1,moon\n2,sun\n")
    desk.write("b.csv", "id,text\n1,mars\n2,venus\n")

    report = desk.run()

    assert desk.texts() == {"moon", "sun", "mars", "venus"}
    assert (report.passages, report.replaced, report.issues) == (4, 0, [])


def test_equal_ids_in_one_file_are_counted_and_the_last_record_counts(desk: Desk) -> None:
    desk.write("a.csv", "id,text\n1,moon\n1,sun\n")

    report = desk.run()

    assert desk.texts() == {"sun"}
    assert (report.passages, report.replaced) == (1, 1)
    (issue,) = report.warnings
    assert issue.place.endswith("a.csv:3")
    assert "a.csv:2, which it replaces" in issue.reason
    assert figures(desk.run()) == (1, 0, 0, 1, 0)


def test_an_unreadable_folder_keeps_the_passages_of_its_files(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    (desk.folder / "sub").mkdir()
    desk.write("sub/a.txt", "moon")
    desk.run()
    monkeypatch.setattr(os, "scandir", _refusing(os.scandir, desk.folder / "sub"))
    monkeypatch.setattr(os, "lstat", _refusing(os.lstat, desk.folder / "sub"))

    report = desk.run()

    assert [issue.reason for issue in report.skipped] == ["cannot be read: Permission denied"]
    assert desk.texts() == {"moon"}


def _refusing(call: Callable[[Any], Any], folder: Path) -> Callable[[Any], Any]:
    """Root, who may run these tests, can read every folder, so the refusal is made here."""

    def refuse(path: Any) -> Any:
        if Path(path).is_relative_to(folder):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return call(path)

    return refuse
