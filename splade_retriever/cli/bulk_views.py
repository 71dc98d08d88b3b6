"""Encoding files to a Parquet file, and loading one, with their progress and their results."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from splade_retriever.cli.output import print_result, stderr_console

if TYPE_CHECKING:
    from splade_retriever.encoding.text_embedding import SparseTextEmbedding
    from splade_retriever.files.passages import ReadOptions
    from splade_retriever.index.splade_index import SpladeIndex

__all__ = ["encode_to_file", "load_file"]

_MAX_SHOWN: Final = 10
"""Issues that are shown."""


def encode_to_file(
    source: Path,
    out: Path,
    *,
    model: SparseTextEmbedding,
    options: ReadOptions,
    shard: str,
    passage_tokens: int,
    as_json: bool,
) -> None:
    """Encode the passages of files, draw the progress, and print what was done."""
    from rich.text import Text

    from splade_retriever.bulk import Shard, encode_files
    from splade_retriever.cli.index_progress import IndexProgress
    from splade_retriever.files.discovery import find_files
    from splade_retriever.files.splitter import Splitter

    files = list(find_files([source], options))
    with IndexProgress(stderr_console(), files, title="encoding") as progress:
        report = encode_files(
            files,
            out,
            encoder=model,
            splitter=Splitter(model.tokenizer, max_tokens=passage_tokens),
            options=options,
            shard=Shard.parse(shard),
            on_progress=progress.advance,
        )
    issues = [f"{issue.place} {issue.reason}" for issue in report.issues if not issue.ignored]
    lines = [
        f"{report.passages:,} passages are in {out}, {report.encoded:,} of them encoded now, "
        f"{report.encoded / max(report.seconds, 1e-9):,.1f} per second",
        *issues[:_MAX_SHOWN],
    ]
    data = {
        "file": str(out),
        "passages": report.passages,
        "encoded": report.encoded,
        "seconds": round(report.seconds, 3),
        "issues": issues,
    }
    print_result(lambda: Text("\n".join(lines)), data, as_json=as_json)


def load_file(index: SpladeIndex, vectors: Path, *, location: str, as_json: bool) -> None:
    """Add a file of vectors to an index, and print what was done."""
    from rich.text import Text

    from splade_retriever.bulk import load_vectors

    added = load_vectors(index, vectors)
    data = {"location": location, "added": added, "total": index.count()}
    text = f"{added:,} passages of {vectors} were added to {location}, which holds {data['total']:,} now"
    print_result(lambda: Text(text), data, as_json=as_json)
