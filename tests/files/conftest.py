"""Fixtures of the tests of files."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from splade_retriever import SpladeIndex
from splade_retriever.files.discovery import find_files
from splade_retriever.files.passages import ReadOptions
from splade_retriever.files.splitter import Splitter
from splade_retriever.files.sync import SyncReport, sync_files
from tests.words import WordEncoder


class Desk:
    """A folder of files and an index of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "files"
        self.folder.mkdir()
        self.encoder = WordEncoder()
        self.index = SpladeIndex(":memory:", model=self.encoder)

    def write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text, encoding="utf-8", errors="surrogatepass")

    def run(
        self, *, base: Path | None = None, after_listing: Callable[[], object] = lambda: None, **settings: Any
    ) -> SyncReport:
        options = ReadOptions(base=base)
        files = list(find_files([self.folder], options))
        after_listing()
        return sync_files(
            self.index,
            files,
            options=options,
            splitter=Splitter(self.encoder.tokenizer, 16),
            folders=[self.folder],
            **settings,
        )

    def texts(self) -> set[str]:
        return {hit.text for hit in self.index.scroll()}


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A repository of git, which reads no settings of the user."""
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    folder = tmp_path_factory.mktemp("repository")
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("GIT_")]:
            patch.delenv(name)
        patch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
        patch.setenv("GIT_CONFIG_NOSYSTEM", "1")
        patch.setenv("XDG_CONFIG_HOME", str(folder / "settings"))
        subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
        yield folder
