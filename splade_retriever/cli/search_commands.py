"""Commands that search and look into vectors: `splade search`, `explain`, `encode` and `models`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from splade_retriever.cli.options import (
    BaseOption,
    CollectionOption,
    FilterOption,
    IndexOption,
    JsonOption,
    KeyOption,
    ModelOption,
    ReadOnlyOption,
    SyntaxOption,
    TokensOption,
    load_model,
    open_to_read,
    parse_filter,
    read_text,
    with_server_options,
)
from splade_retriever.cli.output import print_message, print_result
from splade_retriever.errors import StorageError

if TYPE_CHECKING:
    from splade_retriever.explanation import Explanation
    from splade_retriever.index.documents import Hit
    from splade_retriever.index.options import ServerKeywords

__all__ = ["encode", "explain", "models", "search", "why_not"]


@with_server_options
def search(
    query: Annotated[str, typer.Argument(metavar="QUERY", help="What to look for.")],
    *,
    index: IndexOption,
    k: Annotated[int, typer.Option("-k", min=1, metavar="N", help="Maximum number of hits.")] = 5,
    filter: FilterOption = None,
    full: Annotated[
        bool, typer.Option("--full", help="Show all of each passage, not its best part.")
    ] = False,
    syntax: SyntaxOption = False,
    tokens: TokensOption = 8,
    collection: CollectionOption = "splade",
    model: ModelOption = None,
    api_key: KeyOption = None,
    server: ServerKeywords,
    read_only: ReadOnlyOption = False,
    as_json: JsonOption = False,
) -> None:
    """Search an index: ranked passages with matched words marked, and the tokens of each score."""
    from splade_retriever.cli.search_views import hits_view
    from splade_retriever.index.hit_explanations import explain_hits
    from splade_retriever.index.splade_query import SpladeQuery

    conditions = parse_filter(filter)
    query = SpladeQuery.parse(query) if syntax else query
    with open_to_read(
        index,
        collection,
        model=model,
        api_key=api_key,
        server=server,
        read_only=read_only,
    ) as opened:
        hits = opened.search(query, k, conditions, with_vectors=True)
        explained = list(zip(hits, explain_hits(opened, query, hits), strict=True))
        total = 0 if hits else opened.count()
        matching = None if hits or conditions is None else opened.count(conditions)
        unreadable = not hits and not any(map(len, opened.model.query_embed([query])))
    print_result(
        lambda: hits_view(
            query,
            explained,
            full=full,
            tokens=tokens,
            total=total,
            matching=matching,
            unreadable=unreadable,
        ),
        {
            "query": query,
            "index": index,
            "collection": collection,
            "unreadable": unreadable,
            "hits": [
                _hit_data(rank, hit, explanation)
                for rank, (hit, explanation) in enumerate(explained, start=1)
            ],
        },
        as_json=as_json,
    )


@with_server_options
def why_not(
    query: Annotated[str, typer.Argument(metavar="QUERY", help="The query.")],
    id: Annotated[str, typer.Argument(metavar="ID", help="The document that was not found.")],
    *,
    index: IndexOption,
    k: Annotated[int, typer.Option("-k", min=1, metavar="N", help="Hits of the search.")] = 5,
    filter: FilterOption = None,
    score_threshold: Annotated[
        float | None, typer.Option("--score-threshold", metavar="SCORE", help="Minimum score of a hit.")
    ] = None,
    syntax: SyntaxOption = False,
    tokens: TokensOption = 8,
    collection: CollectionOption = "splade",
    model: ModelOption = None,
    api_key: KeyOption = None,
    server: ServerKeywords,
    read_only: ReadOnlyOption = False,
    as_json: JsonOption = False,
) -> None:
    """Explain why a search does not return a document: its exact rank, and what it lacks."""
    from splade_retriever.explanation import why_not_view
    from splade_retriever.index.splade_query import SpladeQuery

    conditions = parse_filter(filter)
    query = SpladeQuery.parse(query) if syntax else query
    with open_to_read(
        index,
        collection,
        model=model,
        api_key=api_key,
        server=server,
        read_only=read_only,
    ) as opened:
        missing = opened.why_not(query, id, k, conditions, score_threshold=score_threshold)
    print_result(lambda: why_not_view(missing, tokens=tokens), missing.to_dict(), as_json=as_json)


def explain(
    query: Annotated[str, typer.Argument(metavar="QUERY", help="The query.")],
    text: Annotated[str, typer.Argument(metavar="TEXT", help="The text; - reads it from stdin.")],
    *,
    tokens: TokensOption = 20,
    origins: Annotated[
        bool, typer.Option("--origins", help="Show the word that each token of an expansion comes from.")
    ] = False,
    html: Annotated[
        Path | None,
        typer.Option("--html", metavar="FILE", help="Write the explanation to a page that needs no server."),
    ] = None,
    model: ModelOption = None,
    as_json: JsonOption = False,
) -> None:
    """Score a text against a query, and show the share of each token in the score."""
    from splade_retriever.explanation import ScoredQuery, ScoredText, explain_all, explanation_view
    from splade_retriever.index.origins import OriginFinder
    from splade_retriever.web.page import explanation_page

    text = read_text(text)
    encoder = load_model(model)
    (query_vector,), (text_vector,) = encoder.query_embed([query]), encoder.embed([text])
    finder = OriginFinder(encoder, query, query_vector) if origins or html is not None else None
    of_query = {} if finder is None else finder.of_query()
    of_text = {} if finder is None else finder.of_text(text, text_vector, None)
    scored = ScoredQuery(query, query_vector, encoder.tokenizer, origins=of_query)
    (explanation,) = explain_all(scored, [ScoredText(text, text_vector, origins=of_text)])
    if html is not None:
        _write_page(html, explanation_page(explanation, id="text", model=encoder.model_name))
    print_result(
        lambda: explanation_view(explanation, tokens=tokens),
        {"model": encoder.model_name, "text": text} | explanation.to_dict(),
        as_json=as_json,
    )


def encode(
    text: Annotated[
        str,
        typer.Argument(metavar="TEXT", help="The text; - reads it from stdin. With --out, a file or folder."),
    ],
    *,
    query: Annotated[bool, typer.Option("--query", help="Encode as a query, not as a document.")] = False,
    tokens: TokensOption = 30,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FILE", help="Encode files to this Parquet file."),
    ] = None,
    shard: Annotated[
        str, typer.Option("--shard", metavar="I/N", help="With --out: encode the i-th of n shares.")
    ] = "1/1",
    text_field: Annotated[
        str, typer.Option("--text-field", metavar="NAME", help="Field or column of a record with its text.")
    ] = "text",
    id_field: Annotated[
        str | None,
        typer.Option("--id-field", metavar="NAME", help="Field or column with its id; else `id` or `_id`."),
    ] = None,
    passage_tokens: Annotated[
        int, typer.Option("--passage-tokens", min=16, metavar="N", help="Maximum tokens of a passage.")
    ] = 256,
    base: BaseOption = None,
    model: ModelOption = None,
    as_json: JsonOption = False,
) -> None:
    """Encode a text, and show its tokens with their weights: those of the text and those of its expansion.

    With --out, encode the files at a path to a Parquet file, which `splade index --vectors` reads. A run that
    was stopped continues. Needs the extra `bulk`.
    """
    from splade_retriever.cli.model_views import weights_view

    if out is not None:
        from splade_retriever.cli.bulk_views import encode_to_file
        from splade_retriever.files.passages import ReadOptions

        options = ReadOptions(text_field=text_field, id_field=id_field, base=base)
        encode_to_file(
            Path(text),
            out,
            model=load_model(model),
            options=options,
            shard=shard,
            passage_tokens=passage_tokens,
            as_json=as_json,
        )
        return
    text = read_text(text)
    encoder = load_model(model)
    (vector,) = encoder.query_embed([text]) if query else encoder.embed([text])
    (encoding,) = encoder.tokenizer.encode_batch([text])
    ids = {id for id, (start, end) in zip(encoding.ids, encoding.offsets, strict=True) if end > start}
    weights = encoder.tokens_and_weights(vector)
    literal = {token for token in encoder.tokenizer.tokens(sorted(ids)) if token in weights}
    print_result(
        lambda: weights_view(weights, literal, max_tokens=tokens, truncated=encoding.truncated),
        {
            "model": encoder.model_name,
            "text": text,
            "tokens": [
                {"token": token, "weight": weight, "in_text": token in literal}
                for token, weight in weights.items()
            ],
            "indices": vector.indices.tolist(),
            "values": vector.values.tolist(),
            "truncated_tokens": encoding.truncated,
        },
        as_json=as_json,
    )


def models(*, as_json: JsonOption = False) -> None:
    """List the models with a name. A model folder can be passed instead of a name."""
    from splade_retriever.cli.model_views import models_view
    from splade_retriever.encoding.text_embedding import SparseTextEmbedding

    cards = SparseTextEmbedding.list_supported_models()
    print_result(lambda: models_view(cards), cards, as_json=as_json)


def _write_page(file: Path, page: str) -> None:
    try:
        file.write_text(page, encoding="utf-8")
    except OSError as error:
        raise StorageError(
            f"The page {str(file)!r} cannot be written ({error.strerror}). Check the path."
        ) from error
    print_message(f"Wrote {file}")


def _hit_data(rank: int, hit: Hit, explanation: Explanation) -> dict[str, Any]:
    shares = explanation.to_dict()
    return {
        "rank": rank,
        "id": hit.id,
        "score": hit.score,
        "source": hit.metadata.get("source"),
        "text": hit.text,
        "metadata": hit.metadata,
        "contributions": shares["contributions"],
        "spans": shares["spans"],
        **({"second": shares["second"]} if "second" in shares else {}),
        **({"branches": {name: asdict(b) for name, b in hit.branches.items()}} if hit.branches else {}),
    }
