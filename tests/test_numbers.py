"""Every public argument that is an int or a float takes numpy's numbers, and no bool."""

import asyncio
import importlib
import inspect
import json
import os
import pickle
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
from langchain_core.documents import Document as LangChainDocument
from langchain_core.load import dumps
from llama_index.core.schema import NodeWithScore, TextNode
from qdrant_client import models

pytest.importorskip("haystack", reason="needs the extra `haystack`")
pytest.importorskip("pyarrow", reason="needs the extra `bulk`")
os.environ["HAYSTACK_TELEMETRY_ENABLED"] = "False"

import splade_retriever as top
from splade_retriever import distributed, haystack, langchain, llama_index
from splade_retriever.encoding.model_cards import Catalogue, published
from splade_retriever.errors import SpladeError
from splade_retriever.index.options import IndexKeywords, SearchKeywords, ServerKeywords
from splade_retriever.index.writer import AddKeywords
from tests.langchain.parts import LetterEmbeddings
from tests.tiny import write_tiny_model
from tests.words import WordEncoder

PUBLIC: Final = ("langchain", "llama_index", "haystack", "config", "bulk", "distributed")
KEYWORDS: Final = {
    "IndexKeywords": (top.SpladeIndex, IndexKeywords),
    "SearchKeywords": (top.SpladeIndex.search, SearchKeywords),
    "AddKeywords": (top.SpladeIndex.add, AddKeywords),
    "ServerKeywords": (top.migrate, ServerKeywords),
}
RESULTS: Final = ("Explanation", "Hit", "EncodeReport")
"""Classes that this package makes and users read."""
IGNORED: Final = {
    "EdgeClient": "timeout batch_size parallel max_retries grpc_grace holder write_consistency_factor "
    "shard_number replication_factor shards_number shard_id shard_key shard_key_selector peer_id placement "
    "details_level completed_limit consistency sample search_matrix_pairs search_matrix_offsets",
    "EdgeProcess": "*",
    "SparseOnly": "*",
}
"""Arguments that change nothing on one machine; EdgeProcess passes all to an EdgeClient, SparseOnly has the
fields of LlamaIndex's base class."""
_NUMBER: Final = re.compile(r"(?<![\w.\[])(?:Optional\[)?(int|float)\b(?!,)|Annotated\[(int|float)")
VALUES: Final[Mapping[str, Any]] = {
    "min_weight": 0.5,
    "score_threshold": 0.5,
    "lambda_mult": 0.5,
    "alpha": 0.5,
    "b": 0.5,
    "weights": 0.5,
    "boost": 0.5,
    "avg_len": 64.0,
    "size_in_gb": 0.5,
    "retry_for": 0.5,
    "Bm25Embedding.k": 1.5,
    "max_length": 16,
    "grpc_port": 6334,
    "shard_number": 1,
    "replication_factor": 1,
    "max_active_dims": 3,
    "timeout": 5,
    "offset": 1,
}


def kind_of(annotation: object) -> str:
    text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    found = _NUMBER.search(
        re.sub(
            r"Callable\[\[.*?\]|Literal\[.*?\]|(Mapping|dict)\[(int, float|str, str \| int \| None)\]",
            "",
            text,
        )
    )
    return "" if found is None else next(filter(None, found.groups()))


def parameters(name: str, call: object) -> Iterator[tuple[str, str]]:
    for parameter in inspect.signature(call).parameters.values():  # type: ignore[arg-type]
        if kind_of(parameter.annotation) and parameter.annotation is not inspect.Parameter.empty:
            yield name, parameter.name


@cache
def public_numbers() -> list[tuple[str, str]]:
    """Return all public calls with an argument that is a number, and the argument."""
    found: dict[tuple[str, str], None] = {}
    for module_name in ["splade_retriever", *(f"splade_retriever.{name}" for name in PUBLIC)]:
        module = importlib.import_module(module_name)
        prefix = "" if module is top else f"{module_name.removeprefix('splade_retriever.')}."
        for name in module.__all__:
            value = getattr(module, name)
            if name in RESULTS or not callable(value) or value is top.SpladeError:
                continue
            named = f"{prefix}{name}" if getattr(top, name, None) is not value else name
            calls = {named: value}
            if inspect.isclass(value):
                for method, function in vars(value).items():
                    bound = getattr(value, method) if isinstance(function, classmethod) else function
                    if not method.startswith("_") and callable(bound):
                        calls[f"{named}.{method}"] = bound
            for call, target in calls.items():
                ignored = IGNORED.get(name, "").split()
                for pair in parameters(call, target):
                    if "*" not in ignored and not {pair[1], call.rpartition(".")[2]} & set(ignored):
                        found[pair] = None
    for name, (_, keywords) in KEYWORDS.items():
        for keyword, annotation in keywords.__annotations__.items():
            if kind_of(getattr(annotation, "__forward_arg__", annotation)):
                found[name, keyword] = None
    return list(found)


# -- a call for each -----------------------------------------------------------------------------------------

TEXTS: Final = ["the moon rover", "the moon", "water ice near the pole", "a rocket in orbit"]


class Parts:
    """What the calls use, opened once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.model_folder = write_tiny_model(folder / "model")
        self.model = top.SparseTextEmbedding(self.model_folder)
        self.index = top.SpladeIndex(model=self.model)
        self.index.add(TEXTS, ids=list("abcd"))
        self.hybrid = top.SpladeIndex(model=self.model, dense=LetterEmbeddings())
        self.hybrid.add(TEXTS, ids=list("abcd"))
        self.location = folder / "index"
        with top.SpladeIndex(self.location, model=self.model) as index:
            index.add(TEXTS, ids=list("abcd"))
        self.langchain = langchain.SpladeVectorStore(index=self.index)
        self.nodes = [TextNode(text=text) for text in TEXTS]
        self.vector = next(self.model.query_embed("moon"))
        (folder / "texts.jsonl").write_text('{"text": "moon"}\n{"text": "rover"}\n', encoding="utf-8")
        self.number = 0

    def new(self, name: str) -> Path:
        self.number += 1
        return self.folder / f"{self.number}-{name}"


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Parts]:
    made = Parts(tmp_path_factory.mktemp("numbers"))
    yield made
    made.index.close()
    made.hybrid.close()


def vectors(embeddings: Any) -> list[Any]:
    return [embedding.as_dict() for embedding in embeddings]


def opened(parts: Parts, arguments: dict[str, Any]) -> Any:
    """Open a new index, and return what it stores and what a pickle holds, as JSON."""
    with top.SpladeIndex(parts.new("new"), model=parts.model, **arguments) as index:
        assert index._collection.settings is not None
        stored = index._collection.settings.to_metadata()
        options = index.open_arguments or {}
        return json.dumps([stored, {name: options.get(name) for name in arguments}])


def registered(parts: Parts, arguments: dict[str, Any]) -> Any:
    class Fresh(top.SparseTextEmbedding):
        _catalogue = Catalogue(published())

    Fresh.add_custom_model("mine/model", sources={"hf": "mine/model"}, **arguments)
    return json.dumps(Fresh.list_supported_models())


def reranked(parts: Parts, arguments: dict[str, Any]) -> Any:
    documents = [LangChainDocument(page_content=text) for text in TEXTS]
    reranker = langchain.SpladeReranker(model=parts.model, **arguments)
    return [type(reranker.top_n), *reranker.compress_documents(documents, "moon")]


def haystack_retriever(parts: Parts, call: dict[str, Any], **init: Any) -> Any:
    store = haystack.SpladeDocumentStore(str(parts.location), model=str(parts.model_folder))
    try:
        retriever = haystack.SpladeRetriever(store, **init)
        json.dumps(retriever.to_dict()["init_parameters"]["top_k"])
        return len(retriever.run("moon", **call)["documents"])
    finally:
        store.close()


def llama_retriever(parts: Parts, arguments: dict[str, Any], how: str = "") -> Any:
    mode: dict[str, Any] = {"mode": "hybrid"} if "alpha" in arguments else {}
    if not how:
        store = llama_index.SpladeVectorStore(index=parts.hybrid if mode else parts.index)
        retriever = llama_index.SpladeRetriever(store, **mode, **arguments)
    else:
        dense = {"dense": LetterEmbeddings()} if mode else {}
        make: Any = getattr(llama_index.SpladeRetriever, how)
        made = make([], model=parts.model, **mode, **dense, **arguments)
        retriever = run(made) if inspect.isawaitable(made) else made
    top_k = retriever.similarity_top_k
    found = [scored.node.get_content() for scored in retriever.retrieve("moon")]
    retriever.close()
    return json.dumps([top_k, found])


def encoded_files(parts: Parts, arguments: dict[str, Any]) -> Any:
    from splade_retriever.bulk import encode_files
    from splade_retriever.files.discovery import find_files
    from splade_retriever.files.passages import ReadOptions
    from splade_retriever.files.splitter import Splitter

    read = ReadOptions(base=parts.folder)
    files = list(find_files([parts.folder / "texts.jsonl"], read))
    splitter = Splitter(parts.model.tokenizer, max_tokens=30)
    out = parts.new("vectors.parquet")
    return encode_files(
        files, out, encoder=parts.model, splitter=splitter, options=read, **arguments
    ).passages


def evaluated(parts: Parts, arguments: dict[str, Any]) -> Any:
    folder = parts.new("beir")
    (folder / "qrels").mkdir(parents=True)
    documents = [{"_id": f"d{n}", "title": "", "text": text} for n, text in enumerate(TEXTS)]
    (folder / "corpus.jsonl").write_text("\n".join(map(json.dumps, documents)), encoding="utf-8")
    queries = [{"_id": "q", "text": "moon"}, {"_id": "r", "text": "rocket"}]
    (folder / "queries.jsonl").write_text("\n".join(map(json.dumps, queries)), encoding="utf-8")
    (folder / "qrels" / "test.tsv").write_text("q\td0\t1\nr\td3\t1\n", encoding="utf-8")
    report = top.evaluate(folder, parts.model, bm25=False, **arguments)
    return json.dumps([report.queries, report.splade.ndcg_at_10, report.cost.document_dims])


def reindexed(parts: Parts, arguments: dict[str, Any]) -> Any:
    folder = parts.new("old")
    with top.SpladeIndex(folder, model=parts.model) as index:
        index.add(TEXTS, ids=list("abcd"))
    top.reindex(folder, WordEncoder(), **arguments)
    with top.SpladeIndex(folder, model=WordEncoder()) as index:
        assert index._collection.settings is not None
        return json.dumps(index._collection.settings.to_metadata())


def edge(parts: Parts, method: str, arguments: dict[str, Any]) -> Any:
    client: Any = parts.index.client
    required: dict[str, Any] = {
        "scroll": {},
        "query_points": {},
        "facet": {"key": "page_content"},
        "query_points_groups": {"group_by": "page_content"},
    }[method]
    if "score_threshold" in arguments:
        required |= {"query": models.SparseVector(indices=[6], values=[1.0]), "using": "splade"}
    if method == "facet":
        client.create_payload_index("splade", "page_content", "keyword")
    return str(getattr(client, method)("splade", **required, **arguments))[:200]


def migrated(parts: Parts, arguments: dict[str, Any]) -> Any:
    return top.migrate(parts.location, parts.new("target"), **arguments).copied


def searched(parts: Parts, arguments: dict[str, Any]) -> Any:
    return [hit.id for hit in parts.index.search("the moon", **arguments)]


def fused(parts: Parts, arguments: dict[str, Any]) -> Any:
    if "weights" in arguments:
        arguments = {"weights": (arguments["weights"],) * 2}
    return json.dumps(asdict(top.Fusion(**arguments)))


def existing(parts: Parts, arguments: dict[str, Any]) -> Any:
    with langchain.SpladeVectorStore.from_existing_collection(
        "splade", path=str(parts.location), model=parts.model, sparse_vector_name="splade", **arguments
    ) as store:
        return store.similarity_search("moon")


def plotted(parts: Parts, arguments: dict[str, Any]) -> Any:
    pytest.importorskip("matplotlib", reason="needs the extra `plot`")
    return type(parts.vector.plot(**arguments))


def write_step(parts: Parts, arguments: dict[str, Any]) -> Any:
    """Return what a step says of an index that is in memory, which it checks after its numbers."""
    with pytest.raises(SpladeError) as caught:
        distributed.WriteStep(parts.index, **arguments)
    if "threads" in str(caught.value):
        raise caught.value
    return str(caught.value)


def run(call: Any) -> Any:
    return asyncio.run(call)


CALLS: Final[dict[str, Callable[[Parts, dict[str, Any]], Any]]] = {
    "Fusion": fused,
    "Fusion.best_score": lambda parts, a: top.Fusion().best_score(**a),
    "QueryControls": lambda parts, a: json.dumps(top.QueryControls(boost={"moon": a["boost"]}).to_dict()),
    "RetrieverConfig": lambda parts, a: json.dumps(top.RetrieverConfig(location="x", **a).to_dict()),
    "SparseEmbedding.power": lambda parts, a: parts.vector.power(**a).as_dict(),
    "SparseEmbedding.top": lambda parts, a: parts.vector.top(**a).as_dict(),
    "Bm25Embedding": lambda parts, a: (
        str(top.Bm25Embedding(**a).fingerprint)
        + str(vectors(pickle.loads(pickle.dumps(top.Bm25Embedding(**a))).embed("the moon")))
    ),
    "Bm25Embedding.embed": lambda parts, a: vectors(top.Bm25Embedding().embed("moon", **a)),
    "Bm25Embedding.passage_embed": lambda parts, a: vectors(top.Bm25Embedding().passage_embed("moon", **a)),
    "SparseTextEmbedding": lambda parts, a: json.dumps(
        [
            pickle.loads(pickle.dumps(top.SparseTextEmbedding(parts.model_folder, **a))).fingerprint,
            top.SparseTextEmbedding(parts.model_folder, **a)._arguments[next(iter(a))],
        ]
    ),
    "SparseTextEmbedding.add_custom_model": registered,
    "SparseTextEmbedding.with_threads": lambda parts, a: parts.model.with_threads(**a)._arguments["threads"],
    "SparseEmbedding.plot": plotted,
    "distributed.EncodeStep": lambda parts, a: json.dumps(distributed.EncodeStep(**a).threads),
    "distributed.WriteStep": write_step,
    "SparseTextEmbedding.embed": lambda parts, a: vectors(parts.model.embed(TEXTS, **a)),
    "SparseTextEmbedding.passage_embed": lambda parts, a: vectors(parts.model.passage_embed(TEXTS, **a)),
    "SparseTextEmbedding.query_embed": lambda parts, a: vectors(parts.model.query_embed(TEXTS, **a)),
    "SparseTextEmbedding.token_count": lambda parts, a: parts.model.token_count(TEXTS, **a),
    "SpladeIndex.search": searched,
    "SpladeIndex.search_batch": lambda parts, a: [
        [hit.id for hit in hits] for hits in parts.index.search_batch(["moon"], **a)
    ],
    "SpladeIndex.asearch": lambda parts, a: [hit.id for hit in run(parts.index.asearch("moon", **a))],
    "SpladeIndex.why_not": lambda parts, a: parts.index.why_not("moon", "c", **a),
    "SpladeIndex.awhy_not": lambda parts, a: run(parts.index.awhy_not("moon", "c", **a)),
    "SpladeIndex.scroll": lambda parts, a: [hit.id for hit in parts.index.scroll(**a)],
    "evaluate": evaluated,
    "migrate": migrated,
    "reindex": reindexed,
    "langchain.SpladeReranker": reranked,
    "langchain.SpladeVectorStore.from_existing_collection": existing,
    "langchain.SpladeRetriever": lambda parts, a: dumps(
        langchain.SpladeRetriever(location=parts.location, **a)
    ),
    "llama_index.SpladeRerank": lambda parts, a: json.dumps(
        [
            len(
                llama_index.SpladeRerank(model=parts.model, **a).postprocess_nodes(
                    [NodeWithScore(node=node) for node in parts.nodes], query_str="moon"
                )
            ),
            llama_index.SpladeRerank(model=parts.model, **a).top_n,
        ]
    ),
    "llama_index.SpladeRetriever": llama_retriever,
    "llama_index.SpladeRetriever.from_nodes": lambda parts, a: llama_retriever(parts, a, "from_nodes"),
    "llama_index.SpladeRetriever.afrom_nodes": lambda parts, a: llama_retriever(parts, a, "afrom_nodes"),
    "llama_index.SpladeRetriever.from_documents": lambda parts, a: llama_retriever(
        parts, a, "from_documents"
    ),
    "llama_index.SpladeRetriever.afrom_documents": lambda parts, a: llama_retriever(
        parts, a, "afrom_documents"
    ),
    "llama_index.SpladeSparseEmbedding": lambda parts, a: json.dumps(
        llama_index.SpladeSparseEmbedding(model=parts.model, **a).to_dict()
    ),
    "llama_index.SpladeVectorStore.add": lambda parts, a: len(
        llama_index.SpladeVectorStore(index=parts.index).add(parts.nodes[:2], **a)
    ),
    "llama_index.SpladeVectorStore.async_add": lambda parts, a: len(
        run(llama_index.SpladeVectorStore(index=parts.index).async_add(parts.nodes[:2], **a))
    ),
    "haystack.SpladeRetriever": lambda parts, a: haystack_retriever(parts, {}, **a),
    "haystack.SpladeRetriever.run": haystack_retriever,
    "haystack.SpladeRetriever.run_async": haystack_retriever,
    "bulk.Shard": lambda parts, a: json.dumps(
        asdict(importlib.import_module("splade_retriever.bulk").Shard(**{"count": 2, **a}))
    ),
    "bulk.encode_files": encoded_files,
    "IndexKeywords": opened,
    "SearchKeywords": searched,
    "AddKeywords": lambda parts, a: parts.index.add(["moon"], ids=["a"], **a),
    "ServerKeywords": migrated,
}
for _method in ("similarity_search", "similarity_search_with_score", "max_marginal_relevance_search"):
    for _by_vector in ("", "_by_vector"):
        for _prefix in ("", "a"):

            def _call(parts: Parts, a: dict[str, Any], name: str = f"{_prefix}{_method}{_by_vector}") -> Any:
                query: Any = parts.vector if name.endswith("_by_vector") else "the moon"
                found = getattr(parts.langchain, name)(query, **a)
                return run(found) if inspect.isawaitable(found) else found

            CALLS[f"langchain.SpladeVectorStore.{_prefix}{_method}{_by_vector}"] = _call
for _method in ("scroll", "query_points", "facet", "query_points_groups"):
    CALLS[f"EdgeClient.{_method}"] = lambda parts, a, method=_method: edge(parts, method, a)  # type: ignore[misc]


def value_of(call: str, name: str) -> Any:
    return VALUES.get(f"{call}.{name}", VALUES.get(name, 2))


def test_the_walk_finds_the_numbers_of_every_public_module() -> None:
    found = {f"{call}.{name}" for call, name in public_numbers()}

    assert {"SpladeIndex.search.k", "IndexKeywords.timeout", "Fusion.rrf_k", "SearchKeywords.offset"} <= found
    assert {"langchain.SpladeRetriever.k", "llama_index.SpladeRerank.top_n", "RetrieverConfig.k"} <= found
    assert len(found) > 80


@pytest.mark.parametrize(("call", "name"), public_numbers())
def test_numbers_of_numpy_are_numbers_and_a_bool_is_none(parts: Parts, call: str, name: str) -> None:
    assert call in CALLS, f"{call}(..., {name}=) is public and takes a number: add a call of it to CALLS"
    value = value_of(call, name)
    kinds: list[Any] = [np.int64, np.int32] if isinstance(value, int) else [np.float64, np.float32]

    expected = CALLS[call](parts, {name: value})
    for kind in kinds:
        assert CALLS[call](parts, {name: kind(value)}) == expected
    if not call.startswith("EdgeClient"):  # qdrant-client takes a bool for 1
        for wrong in (True, np.bool_(True)):
            with pytest.raises((ValueError, TypeError)):
                CALLS[call](parts, {name: wrong})
