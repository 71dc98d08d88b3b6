"""Commands that measure: `splade eval` and `splade tune`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from splade_retriever.cli.options import (
    CollectionOption,
    JsonOption,
    KeyOption,
    ModelOption,
    open_to_read,
    with_server_options,
)
from splade_retriever.cli.output import print_result
from splade_retriever.encoding.model_cards import Precision
from splade_retriever.errors import InputError
from splade_retriever.validation import is_url, resolved_location

if TYPE_CHECKING:
    from rich.console import RenderableType

    from splade_retriever.evaluation.tune_report import TuneReport
    from splade_retriever.index.options import ServerKeywords

__all__ = ["evaluate", "tune"]

_DIMS: Final = "all,128,64,32"
_QUERY_DIMS: Final = "all,32,16,8"


def evaluate(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A collection in BEIR layout.")],
    *,
    model: ModelOption = None,
    precision: Annotated[
        Precision | None,
        typer.Option("--precision", help="Instead of the precision in the model's card."),
    ] = None,
    split: Annotated[
        str, typer.Option("--split", metavar="NAME", help="Judgements to use: qrels/NAME.tsv.")
    ] = "test",
    every_nth: Annotated[
        int,
        typer.Option("--every-nth", min=1, metavar="N", help="Use every N-th judged query only."),
    ] = 1,
    linear: Annotated[
        bool, typer.Option("--linear", help="Gains in nDCG are the grades, not 2^grade - 1.")
    ] = False,
    max_active_dims: Annotated[
        int | None,
        typer.Option("--max-active-dims", min=1, metavar="N", help="Heaviest weights kept of a document."),
    ] = None,
    query_max_active_dims: Annotated[
        int | None,
        typer.Option("--query-max-active-dims", min=1, metavar="N", help="Heaviest weights kept of a query."),
    ] = None,
    bm25: Annotated[bool, typer.Option(help="Compare with BM25.")] = True,
    dense: Annotated[
        str | None,
        typer.Option("--dense", metavar="NAME", help="Compare with this sentence-transformers model."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure a model on judged queries: nDCG@10, R@100, MRR@10, size and speed, with BM25 to compare."""
    from splade_retriever.evaluation.evaluate import evaluate as measure

    report = measure(
        folder,
        model,
        precision=precision,
        split=split,
        every_nth=every_nth,
        gains="linear" if linear else "exponential",
        max_active_dims=max_active_dims,
        query_max_active_dims=query_max_active_dims,
        bm25=bm25,
        dense=dense,
        show_progress=sys.stderr.isatty(),
    )
    print_result(lambda: _markdown(report.to_markdown()), report.to_dict(), as_json=as_json)


@with_server_options
def tune(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE", help="Collection in BEIR layout, folder of files, or index (a folder or a URL)."
        ),
    ],
    *,
    model: ModelOption = None,
    collection: CollectionOption = "splade",
    document_dims: Annotated[
        str, typer.Option("--max-active-dims", metavar="LIST", help="Values to try for documents.")
    ] = _DIMS,
    query_dims: Annotated[
        str, typer.Option("--query-max-active-dims", metavar="LIST", help="Values to try for queries.")
    ] = _QUERY_DIMS,
    windows: Annotated[
        str | None,
        typer.Option(
            "--windows", metavar="LIST", help="merge, truncate or both; by default both if texts are long."
        ),
    ] = None,
    second_model: Annotated[
        str | None,
        typer.Option("--second-model", metavar="NAME", help="Join with this sparse model, too."),
    ] = None,
    dense: Annotated[
        str | None,
        typer.Option("--dense", metavar="NAME", help="Join with this sentence-transformers model, too."),
    ] = None,
    max_loss: Annotated[
        float, typer.Option("--max-loss", min=0.0, metavar="X", help="Loss of nDCG@10 that is acceptable.")
    ] = 0.01,
    max_queries: Annotated[
        int, typer.Option("--max-queries", min=1, metavar="N", help="Headings to use as queries.")
    ] = 500,
    plot: Annotated[
        Path | None, typer.Option("--plot", metavar="FILE", help="Draw quality, size and time (PNG or SVG).")
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config", metavar="FILE", help="Write a configuration (YAML) with the chosen settings."
        ),
    ] = None,
    api_key: KeyOption = None,
    server: ServerKeywords,
    as_json: JsonOption = False,
) -> None:
    """Find the smallest vectors that rank as well on your documents: pruning, datatype and long texts.

    A collection in BEIR layout has judged queries. Of other sources the headings are the queries, and the
    passages under them the answers; the report says so.
    """
    from splade_retriever.evaluation.baselines import SentenceTransformerEncoder
    from splade_retriever.evaluation.beir import BeirCollection
    from splade_retriever.evaluation.tune import collection_from_headings
    from splade_retriever.evaluation.tune import tune as measure
    from splade_retriever.evaluation.tune_report import check_plot

    if plot is not None:
        check_plot(plot)
    documents, queries = _numbers(document_dims), _numbers(query_dims)
    treatments: Any = None if windows is None else [word.strip() for word in windows.split(",")]
    dense_encoder = None if dense is None else SentenceTransformerEncoder(dense)
    source = resolved_location(source)
    is_beir = any(Path(source, name).is_file() for name in ("corpus.jsonl", "corpus.jsonl.gz"))
    if is_beir:
        texts = BeirCollection.read(source)
    elif is_url(source) or Path(source, "edge.json").is_file():
        with open_to_read(
            source, collection, model=model, api_key=api_key, server=server, read_only=False
        ) as index:
            found = [(hit.id, hit.text, str(hit.metadata.get("heading", ""))) for hit in index.scroll()]
        texts = collection_from_headings(source, found, max_queries=max_queries)
    else:
        texts = collection_from_headings(source, _passages_of_files(source, model), max_queries=max_queries)
    report = measure(
        texts,
        model,
        document_dims=documents,
        query_dims=queries,
        windows=treatments,
        second_model=second_model,
        dense=dense_encoder,
        max_loss=max_loss,
        made_from_headings=not is_beir,
        show_progress=sys.stderr.isatty(),
    )
    print_result(lambda: _markdown(report.to_markdown()), report.to_dict(), as_json=as_json)
    if config is not None:
        _write_configuration(config, report, model, second_model, dense)
    if plot is not None:
        report.plot(plot)


def _passages_of_files(source: str, model: str | None) -> Iterator[tuple[str, str, str]]:
    from splade_retriever.encoding.text_embedding import SparseTextEmbedding
    from splade_retriever.files.discovery import find_files
    from splade_retriever.files.loaders import read_file
    from splade_retriever.files.passages import Passage, ReadOptions
    from splade_retriever.files.splitter import Splitter

    options = ReadOptions(base=Path(source))
    splitter = Splitter(SparseTextEmbedding(model, lazy_load=True).tokenizer)
    for path in find_files([Path(source)], options):
        if isinstance(path, Path):
            for passage in read_file(path, options, splitter):
                if isinstance(passage, Passage):
                    yield passage.id, passage.text, passage.context


def _numbers(listed: str) -> list[int | None]:
    """Read "all,64,32", with None for all.

    Raises:
        typer.BadParameter: If an item is neither "all" nor a number of 1 or more.
    """
    values: list[int | None] = []
    for item in listed.split(","):
        word = item.strip()
        if word == "all":
            values.append(None)
        elif word.isdecimal() and int(word) >= 1:
            values.append(int(word))
        else:
            raise typer.BadParameter(f"The list has {word!r}, expected numbers or all: {_DIMS}.")
    return values


def _write_configuration(
    path: Path, report: TuneReport, model: str | None, second_model: str | None, dense: str | None
) -> None:
    from splade_retriever.config import to_yaml

    values: dict[str, Any] = {
        "location": "./index",
        "model": model,
        "index": {"create": True, **report.index_settings()},
        **report.search_settings(),
    }
    if second_model is not None and values["mode"] != "sparse":
        values["second_model"] = second_model
    if dense is not None and values["mode"] != "sparse":
        arguments = {"model_name": dense}
        values["dense"] = {"class": "langchain_huggingface.HuggingFaceEmbeddings", "args": arguments}
    try:
        path.write_text(to_yaml({name: v for name, v in values.items() if v is not None}), encoding="utf-8")
    except OSError as error:
        raise InputError(f"{str(path)!r} cannot be written ({error.strerror}). Check the folder.") from error


def _markdown(text: str) -> RenderableType:
    from rich.markdown import Markdown

    return Markdown(text)
