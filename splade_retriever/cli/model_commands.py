"""The command that packs a model: `splade bundle`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from splade_retriever.cli.options import JsonOption
from splade_retriever.cli.output import print_result

if TYPE_CHECKING:
    from rich.console import RenderableType

    from splade_retriever.encoding.text_embedding import SparseTextEmbedding

__all__ = ["bundle"]


def bundle(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A name of `splade models`, or a folder.")],
    to: Annotated[Path, typer.Argument(metavar="FILE", help="Archive to write; its name ends in .tar.")],
    *,
    accept_license: Annotated[
        bool, typer.Option("--accept-license", help="You comply with a non-commercial licence.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Write a model to one file, for machines without a network. Its path is used like the model's name."""
    from splade_retriever.encoding.text_embedding import SparseTextEmbedding

    encoder = SparseTextEmbedding(model, accept_license=accept_license, lazy_load=True)
    files = encoder.save_archive(to)
    report = {"archive": str(to), "fingerprint": encoder.fingerprint, "files": files}
    print_result(lambda: _view(encoder, to, files), report, as_json=as_json)


def _view(encoder: SparseTextEmbedding, archive: Path, files: dict[str, int]) -> RenderableType:
    from rich.text import Text

    size = sum(files.values()) / 1e6
    return Text(
        f"{encoder.model_name}: {len(files)} files, {size:,.1f} MB, each with its digest\n"
        f"The archive is {archive}"
    )
