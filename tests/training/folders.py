"""Writes the weights of a test as a model folder."""

from pathlib import Path
from typing import Any

from splade_retriever.training import bundled_folder
from splade_retriever.training.export import ExportSettings, write_folder


def write_model(state: Any, folder: Path, *, name: str = "splade-retriever/test", **settings: Any) -> None:
    write_folder(
        state,
        folder,
        ExportSettings(**settings),
        name=name,
        origin="Test",
        tokenizer=bundled_folder() / "tokenizer.json",
    )
