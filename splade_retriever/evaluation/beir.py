"""Test collections in BEIR layout: a folder of documents, queries and graded judgements."""

import gzip
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from splade_retriever.errors import InputError

__all__ = ["BeirCollection"]


@dataclass(frozen=True)
class BeirCollection:
    """Documents, the queries to ask, and what answers them.

    Source:
        BEIR, arXiv 2104.08663.
    """

    name: str
    """The folder's name."""
    documents: dict[str, str]
    """Document id -> title and text, joined by a space; in the order of the file."""
    queries: dict[str, str]
    """Query id -> text: the queries with at least one relevant document, in the order of the file."""
    judgements: dict[str, dict[str, int]]
    """Query id -> document id -> grade above 0; for exactly the queries above.

    A relevant document that is not in the corpus stays: it counts against every system, as in trec_eval.
    """
    unjudged_queries: int
    """Queries of the file that are left out, since no document is judged relevant to them."""
    unknown_documents: int
    """Judgements above 0 of a document that is not in the corpus."""
    unknown_queries: int
    """Judged queries that are not in the file; they are left out."""
    own: frozenset[str]
    """Queries that are themselves documents: the same id and the same words, with or without the title.

    Such collections (ArguAna, Quora) ask for a document's counterparts, so it is no answer to itself. The id
    alone does not tell: other collections number queries and documents both from 1.
    """

    @classmethod
    def read(cls, folder: str | Path, *, split: str = "test", every_nth: int = 1) -> "BeirCollection":
        """Read `corpus.jsonl`, `queries.jsonl` (either may end in `.gz`) and the judgements.

        Judgements lie in `qrels/<split>.tsv` or `qrels.tsv`: query id, document id and grade a line, between
        tabs, with or without a header.

        Args:
            folder: The collection.
            split: Which file under `qrels/`.
            every_nth: Keep the first of every so many judged queries.

        Raises:
            InputError: If a file is missing or a line is not of the layout (the message names file and line),
                an id stands twice, or no query is left.
        """
        root = Path(folder)
        if every_nth < 1:
            raise InputError(f"every_nth is {every_nth}, expected 1 (every query) or more.")
        if not root.is_dir():
            raise InputError(f"There is no folder {str(root)!r} to evaluate on. Check the path.")
        corpus = _file(root, "corpus.jsonl", "corpus.jsonl.gz")
        asked = _file(root, "queries.jsonl", "queries.jsonl.gz")
        judged = _read_judgements(_file(root, f"qrels/{split}.tsv", "qrels.tsv"))
        rows = _read_rows(corpus)
        documents = {id: f"{title} {text}".strip() for id, (title, text) in rows.items()}
        everything = {id: text for id, (_, text) in _read_rows(asked).items()}
        queries = [id for id in everything if id in judged][::every_nth]
        if not documents or not queries:
            raise InputError(
                f"{str(root)!r} has {len(documents)} documents and {len(everything)} queries, of which "
                f"{len(queries)} have a relevant document, expected one of each at least. Check that queries "
                "and judgements have the same ids."
            )
        return cls(
            name=root.resolve().name,
            documents=documents,
            queries={id: everything[id] for id in queries},
            judgements={id: judged[id] for id in queries},
            unjudged_queries=sum(id not in judged for id in everything),
            unknown_documents=sum(id not in documents for grades in judged.values() for id in grades),
            unknown_queries=sum(id not in everything for id in judged),
            own=frozenset(id for id in queries if id in rows and _is(everything[id], *rows[id])),
        )


def _file(root: Path, *names: str) -> Path:
    for name in names:
        if (root / name).is_file():
            return root / name
    raise InputError(
        f"The collection {str(root)!r} has no {' or '.join(names)}. Put the file there (BEIR layout)."
    )


def _is(query: str, title: str, text: str) -> bool:
    """Tell whether a query is this document, whatever case and punctuation."""
    return _words(query) in (_words(text), _words(f"{title} {text}"))


def _read_rows(file: Path) -> dict[str, tuple[str, str]]:
    """Read id -> (title, text)."""
    rows: dict[str, tuple[str, str]] = {}
    for number, line in _lines(file):
        row = _row(line)
        if row is None:
            raise InputError(
                f'{file}, line {number}: expected a JSON object with "_id" and "text" (and "title"), '
                f"found {line[:60]!r}."
            )
        id, title, text = row
        if id in rows:
            raise InputError(f"{file}, line {number}: the id {id!r} stands there twice; make ids unique.")
        rows[id] = title, text
    return rows


def _row(line: str) -> tuple[str, str, str] | None:
    """Read one row's id, title and text; None for a line of another form."""
    try:
        row: Any = json.loads(line)
    except ValueError:
        return None
    if not isinstance(row, dict):
        return None
    id, title, text = row.get("_id"), row.get("title") or "", row.get("text")
    if isinstance(id, int) and not isinstance(id, bool):
        id = str(id)  # judgements, being text, cannot tell 1 from "1"
    if not (isinstance(id, str) and id and isinstance(title, str) and isinstance(text, str)):
        return None
    return id, title, text


def _read_judgements(file: Path) -> dict[str, dict[str, int]]:
    """Read query id -> document id -> grade, without grades of 0 and below."""
    judged: dict[str, dict[str, int]] = {}
    for number, line in _lines(file):
        cells = line.split("\t")
        graded = len(cells) == 3 and re.fullmatch(r"-?\d+", cells[2].strip()) is not None
        if not graded:
            if number == 1 and len(cells) == 3:
                continue  # the header
            raise InputError(
                f"{file}, line {number}: expected query id, document id and a whole grade between tabs, "
                f"found {line[:60]!r}."
            )
        query, document, grade = cells[0], cells[1], int(cells[2])
        if grade > 0:
            judged.setdefault(query, {})[document] = grade
    return judged


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines that are not blank, with their numbers from 1."""
    opened = gzip.open if file.suffix == ".gz" else open
    try:
        with opened(file, "rt", encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield number, line.rstrip("\r\n")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise InputError(
            f"{file} cannot be read ({error}); expected UTF-8 text. Get the file again."
        ) from error


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())
