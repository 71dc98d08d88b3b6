"""The progress line of `splade index` and `splade encode --out`."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from splade_retriever.cli.index_progress import IndexProgress


def test_the_line_ends_at_all_of_the_files(tmp_path: Path) -> None:
    read, empty = tmp_path / "a.txt", tmp_path / "b.txt"
    read.write_text("x" * 79)
    empty.write_text(" " * 21)
    output = io.StringIO()

    with IndexProgress(Console(file=output, force_terminal=True, width=100), [read, empty]) as progress:
        progress.advance(3, 79)
        assert progress.share == pytest.approx(0.79)

    assert progress.share == 1.0
    assert "100%" in output.getvalue()


def test_an_error_leaves_the_line_where_it_is(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("x" * 100)
    progress = IndexProgress(Console(file=io.StringIO()), [file])

    def fail() -> None:
        with progress:
            progress.advance(1, 50)
            raise KeyError

    with pytest.raises(KeyError):
        fail()

    assert progress.share == 0.5
