"""Files in folders: which are taken, and what is reported about the others."""

import os
import re
from pathlib import Path

import pytest

from splade_retriever.errors import InputError
from splade_retriever.files.discovery import find_files
from splade_retriever.files.loaders import read_file
from splade_retriever.files.passages import FileIssue, Passage, ReadOptions
from splade_retriever.files.splitter import Splitter
from tests.files.reading import WORDS, issues_of


def test_hidden_files_and_the_index_are_skipped(tmp_path: Path) -> None:
    for name in ("b.md", "a/z.txt", ".git/x.md", "index/y.md", "a/data.yaml", "a/.hidden.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")

    found = list(find_files([tmp_path, tmp_path / "b.md"], ReadOptions(), excluded_folder=tmp_path / "index"))

    assert [item.name for item in found if isinstance(item, Path)] == ["b.md", "z.txt"]
    assert issues_of(found) == [
        (".git", "is hidden; --hidden reads it"),
        (".hidden.md", "is hidden; --hidden reads it"),
        ("data.yaml", ".yaml files are not read; --include '*.yaml' reads them as text"),
    ]
    included = find_files([tmp_path / "a"], ReadOptions(include=("*.yaml",)))
    assert [item.name for item in included if isinstance(item, Path)] == ["data.yaml", "z.txt"]


def test_a_missing_path_raises_with_its_name() -> None:
    with pytest.raises(InputError, match="'nowhere'"):
        list(find_files([Path("nowhere")], ReadOptions()))


def test_files_that_cannot_be_read_are_reported_and_the_others_are_found(tmp_path: Path) -> None:
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "good.txt").write_text("moon")
    (folder / "dangling.txt").symlink_to("nowhere")
    (folder / "loop.txt").symlink_to("loop.txt")
    (tmp_path / "secret.txt").write_text("secret")
    (folder / "outside.txt").symlink_to(tmp_path / "secret.txt")
    (folder / "inside.txt").symlink_to("good.txt")
    (folder / "zero.txt").symlink_to("/dev/zero")
    (folder / "up").symlink_to(tmp_path)
    os.mkfifo(folder / "pipe.txt")

    found = list(find_files([folder], ReadOptions()))

    assert [item.name for item in found if isinstance(item, Path)] == ["good.txt"]
    assert dict(issues_of(found)) == {
        "dangling.txt": "cannot be read: No such file or directory",
        "loop.txt": "cannot be read: Too many levels of symbolic links",
        "outside.txt": "is a link that leads out of the folder; name its target to read it",
        "pipe.txt": "is not a regular file",
        "up": "is a link that leads out of the folder; name its target to read it",
        "zero.txt": "is a link that leads out of the folder; name its target to read it",
    }


def test_a_file_whose_name_is_not_utf_8_is_reported(tmp_path: Path) -> None:
    (tmp_path / "good.txt").write_text("moon")
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.txt")).write_text("sun")

    items = [
        item
        for found in find_files([tmp_path], ReadOptions())
        for item in (
            [found] if isinstance(found, FileIssue) else read_file(found, ReadOptions(), Splitter(WORDS))
        )
    ]

    assert [item.text for item in items if isinstance(item, Passage)] == ["moon"]
    assert issues_of(items) == [("caf\\xe9.txt", "has a name that is not UTF-8; rename it")]


def test_ignored_and_excluded_files_are_reported_and_can_be_read(tmp_path: Path) -> None:
    for name in ("a.md", "drafts/b.md", "build/c.md", "node_modules/x/d.md", ".e.md", "sub/f.md", "sub/g.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    (tmp_path / ".gitignore").write_text("build/\n*.tmp\n")
    (tmp_path / "sub" / ".gitignore").write_text("f.md\n")

    found = list(find_files([tmp_path], ReadOptions(exclude=("drafts",))))
    everything = find_files(
        [tmp_path], ReadOptions(hidden=True, use_gitignore=False, include=(".gitignore",))
    )

    assert [item.name for item in found if isinstance(item, Path)] == ["a.md", "g.md"]
    assert dict(issues_of(found)) == {
        ".e.md": "is hidden; --hidden reads it",
        ".gitignore": "is hidden; --hidden reads it",
        "build": "is ignored by .gitignore; --no-ignore reads it",
        "drafts": "is excluded by --exclude 'drafts'",
        "f.md": "is ignored by .gitignore; --no-ignore reads it",
        "node_modules": "is a folder of installed packages; --no-ignore reads it",
    }
    assert all(item.ignored for item in found if isinstance(item, FileIssue))
    assert len([item for item in everything if isinstance(item, Path)]) == 9


def test_the_gitignore_files_of_the_repository_above_a_folder_count(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    (tmp_path / "docs").mkdir()
    (tmp_path / ".gitignore").write_text("/docs/a.md\n")
    for name in ("a.md", "b.md"):
        (tmp_path / "docs" / name).write_text("x")

    found = find_files([tmp_path / "docs"], ReadOptions())

    assert [item.name for item in found if isinstance(item, Path)] == ["b.md"]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("a.xlsx", ".xlsx files are not read; save them as PDF, DOCX or text first"),
        ("a.PNG", ".PNG files are not text"),
        ("a.cfg", ".cfg files are not read; --include '*.cfg' reads them as text"),
        ("README", "files without an extension are not read; --include 'README' reads them as text"),
    ],
)
def test_the_advice_for_a_kind_that_is_not_read_works(tmp_path: Path, name: str, reason: str) -> None:
    (tmp_path / name).write_text("x")

    assert issues_of(find_files([tmp_path], ReadOptions())) == [(name, reason)]
    advised = re.findall("--include '(.*?)'", reason)
    if advised:
        (found,) = find_files([tmp_path], ReadOptions(include=tuple(advised)))
        assert found == tmp_path / name
