"""The `splade` command: index files, search them, and look into the model and the index.

Results go to stdout, everything else (progress, errors) to stderr. Exit status: 0 done, 1 an error that the
message explains, 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import typer
from typer.core import TyperGroup

from splade_retriever import __version__
from splade_retriever.encoding.model_cards import Precision
from splade_retriever.errors import InputError, SpladeError
from splade_retriever.validation import is_url

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from splade_retriever import SparseTextEmbedding, SpladeIndex

__all__ = ["app", "main"]

_INTERRUPTED: Final = 130
_DEBUG: Final = "SPLADE_DEBUG"


class _Group(TyperGroup):
    """Turns what ends a command early into one readable message on stderr and an exit status."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except SpladeError as error:
            _complain(str(error))
            raise typer.Exit(1) from error
        except KeyboardInterrupt:
            _complain("interrupted.")
            raise typer.Exit(_INTERRUPTED) from None


app = typer.Typer(
    cls=_Group,
    help="SPLADE retrieval in the terminal: index files, search them, see why each hit was found.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

IndexOption = Annotated[
    str, typer.Option("--index", "-i", metavar="PLACE", help="Index folder, or URL of a Qdrant server.")
]
CollectionOption = Annotated[
    str, typer.Option("--collection", metavar="NAME", help="Collection in the index.")
]
ModelOption = Annotated[
    str | None,
    typer.Option("--model", "-m", metavar="NAME", help="Model name or folder; see `splade models`."),
]
KeyOption = Annotated[
    str | None,
    typer.Option("--api-key", envvar="QDRANT_API_KEY", metavar="KEY", help="API key of the Qdrant server."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, on stdout.")]
TokensOption = Annotated[int, typer.Option("--tokens", min=1, metavar="N", help="Tokens to show.")]


def _print_version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"splade-retriever {__version__}\n")
        raise typer.Exit


@app.callback()
def _root(
    *,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    """Take the options that stand before a command."""


@app.command()
def index(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="Files and folders to read.")],
    *,
    to: Annotated[
        str,
        typer.Option("--to", "-t", metavar="PLACE", help="Index folder to write, or URL of a Qdrant server."),
    ],
    collection: CollectionOption = "splade",
    model: ModelOption = None,
    passage_tokens: Annotated[
        int, typer.Option("--passage-tokens", min=16, metavar="N", help="Most tokens of a passage.")
    ] = 256,
    text_field: Annotated[
        str, typer.Option("--text-field", metavar="NAME", help="Field or column of a record with its text.")
    ] = "text",
    id_field: Annotated[
        str | None,
        typer.Option("--id-field", metavar="NAME", help="Field or column with its id; else `id` or `_id`."),
    ] = None,
    include: Annotated[
        list[str] | None,
        typer.Option("--include", metavar="GLOB", help="Read files of this name as text too; repeatable."),
    ] = None,
    base: Annotated[
        Path | None,
        typer.Option("--base", metavar="FOLDER", help="Store file names relative to FOLDER, not absolute."),
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Stop at the first file or line that cannot be read.")
    ] = False,
    api_key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Read text, Markdown, JSONL and CSV files into an index.

    Run again, it encodes only what is new or changed, and removes what is gone from the files.
    """
    from splade_retriever.cli.render import Progress, report_view
    from splade_retriever.files.discovery import find_files
    from splade_retriever.files.passages import FileIssue, ReadOptions
    from splade_retriever.files.splitter import Splitter
    from splade_retriever.files.sync import sync_files

    options = ReadOptions(text_field=text_field, id_field=id_field, include=tuple(include or ()), base=base)
    files = list(find_files(paths, options, excluded_folder=Path(to)))
    if all(isinstance(item, FileIssue) for item in files):
        looked = ", ".join(str(path) for path in paths)
        raise InputError(
            f"no text, Markdown, JSONL or CSV file was found in {looked} ({len(files)} others were passed "
            "over). Name a file, or add its kind: --include '*.py'."
        )
    with _opened(to, collection, model=model, api_key=api_key, create=True) as opened:
        splitter = Splitter(_tokenizer(opened), max_tokens=passage_tokens)
        with Progress(_stderr(), files) as progress:
            try:
                report = sync_files(
                    opened,
                    files,
                    options=options,
                    splitter=splitter,
                    folders=[path for path in paths if path.is_dir()],
                    strict=strict,
                    on_written=progress.advance,
                )
            except KeyboardInterrupt:
                progress.stop()
                _complain(
                    f"interrupted. {progress.passages} passages were read and are kept; run the same command "
                    "again to go on from there."
                )
                raise typer.Exit(_INTERRUPTED) from None
        total = opened.count()
    _give(
        lambda: report_view(report, to=to, total=total),
        {
            "index": to,
            "collection": collection,
            "files": report.files,
            "passages": report.passages,
            "new": report.new,
            "changed": report.changed,
            "unchanged": report.unchanged,
            "removed": report.removed,
            "total": total,
            "skipped": [{"place": issue.place, "reason": issue.reason} for issue in report.skipped],
            "warnings": [{"place": issue.place, "reason": issue.reason} for issue in report.warnings],
            "seconds": round(report.seconds, 3),
        },
        as_json=as_json,
    )


@app.command()
def search(
    query: Annotated[str, typer.Argument(metavar="QUERY", help="What to look for.")],
    *,
    index: IndexOption,
    k: Annotated[int, typer.Option("-k", min=1, metavar="N", help="Most hits.")] = 5,
    filter: Annotated[
        str | None,
        typer.Option("--filter", "-f", metavar="JSON", help="""Such as '{"year": {"$gte": 2020}}'."""),
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="Show whole passages, not their best part.")] = False,
    tokens: TokensOption = 8,
    collection: CollectionOption = "splade",
    model: ModelOption = None,
    api_key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Search an index: ranked passages, their matched words marked, and the tokens that made each score."""
    from splade_retriever.cli.render import hits_view

    asked = _filter(filter)
    with _opened(index, collection, model=model, api_key=api_key, create=False) as opened:
        hits = opened.search(query, k, asked, with_vectors=True)
        found = list(zip(hits, opened.explain_all(query, hits), strict=True))
        total = 0 if found else opened.count()
    _give(
        lambda: hits_view(query, found, full=full, tokens=tokens, total=total),
        {
            "query": query,
            "index": index,
            "collection": collection,
            "hits": [
                {
                    "rank": rank,
                    "id": hit.id,
                    "score": hit.score,
                    "source": hit.metadata.get("source"),
                    "text": hit.text,
                    "metadata": hit.metadata,
                    "contributions": explanation.to_dict()["contributions"],
                    "spans": explanation.to_dict()["spans"],
                }
                for rank, (hit, explanation) in enumerate(found, start=1)
            ],
        },
        as_json=as_json,
    )


@app.command()
def encode(
    text: Annotated[str, typer.Argument(metavar="TEXT", help="The text; - reads it from stdin.")],
    *,
    query: Annotated[bool, typer.Option("--query", help="Encode as a query, not as a document.")] = False,
    tokens: TokensOption = 30,
    model: ModelOption = None,
    as_json: JsonOption = False,
) -> None:
    """Encode a text: its tokens and their weights, those of the text told from the model's expansion."""
    from splade_retriever.cli.render import weights_view

    text = _text_or_stdin(text)
    encoder = _model(model)
    (vector,) = encoder.query_embed([text]) if query else encoder.embed([text])
    (encoding,) = encoder.tokenizer.encode_batch([text])
    literal = {id for id, (start, end) in zip(encoding.ids, encoding.offsets, strict=True) if end > start}
    weights = encoder.tokens_and_weights(vector)
    own = {token for token in encoder.tokenizer.tokens(sorted(literal)) if token in weights}
    _give(
        lambda: weights_view(weights, own, most=tokens, cut=encoding.truncated),
        {
            "model": encoder.model_name,
            "text": text,
            "tokens": [
                {"token": token, "weight": weight, "in_text": token in own}
                for token, weight in weights.items()
            ],
            "indices": vector.indices.tolist(),
            "values": vector.values.tolist(),
            "cut_tokens": encoding.truncated,
        },
        as_json=as_json,
    )


@app.command()
def explain(
    query: Annotated[str, typer.Argument(metavar="QUERY", help="The query.")],
    text: Annotated[str, typer.Argument(metavar="TEXT", help="The text; - reads it from stdin.")],
    *,
    tokens: TokensOption = 20,
    model: ModelOption = None,
    as_json: JsonOption = False,
) -> None:
    """Score a text against a query, and show what each token gives to the score."""
    from splade_retriever.explanation import explain as explained
    from splade_retriever.explanation import explanation_view

    text = _text_or_stdin(text)
    encoder = _model(model)
    (query_vector,), (text_vector,) = encoder.query_embed([query]), encoder.embed([text])
    found = explained(
        query, text, query_vector=query_vector, document_vector=text_vector, tokenizer=encoder.tokenizer
    )
    _give(
        lambda: explanation_view(found, tokens=tokens),
        {"model": encoder.model_name, "text": text} | found.to_dict(),
        as_json=as_json,
    )


@app.command()
def models(*, as_json: JsonOption = False) -> None:
    """List the models that can be asked for by name. A model folder can be given in place of a name."""
    from splade_retriever import SparseTextEmbedding
    from splade_retriever.cli.render import models_view

    cards = SparseTextEmbedding.list_supported_models()
    _give(lambda: models_view(cards), cards, as_json=as_json)


@app.command()
def info(
    *,
    index: IndexOption,
    collection: CollectionOption = "splade",
    api_key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Describe an index: how many documents, which model made it, its settings and size."""
    from splade_retriever.cli.diagnostics import describe
    from splade_retriever.cli.render import facts_view

    with _opened(index, collection, model=None, api_key=api_key, create=False) as opened:
        facts = describe(opened, index)
    _give(lambda: facts_view(facts), facts, as_json=as_json)


@app.command()
def doctor(*, as_json: JsonOption = False) -> None:
    """Check that everything works here: versions, processor, model, engine, and a small index and search."""
    from splade_retriever.cli.diagnostics import check_all
    from splade_retriever.cli.render import checks_view

    checks = check_all()
    _give(
        lambda: checks_view(checks),
        {
            "ok": all(check.ok for check in checks),
            "checks": [{"name": check.name, "ok": check.ok, "found": check.found} for check in checks],
        },
        as_json=as_json,
    )
    if not all(check.ok for check in checks):
        raise typer.Exit(1)


@app.command("eval")
def evaluate(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A collection in BEIR layout.")],
    *,
    model: ModelOption = None,
    precision: Annotated[
        Precision | None,
        typer.Option("--precision", help="In place of the precision that the model's card names."),
    ] = None,
    split: Annotated[
        str, typer.Option("--split", metavar="NAME", help="Judgements to use: qrels/NAME.tsv.")
    ] = "test",
    every_nth: Annotated[
        int,
        typer.Option("--every-nth", min=1, metavar="N", help="Ask every N-th judged query only."),
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
    """Measure a model on judged queries: nDCG@10, R@100, MRR@10, size and speed, beside BM25."""
    from splade_retriever.evaluation.evaluate import evaluate as measured

    report = measured(
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
    _give(lambda: _markdown(report.to_markdown()), report.to_dict(), as_json=as_json)


@app.command()
def migrate(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="Index folder, or URL of a Qdrant server.")],
    target: Annotated[str, typer.Argument(metavar="TARGET", help="Where to copy it: the same.")],
    *,
    collection: CollectionOption = "splade",
    target_collection: Annotated[
        str | None,
        typer.Option("--target-collection", metavar="NAME", help="Name in the target, if another."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done; write nothing.")
    ] = False,
    shards: Annotated[
        int | None,
        typer.Option("--shards", min=1, metavar="N", help="Shards of a new collection on a cluster."),
    ] = None,
    replicas: Annotated[
        int | None, typer.Option("--replicas", min=1, metavar="N", help="Copies of each shard on a cluster.")
    ] = None,
    api_key: KeyOption = None,
    source_api_key: Annotated[
        str | None,
        typer.Option("--source-api-key", metavar="KEY", help="API key of the source's server, if another."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Copy a collection as it is: a folder to a server, back, or a folder to a folder.

    Interrupted, it goes on where it ended when it is run again. The source is only read.
    """
    from dataclasses import asdict

    from splade_retriever.cli.render import migration_view
    from splade_retriever.maintenance.migrate import migrate as copied

    with _bar("point") as tell:
        report = copied(
            source,
            target,
            collection=collection,
            target_collection=target_collection,
            source_api_key=source_api_key or api_key,
            api_key=api_key,
            shard_number=shards,
            replication_factor=replicas,
            dry_run=dry_run,
            on_progress=tell,
        )
    data = asdict(report) | {"seconds": round(report.seconds, 3)}
    _give(lambda: migration_view(report), data, as_json=as_json)


@app.command()
def reindex(
    *,
    index: IndexOption,
    collection: CollectionOption = "splade",
    model: ModelOption = None,
    into: Annotated[
        str | None, typer.Option("--into", metavar="NAME", help="Name of the new collection on a server.")
    ] = None,
    max_active_dims: Annotated[
        int | None,
        typer.Option("--max-active-dims", min=0, metavar="N", help="Heaviest weights kept; 0 for all."),
    ] = None,
    min_weight: Annotated[
        float | None, typer.Option("--min-weight", min=0.0, metavar="W", help="Leave out weights below this.")
    ] = None,
    windows: Annotated[
        Literal["truncate", "merge", "points"] | None,
        typer.Option("--windows", help="What happens to texts that are longer than the model reads."),
    ] = None,
    window_overlap: Annotated[
        int | None,
        typer.Option("--window-overlap", min=0, metavar="N", help="Tokens that neighbouring windows share."),
    ] = None,
    restart: Annotated[
        bool, typer.Option("--restart", help="Throw away what an interrupted run with other settings left.")
    ] = False,
    api_key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Encode a collection anew, with another model or other settings, and switch over when it is complete.

    Interrupted, it goes on where it ended when it is run again; until the switch the old vectors are in use.
    """
    from dataclasses import asdict

    from splade_retriever.cli.render import reindexing_view
    from splade_retriever.maintenance.reindex import reindex as reindexed

    with _bar("document") as tell:
        report = reindexed(
            index,
            model,
            collection=collection,
            into=into,
            max_active_dims=max_active_dims,
            min_weight=min_weight,
            windows=windows,
            window_overlap=window_overlap,
            restart=restart,
            api_key=api_key,
            on_progress=tell,
        )
    data = asdict(report) | {"seconds": round(report.seconds, 3)}
    _give(lambda: reindexing_view(report), data, as_json=as_json)


# -- what the commands share ---------------------------------------------------------------------------------


def _opened(
    place: str, collection: str, *, model: str | None, api_key: str | None, create: bool
) -> SpladeIndex:
    from splade_retriever import SpladeIndex

    if is_url(place):
        return SpladeIndex(place, collection=collection, model=model, api_key=api_key, create=create)
    return SpladeIndex(place, collection=collection, model=model, create=create)


def _model(name: str | None) -> SparseTextEmbedding:
    from splade_retriever import SparseTextEmbedding

    return SparseTextEmbedding(name)


def _tokenizer(index: SpladeIndex) -> Any:
    return getattr(index.model, "tokenizer")  # noqa: B009 - the command's models are SparseTextEmbedding


def _filter(given: str | None) -> dict[str, Any] | None:
    if given is None:
        return None
    try:
        found = json.loads(given)
    except ValueError as error:
        raise typer.BadParameter(
            f"not JSON: {error}. Write it like '{{\"year\": 2020}}'.", param_hint="--filter"
        ) from error
    if not isinstance(found, dict):
        raise typer.BadParameter(f"expected a JSON object, found {given}", param_hint="--filter")
    return found


@contextlib.contextmanager
def _bar(unit: str) -> Iterator[Callable[[int, int], None]]:
    """Draw a progress bar on a terminal; gives what is called with how many are done, and how many in all."""
    from tqdm import tqdm

    with tqdm(unit=unit, unit_scale=True, leave=False, disable=not sys.stderr.isatty()) as drawn:

        def tell(done: int, total: int) -> None:
            drawn.total = total
            drawn.update(done - drawn.n)

        yield tell


def _text_or_stdin(given: str) -> str:
    if given != "-":
        return given
    text = sys.stdin.buffer.read().decode("utf-8", errors="replace")
    return text.removesuffix("\n")


def _give(view: Any, data: Mapping[str, Any] | list[dict[str, Any]], *, as_json: bool) -> None:
    """Print a result: as JSON, or as a person reads it."""
    if as_json:
        sys.stdout.write(json.dumps(data, ensure_ascii=False, indent=2, allow_nan=False) + "\n")
        return
    drawn: RenderableType = view()
    _console(sys.stdout).print(drawn)


def _markdown(text: str) -> RenderableType:
    from rich.markdown import Markdown

    return Markdown(text)


def _console(file: Any) -> Console:
    from rich.console import Console

    return Console(file=file, highlight=False, emoji=False, soft_wrap=False)


def _stderr() -> Console:
    return _console(sys.stderr)


def _complain(message: str) -> None:
    from rich.text import Text

    console = _stderr()
    console.print(Text.assemble(("splade: ", "bold red"), message), soft_wrap=True)


def main() -> None:
    """Run the `splade` command."""
    for stream in (sys.stdout, sys.stderr):
        # A console of another encoding shows what it can, and never ends the command over a character.
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="replace")
    try:
        app(prog_name="splade")
    except Exception as error:
        if os.environ.get(_DEBUG):
            raise
        told = f"unexpected {type(error).__name__}: {error}"
        _complain(f"{told}\nThis is a fault of splade itself; {_DEBUG}=1 shows where it happened.")
        sys.exit(1)


if __name__ == "__main__":
    main()
