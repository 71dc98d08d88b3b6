"""What is read in each case: `CASES[kind](draw, folder)` reads one hostile input, or raises a known error."""

import contextlib
import csv
import io
import json
import random
import shutil
import tarfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, Final

import yaml

from splade_retriever import RetrieverConfig, SparseTextEmbedding, SpladeIndex
from splade_retriever.errors import SpladeError
from splade_retriever.files.loaders import read_file
from splade_retriever.files.passages import ReadOptions
from splade_retriever.files.splitter import Splitter
from tests.hostile.mutations import damaged, damaged_json, hostile_text
from tests.tiny import write_tiny_model
from tests.words import WordEncoder, WordTokenizer

__all__ = ["CASES"]

TEXTS: Final = ["the moon rover", "the moon \u200b", "water ice near the pole", "a rocket in orbit"]


def opened(folder: Path) -> None:
    """Open a model and encode with it."""
    with contextlib.suppress(SpladeError):
        model = SparseTextEmbedding(folder)
        vectors = list(model.embed([*TEXTS, "x" * 40 + "y", ""]))
        assert len(vectors) == len(TEXTS) + 2
        list(model.query_embed("the moon"))
        model.tokens_and_weights(vectors[0])


@cache
def _model(folder: Path) -> Path:
    return write_tiny_model(folder / "tiny")


@contextlib.contextmanager
def replaced(path: Path, content: bytes) -> Any:
    before = path.read_bytes() if path.is_file() else None
    path.write_bytes(content)
    try:
        yield
    finally:
        path.unlink() if before is None else path.write_bytes(before)


def as_json(value: Any) -> bytes:
    return json.dumps(value).encode("utf-8", "surrogatepass")


# -- models --------------------------------------------------------------------------------------------------


def tokenizer(draw: random.Random, folder: Path) -> None:
    model = _model(folder)
    path = model / "tokenizer.json"
    content = json.loads(path.read_bytes())
    changed = (
        as_json(damaged_json(content, draw)) if draw.random() < 0.8 else damaged(path.read_bytes(), draw)
    )
    with replaced(path, changed):
        opened(model)


def onnx_file(draw: random.Random, folder: Path) -> None:
    model = _model(folder)
    path = model / "model.onnx"
    with replaced(
        path, damaged(path.read_bytes(), draw) if draw.random() < 0.5 else _hostile_graph(path, draw)
    ):
        opened(model)


def _hostile_graph(path: Path, draw: random.Random) -> bytes:
    """Change a graph so that it still is one: dims, names, cycles, external data, attributes, opsets."""
    import onnx

    model = onnx.load(str(path))
    graph = model.graph
    tensor = draw.choice(graph.initializer)
    node = draw.choice(graph.node)
    how = draw.randrange(9)
    if how == 0:
        tensor.dims[draw.randrange(len(tensor.dims)) if tensor.dims else 0 :] = [
            draw.choice([0, -1, 2**40, 2**62])
        ]
    elif how == 1:
        node.input[draw.randrange(len(node.input)) if node.input else 0 :] = [node.output[0]]  # a cycle
    elif how == 2:
        outside = draw.choice(
            ["/etc/passwd", "../victim", "../../../../etc/hostname", "model.onnx", "", "missing"]
        )
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", outside), ("offset", "0"), ("length", str(draw.choice([8, 2**40])))):
            entry = tensor.external_data.add()
            entry.key, entry.value = key, value
    elif how == 3:
        node.op_type = draw.choice(
            ["Loop", "If", "Nope", "ConstantOfShape", "Tile", "Expand", "Pad", "Identity"]
        )
    elif how == 4:
        tensor.data_type = draw.choice([0, 2, 7, 8, 9, 16, 99])
    elif how == 5:
        model.opset_import[0].version = draw.choice([-1, 0, 3, 99, 2**62])
    elif how == 6:
        graph.node.extend([node] * draw.choice([1, 500]))
    elif how == 7:
        del graph.output[:]
    else:
        for attribute in node.attribute:
            attribute.i, attribute.f = draw.choice([-1, 2**62]), float("nan")
            attribute.ints[:] = [draw.choice([-1, 2**62])] * 3
    return bytes(model.SerializeToString())


def model_json(draw: random.Random, folder: Path) -> None:
    model = _model(folder)
    seeds: dict[str, Any] = {
        "card.json": {
            "model": "m",
            "license": "mit",
            "max_length": 16,
            "activation": "log1p",
            "query_side": "idf",
        },
        "config.json": json.loads((model / "config.json").read_bytes()),
        "idf.json": {"moon": 1.5, "the": 0.1, "rover": 2},
        "tokenizer_config.json": {"model_max_length": 16},
        "modules.json": [
            {"idx": 0, "path": "", "type": "sentence_transformers.sparse_encoder.models.MLMTransformer"}
        ],
        "router_config.json": {"types": {"a": "SparseStaticEmbedding"}, "structure": {"query": ["a"]}},
    }
    name = draw.choice(list(seeds))
    content = as_json(damaged_json(seeds[name], draw))
    with replaced(model / name, damaged(content, draw) if draw.random() < 0.3 else content):
        opened(model)


def archive(draw: random.Random, folder: Path) -> None:
    model = _model(folder)
    whole = folder / "whole.tar"
    if not whole.is_file():
        SparseTextEmbedding(model).save_archive(whole)
    path = folder / "hostile.tar"
    if draw.random() < 0.4:
        path.write_bytes(damaged(whole.read_bytes(), draw))
    else:
        _hostile_archive(whole, path, draw)
    with contextlib.suppress(SpladeError):
        list(SparseTextEmbedding(path).embed("moon"))


def _hostile_archive(whole: Path, path: Path, draw: random.Random) -> None:
    """Write an archive with links, devices, absolute names, sparse or huge members, or another manifest."""
    with tarfile.open(whole) as source, tarfile.open(path, "w", format=draw.choice([0, 1, 2])) as target:
        for number, member in enumerate(source):
            file: Any = source.extractfile(member)
            content = file.read()
            if number == 0 and draw.random() < 0.5:
                content = as_json(damaged_json(json.loads(content), draw))
                member.size = len(content)
            elif draw.random() < 0.3:
                member.name = draw.choice(
                    ["/tmp/splade-victim", "../victim", "a/../../victim", "model.onnx", "x" * 300]
                )
            elif draw.random() < 0.3:
                member.type = draw.choice(
                    [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.GNUTYPE_SPARSE]
                )
                member.linkname, member.size, content = "/etc/passwd", 0, b""
            with contextlib.suppress(ValueError):  # the format has no such member
                target.addfile(member, io.BytesIO(content))


# -- files of texts ------------------------------------------------------------------------------------------


def text_file(draw: random.Random, folder: Path) -> None:
    rows = [{"id": str(n), "text": text, "year": n, "tags": ["a"]} for n, text in enumerate(TEXTS)]
    kind = draw.choice(["jsonl", "json", "csv", "tsv", "md", "txt", "ipynb", "py", "html"])
    if kind == "jsonl":
        content = b"\n".join(as_json(damaged_json(row, draw)) for row in rows)
    elif kind == "json":
        content = as_json(damaged_json(rows, draw))
    elif kind == "ipynb":
        content = as_json(
            damaged_json({"cells": [{"cell_type": "markdown", "source": TEXTS}], "nbformat": 4}, draw)
        )
    elif kind in ("csv", "tsv"):
        output = io.StringIO()
        writer = csv.writer(output, delimiter="," if kind == "csv" else "\t")
        writer.writerows([["id", "text", "year"], *([str(n), hostile_text(draw), n] for n in range(3))])
        content = output.getvalue().encode("utf-8", "surrogatepass")
    else:
        content = "\n\n".join(f"{'#' * draw.randint(0, 9)} {hostile_text(draw)}" for _ in range(5)).encode(
            "utf-8", "surrogatepass"
        )
    path = folder / f"texts.{kind}"
    path.write_bytes(damaged(content, draw) if draw.random() < 0.5 else content)
    read = list(read_file(path, ReadOptions(base=folder), Splitter(WordTokenizer(512), 64)))
    for item in read:
        str(item).encode("utf-8", "backslashreplace")


def parquet(draw: random.Random, folder: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from splade_retriever.bulk import load_vectors
    from splade_retriever.bulk.parquet_records import parquet_records
    from splade_retriever.bulk.vectors_file import Row, write_part
    from splade_retriever.files.passages import Passage

    encoder, path = WordEncoder(), folder / "vectors.parquet"
    vectors = encoder.passage_embed(TEXTS)
    rows = [
        Row(Passage(str(n), t, {"year": n}, ""), "f", v)
        for n, (t, v) in enumerate(zip(TEXTS, vectors, strict=True))
    ]
    write_part(path, rows, fingerprint=encoder.fingerprint, note="")
    if draw.random() < 0.5:
        path.write_bytes(damaged(path.read_bytes(), draw))
    else:  # a complete file whose rows are damaged
        table = pq.read_table(path)
        name = draw.choice(table.column_names)
        values: list[Any] = table.column(name).to_pylist()
        row = draw.randrange(len(values))
        values[row] = draw.choice(
            [None, *(["x", "[1]", "{", "\0"] if isinstance(values[row], str) else [[], [-1], [7, 7]])]
        )
        kind = table.schema.field(name).type
        column = pa.array(values, type=kind)
        table = table.set_column(table.column_names.index(name), name, column).replace_schema_metadata(
            table.schema.metadata
        )
        pq.write_table(table.drop([name]) if draw.random() < 0.2 else table, path)
    list(parquet_records(path))
    with SpladeIndex(model=encoder) as index, contextlib.suppress(SpladeError):
        load_vectors(index, path)


def config(draw: random.Random, folder: Path) -> None:
    values = {
        "defaults": {"k": 3, "collection": "c"},
        "retrievers": {
            "one": {
                "location": "./x",
                "index": {"timeout": 3},
                "filter": {"year": {"$gte": 3}},
                "mode": "sparse",
            },
            "two": {"location": "http://localhost:1", "dense": {"class": "a.B"}, "fusion": {"method": "rrf"}},
        },
    }
    kind = draw.choice(["yaml", "json", "toml"])
    if kind == "toml":
        content = b'location = "x"\nk = 3\n[filter]\nyear = 3\n[index]\ntimeout = 5\n'
    elif kind == "json":
        content = as_json(damaged_json(values, draw))
    else:
        content = yaml.safe_dump(damaged_json(values, draw)).encode("utf-8", "surrogatepass")
    path = folder / f"config.{kind}"
    path.write_bytes(damaged(content, draw) if draw.random() < 0.5 else content)
    with contextlib.suppress(SpladeError):
        for read in RetrieverConfig.read_all(path).values():
            assert RetrieverConfig.from_dict(read.to_dict()) == read


# -- indexes -------------------------------------------------------------------------------------------------


def edge_folder(draw: random.Random, folder: Path) -> None:
    whole, copy = folder / "whole", folder / "index"
    if not whole.is_dir():
        with SpladeIndex(whole, model=WordEncoder(), indexed_fields={"year": "integer"}) as index:
            index.add(TEXTS * 5, [{"year": n} for n in range(20)], [str(n) for n in range(20)])
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(whole, copy)
    victim = folder / "victim"
    victim.write_bytes(b"untouched")
    files = sorted(path for path in copy.rglob("*") if path.is_file())
    for path in draw.sample(files, draw.choice([1, 1, 3])):
        _change_file(path, victim, files, draw)
    with contextlib.suppress(SpladeError), SpladeIndex(copy, read_only=draw.random() < 0.3) as index:
        index.count()
        list(index.scroll({"year": {"$gte": 3}}))
        index.search("moon")
        if draw.random() < 0.5:
            index.add(["the moon"], ids=["new"])
    assert victim.read_bytes() == b"untouched"


def _change_file(path: Path, victim: Path, files: list[Path], draw: random.Random) -> None:
    how, content = draw.randrange(9), path.read_bytes() if path.is_file() and not path.is_symlink() else b""
    path.unlink(missing_ok=True)
    if how == 0:
        return
    if how == 1:
        path.symlink_to(victim)
    elif how == 2:
        path.mkdir(parents=True, exist_ok=True)
    elif how == 3:
        with path.open("wb") as file:
            file.truncate(1 << 36)  # a sparse file of 64 GiB
    elif how == 4:
        other = draw.choice(files)
        path.write_bytes(other.read_bytes() if other.is_file() else b"")
    elif how == 5 and content[:1] in (b"{", b"["):
        with contextlib.suppress(ValueError):
            content = as_json(damaged_json(json.loads(content), draw))
        path.write_bytes(content)
    elif how == 6:
        path.symlink_to("/dev/zero")
    else:
        path.write_bytes(damaged(content, draw))


# -- texts and requests --------------------------------------------------------------------------------------


@cache
def _bundled() -> SparseTextEmbedding:
    return SparseTextEmbedding()


def text(draw: random.Random, folder: Path) -> None:
    written = hostile_text(draw)
    if draw.random() < 0.05:
        written = draw.choice(["a", "é", "##", "\0", "\u0300", "中", "."]) * 1_000_000
    model = _bundled()
    with contextlib.suppress(SpladeError):
        (vector,) = model.embed([written])
        (query,) = model.query_embed(written[:10_000])
        model.token_count(written)
        assert vector.dot(query) >= 0.0
    with contextlib.suppress(SpladeError), SpladeIndex(model=WordEncoder()) as index:
        index.add([written], [{hostile_text(draw): hostile_text(draw)}], [hostile_text(draw)])
        hits = index.search(written[:1000], filter={hostile_text(draw): hostile_text(draw)})
        if hits:
            index.explain(written[:1000], hits[0])


REQUESTS: Final[dict[str, dict[str, Any]]] = {
    "/api/search": {
        "query": "moon",
        "k": 3,
        "filter": {"year": {"$gt": 1}},
        "syntax": True,
        "weights": [[5, 1.0]],
    },
    "/api/explain": {"query": "moon", "id": "0"},
    "/api/why-not": {"query": "moon", "id": "1", "k": 2, "filter": {"year": 1}},
}


@cache
def _client() -> Any:
    from starlette.testclient import TestClient

    from splade_retriever.web.server import create_app

    index = SpladeIndex(model=_bundled())
    index.add(TEXTS, [{"year": n} for n in range(4)], [str(n) for n in range(4)])
    return TestClient(create_app(index), base_url="http://127.0.0.1")


def web_request(draw: random.Random, folder: Path) -> None:
    path = draw.choice(list(REQUESTS))
    body = as_json(damaged_json(REQUESTS[path], draw))
    answer = _client().post(
        path,
        content=damaged(body, draw) if draw.random() < 0.3 else body,
        headers={"content-type": draw.choice(["application/json", "text/plain"])},
    )
    assert answer.status_code < 500, (body[:300], answer.text)


CASES: Final[dict[str, Callable[[random.Random, Path], None]]] = {
    "tokenizer": tokenizer,
    "onnx": onnx_file,
    "model-json": model_json,
    "archive": archive,
    "text-file": text_file,
    "parquet": parquet,
    "config": config,
    "edge-folder": edge_folder,
    "text": text,
    "web-request": web_request,
}
