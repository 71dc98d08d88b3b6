"""Files in folders: which are taken, and what is reported about the others."""

from pathlib import Path

import pytest

from splade_retriever.errors import InputError
from splade_retriever.files.discovery import find_files
from splade_retriever.files.passages import ReadOptions
from tests.files.reading import issues_of


def test_hidden_files_and_the_index_are_skipped(tmp_path: Path) -> None:
    for name in ("b.md", "a/z.txt", ".git/x.md", "index/y.md", "a/code.py", "a/.hidden.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")

    found = list(find_files([tmp_path, tmp_path / "b.md"], ReadOptions(), excluded_folder=tmp_path / "index"))

    assert [item.name for item in found if isinstance(item, Path)] == ["b.md", "z.txt"]
    assert issues_of(found) == [("code.py", ".py files are not read; --include '*.py' reads them as text")]
    included = find_files([tmp_path / "a"], ReadOptions(include=("*.py",)))
    assert [item.name for item in included if isinstance(item, Path)] == ["code.py", "z.txt"]


def test_a_missing_path_raises_with_its_name() -> None:
    with pytest.raises(InputError, match="'nowhere'"):
        list(find_files([Path("nowhere")], ReadOptions()))
