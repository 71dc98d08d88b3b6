"""Make an evaluation collection of documentation and code from the Python packages that are installed.

    python -m model_building.documentation --to runs/evaluation --training TRAIN_FOLDER
    python -m model_building.evaluate --evaluation runs/evaluation

It writes two collections in BEIR layout, and `packages.json` with the versions that decide their content:

- `documentation`: the sections of the packages' descriptions. A heading is a query, its section the answer.
- `docstrings`: the docstrings of public functions, classes and modules. The first sentence is a query, the
  rest of the docstring, under the qualified name, the answer.

A query must occur once in its collection. The collections are for measuring only: with `--training`, a
document that shares thirteen consecutive words with a training text is left out.
"""

from __future__ import annotations

import argparse
import ast
import gzip
import json
import logging
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from inspect import cleandoc
from pathlib import Path
from typing import NamedTuple

from model_building.overlap import read_jsonl, word_runs, words_of
from splade_retriever.files.markdown import sections

__all__ = ["PACKAGES", "Answer", "collect", "docstrings", "section_answers"]

logger = logging.getLogger(__name__)

PACKAGES = (
    "aiohttp",
    "anyio",
    "attrs",
    "bm25s",
    "charset-normalizer",
    "click",
    "dataclasses-json",
    "fastembed",
    "filelock",
    "fonttools",
    "fsspec",
    "griffe",
    "grpcio",
    "haystack-ai",
    "httpx",
    "huggingface-hub",
    "hypothesis",
    "ipython",
    "jedi",
    "jinja2",
    "jsonschema",
    "jupyter-client",
    "langchain",
    "langchain-core",
    "langgraph",
    "langsmith",
    "lark",
    "llama-index-core",
    "loguru",
    "markdown-it-py",
    "matplotlib",
    "more-itertools",
    "nbclient",
    "nbformat",
    "networkx",
    "nltk",
    "numpy",
    "onnx",
    "onnxruntime",
    "openai",
    "orjson",
    "packaging",
    "pillow",
    "platformdirs",
    "pluggy",
    "propcache",
    "protobuf",
    "psutil",
    "pydantic",
    "pygments",
    "pyparsing",
    "pytest",
    "pytest-benchmark",
    "pyyaml",
    "qdrant-client",
    "regex",
    "requests",
    "rich",
    "scipy",
    "selenium",
    "sqlalchemy",
    "starlette",
    "syrupy",
    "tenacity",
    "tiktoken",
    "tokenizers",
    "tqdm",
    "traitlets",
    "typer",
    "uvicorn",
    "watchdog",
    "wcwidth",
    "websockets",
    "yarl",
    "zstandard",
)
"""Distributions that the collection is made from, where they are installed."""
MIN_WORDS = 20
"""Words of an answer."""
MIN_QUERY_WORDS, MAX_QUERY_WORDS = {"documentation": 2, "docstrings": 4}, 30
MAX_ANSWERS = 60
"""Answers of one package and collection; from a longer list they are taken at equal distances."""
OTHER_LINES = re.compile(r"^\s*(\[!\[|!\[|\.\. (image|_|\|)|:\w+:|<)|https?://\S+\s*$")
"""Lines of badges, pictures and directives."""


class Answer(NamedTuple):
    """A document, with the query that it answers."""

    query: str
    title: str
    text: str


def main() -> None:
    """Parse the arguments and write both collections."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--to", type=Path, default=Path("runs/evaluation"))
    parser.add_argument("--training", type=Path, default=None, help="leave out what this folder holds")
    parser.add_argument("--packages", nargs="*", default=PACKAGES)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    collect(arguments.packages, arguments.to, training=arguments.training)


def collect(packages: Iterable[str], to: Path, *, training: Path | None = None) -> None:
    """Write the collections of some installed packages.

    Args:
        packages: Names of distributions; one that is not installed is skipped.
        to: The folder that holds a folder per collection afterwards.
        training: A folder of training data whose texts are left out.
    """
    installed = dict(_installed(packages))
    found: dict[str, list[Answer]] = {"documentation": [], "docstrings": []}
    for package in installed.values():
        found["documentation"] += _spread(list(section_answers(_description(package))))
        found["docstrings"] += _spread(list(_package_docstrings(package)))
    kept = {name: _distinct(answers) for name, answers in found.items()}
    if training is not None:
        kept = _without_training_texts(kept, training)
    to.mkdir(parents=True, exist_ok=True)
    for name, answers in kept.items():
        _write(to / name, answers, _askable(answers, name))
    versions = {name: package.version for name, package in installed.items()}
    (to / "packages.json").write_text(json.dumps(versions, indent=2) + "\n", encoding="utf-8")


def section_answers(text: str) -> Iterator[Answer]:
    """Yield the sections of a Markdown or reStructuredText page under their headings."""
    for section in sections(text):
        body = "\n".join(
            line for line in text[section.start : section.end].splitlines() if not OTHER_LINES.match(line)
        )
        if section.headings and _long_enough(body):
            *above, heading = (_plain(words) for words in section.headings)
            yield Answer(heading, " ".join(above), " ".join(body.split()))


def docstrings(source: str, module: str) -> Iterator[Answer]:
    """Yield the docstrings of a module's public names: the first sentence asks for the rest."""
    for name, node in _public(ast.parse(source), module):
        text = cleandoc(ast.get_docstring(node, clean=False) or "")
        first, _, rest = text.partition("\n\n")
        if _long_enough(rest):
            yield Answer(_plain(re.split(r"(?<=[.!?])\s", first)[0]), name, " ".join(rest.split()))


def _public(
    node: ast.Module | ast.ClassDef, name: str
) -> Iterator[tuple[str, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Yield a module or class and the public functions and classes in it, with their qualified names."""
    yield name, node
    for inner in node.body:
        if isinstance(inner, ast.ClassDef) and not inner.name.startswith("_"):
            yield from _public(inner, f"{name}.{inner.name}")
        elif isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef) and not inner.name.startswith("_"):
            yield f"{name}.{inner.name}", inner


def _installed(packages: Iterable[str]) -> Iterator[tuple[str, Distribution]]:
    for name in sorted(packages):
        try:
            yield name, distribution(name)
        except PackageNotFoundError:
            logger.info("%s is not installed and is skipped", name)


def _description(package: Distribution) -> str:
    """Return the page that the package index shows."""
    body = package.metadata.json.get("description")
    return body if isinstance(body, str) else ""


def _package_docstrings(package: Distribution) -> Iterator[Answer]:
    for file in sorted(package.files or [], key=str):
        hidden = any(part.startswith(("_", "test")) for part in file.parts if part != "__init__.py")
        if file.suffix != ".py" or hidden:
            continue
        module = ".".join(file.with_suffix("").parts).removesuffix(".__init__")
        try:
            yield from docstrings(Path(str(file.locate())).read_text(encoding="utf-8"), module)
        except (OSError, SyntaxError, UnicodeError) as error:
            logger.info("%s is skipped: %s", file, error)


def _long_enough(text: str) -> bool:
    return len(words_of(text)) >= MIN_WORDS


def _plain(heading: str) -> str:
    """Return a heading without markup."""
    linked = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading)
    roles = re.sub(r":\w+:`~?([^`<]+)(?:<[^>]*>)?`", r"\1", linked)
    return " ".join(re.sub(r"[`*]|<[^>]+>", "", roles).split()).strip(" .:#")


def _spread(answers: Sequence[Answer]) -> list[Answer]:
    step = max(1.0, len(answers) / MAX_ANSWERS)
    return [answers[int(n * step)] for n in range(min(len(answers), MAX_ANSWERS))]


def _distinct(answers: Iterable[Answer]) -> list[Answer]:
    return list({answer.text: answer for answer in answers}.values())


def _askable(answers: Sequence[Answer], collection: str) -> list[int]:
    """Return the places of the answers whose query is a phrase and occurs once."""
    counted = Counter(" ".join(words_of(answer.query)) for answer in answers)

    def is_query(words: list[str]) -> bool:
        named = [word for word in words if word.isalpha()]
        few = len(named) < MIN_QUERY_WORDS[collection]
        return not few and len(words) <= MAX_QUERY_WORDS and counted[" ".join(words)] == 1

    return [place for place, answer in enumerate(answers) if is_query(words_of(answer.query))]


def _without_training_texts(collections: dict[str, list[Answer]], training: Path) -> dict[str, list[Answer]]:
    """Leave out the answers that share thirteen consecutive words with a text of the training data."""
    holders: dict[int, set[str]] = {}
    for answers in collections.values():
        for answer in answers:
            for run in word_runs(words_of(answer.text)):
                holders.setdefault(run, set()).add(answer.text)
    shared: set[str] = set()
    for file in sorted(training.glob("*/*.jsonl.gz")):
        for row in read_jsonl(file):
            for text in (row.get("text", ""), row.get("query", "")):
                for run in word_runs(words_of(text)):
                    shared |= holders.get(run, set())
    kept = {
        name: [answer for answer in answers if answer.text not in shared]
        for name, answers in collections.items()
    }
    for name, answers in collections.items():
        left_out = len(answers) - len(kept[name])
        logger.info("%s: %d of %d share words with the training data", name, left_out, len(answers))
    return kept


def _write(folder: Path, answers: Sequence[Answer], asked: Sequence[int]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    _write_rows(
        folder / "corpus.jsonl.gz",
        [{"_id": f"d{n}", "title": answer.title, "text": answer.text} for n, answer in enumerate(answers)],
    )
    _write_rows(folder / "queries.jsonl.gz", [{"_id": f"q{n}", "text": answers[n].query} for n in asked])
    judged = "".join(f"q{n}\td{n}\t1\n" for n in asked)
    (folder / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\n" + judged, encoding="utf-8")
    logger.info("%s: %d documents, %d queries", folder.name, len(answers), len(asked))


def _write_rows(file: Path, rows: Iterable[dict[str, str]]) -> None:
    """Write gzipped JSON lines, with the same bytes for the same rows."""
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    file.write_bytes(gzip.compress(text.encode(), mtime=0))


if __name__ == "__main__":
    main()
