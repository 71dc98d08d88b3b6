"""Test collections in BEIR layout: a folder of documents, queries and graded judgements."""

import gzip
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from splade_retriever.errors import InputError
from splade_retriever.validation import checked_int

__all__ = ["BeirCollection"]


@dataclass(frozen=True)
class BeirCollection:
    """Documents, queries, and the relevant documents of each query.

    Source:
        BEIR, arXiv 2104.08663.
    """

    name: str
    """Name of the folder."""
    documents: dict[str, str]
    """Document id -> title and text, joined by a space; in the order of the file."""
    queries: dict[str, str]
    """Query id -> text: the queries with at least one relevant document, in the order of the file."""
    judgements: dict[str, dict[str, int]]
    """Query id -> document id -> grade above 0; for exactly the queries above.

    A relevant document that is not in the corpus stays: it counts against every system, as in trec_eval.
    """
    unjudged_queries: int
    """Queries of the file that are skipped, since no document is judged relevant to them."""
    unknown_documents: int
    """Number of judgements above 0 of documents that are not in the corpus."""
    unknown_queries: int
    """Judged queries that are not in the file; they are skipped."""
    queries_in_corpus: frozenset[str]
    """Queries that are documents too: the same id and the same words, with or without the title.

    In such collections (ArguAna, Quora) a query looks for the counterparts of a document, so the document
    itself is not an answer. An equal id is not enough: other collections number queries and documents from 1.
    """

    @classmethod
    def read(cls, folder: str | Path, *, split: str = "test", every_nth: int = 1) -> "BeirCollection":
        """Read `corpus.jsonl`, `queries.jsonl` (both may end in `.gz`) and the judgements.

        Judgements are in `qrels/<split>.tsv` or `qrels.tsv`: query id, document id and grade on each line,
        separated by tabs, with or without a header.

        Args:
            folder: Folder of the collection.
            split: Name of the file in `qrels/`.
            every_nth: Keep one of so many judged queries.

        Raises:
            InputError: A file is missing, a line has another form (the message names file and line), an id
                appears twice, or no query is left.
        """
        root = Path(folder)
        every_nth = checked_int("every_nth", every_nth, minimum=1)
        if not root.is_dir():
            raise InputError(f"There is no folder {str(root)!r} to evaluate on. Check the path.")
        corpus = _find_file(root, "corpus.jsonl", "corpus.jsonl.gz")
        query_file = _find_file(root, "queries.jsonl", "queries.jsonl.gz")
        judged = _read_judgements(_find_file(root, f"qrels/{split}.tsv", "qrels.tsv"))
        rows = _read_rows(corpus)
        documents = {id: f"{title} {text}".strip() for id, (title, text) in rows.items()}
        texts = {id: text for id, (_, text) in _read_rows(query_file).items()}
        queries = [id for id in texts if id in judged][::every_nth]
        if not documents or not queries:
            raise InputError(
                f"{str(root)!r} has {len(documents)} documents and {len(texts)} queries, of which "
                f"{len(queries)} have a relevant document, expected at least one of each. Check that queries "
                "and judgements have the same ids."
            )
        return cls(
            name=root.resolve().name,
            documents=documents,
            queries={id: texts[id] for id in queries},
            judgements={id: judged[id] for id in queries},
            unjudged_queries=sum(id not in judged for id in texts),
            unknown_documents=sum(id not in documents for grades in judged.values() for id in grades),
            unknown_queries=sum(id not in texts for id in judged),
            queries_in_corpus=frozenset(
                id for id in queries if id in rows and _is_document(texts[id], *rows[id])
            ),
        )


def _find_file(root: Path, *names: str) -> Path:
    for name in names:
        if (root / name).is_file():
            return root / name
    raise InputError(f"The collection {str(root)!r} has no {' or '.join(names)}. Add the file (BEIR layout).")


def _is_document(query: str, title: str, text: str) -> bool:
    """Return whether a query has the words of a document, ignoring case and punctuation."""
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
            raise InputError(f"{file}, line {number}: the id {id!r} appears twice. Make ids unique.")
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
        id = str(id)  # in the judgements, which are text, 1 and "1" are equal
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
                f"{file}, line {number}: expected query id, document id and an integer grade between tabs, "
                f"found {line[:60]!r}."
            )
        query, document, grade = cells[0], cells[1], int(cells[2])
        if grade > 0:
            judged.setdefault(query, {})[document] = grade
    return judged


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines that are not blank, with their line numbers."""
    opened = gzip.open if file.suffix == ".gz" else open
    try:
        with opened(file, "rt", encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield number, line.rstrip("\r\n")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise InputError(
            f"{file} cannot be read ({error}); expected UTF-8 text. Download the file again."
        ) from error


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())
