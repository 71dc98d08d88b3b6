"""Adapt the bundled model to a folder of your own texts, without labels.

    python -m model_building.adapt --texts FOLDER --to my-model

1. Cut the files into passages, as `splade index` does, and hold some files out.
2. Make pairs of the other files: a heading asks for each passage under it, and a passage's first sentence
   asks for the rest of it (the inverse cloze task, arXiv 1906.00300).
3. Train on them with the losses of `model_building.train`. The teacher is the model itself as it was, so a
   small corpus adds to what the model knows and does not replace it.
   Entries that expanded nothing before may expand these texts.
4. Export, and measure on what was held out: its headings ask for the passages under them, among those of all
   files.
"""

from __future__ import annotations

import argparse
import json
import logging
import re
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from model_building.export import arrays, expansions_in, write_folder
from model_building.restore import bundled_folder, load_model
from model_building.train import Learner, Recipe, in_groups, padded
from splade_retriever import SparseTextEmbedding
from splade_retriever.encoding.model_folder import open_folder
from splade_retriever.encoding.tokenizer import Tokenizer
from splade_retriever.errors import InputError
from splade_retriever.evaluation.evaluate import Quality, evaluate
from splade_retriever.files.discovery import find_files
from splade_retriever.files.loaders import read_file
from splade_retriever.files.passages import FileIssue, Passage, ReadOptions
from splade_retriever.files.splitter import Splitter
from splade_retriever.sparse import SparseEmbedding

log = logging.getLogger(__name__)

RECIPE = Recipe(batch=16, groups=2, head_rate=1e-3, layer_rate=5e-5, warm_up=0.1, distillation=1.0, ramp=0.0)
"""`dims_text` and `dims_query` are not taken from here: the model keeps the dimensions that it had."""
PRESSURE = 0.1
"""Factor of the regularisers at the start; at 1 they cut dimensions away before anything is learned."""
PASSAGE_TOKENS = 128
QUERY_TOKENS = 32
LEAST_WORDS = 12
"""Words that must be left of a passage when its first sentence is taken away."""


def main() -> None:
    """Read the command line, adapt the model, and print its figures beside those of the start and BM25."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--texts", type=Path, required=True, help="a folder of Markdown or text files")
    parser.add_argument("--to", type=Path, required=True, help="the folder to write the model to")
    parser.add_argument("--start", type=Path, default=bundled_folder(), help="the model to start from")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--held-out", type=float, default=0.3, help="share of the files to measure on")
    parser.add_argument("--seed", type=int, default=RECIPE.seed)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    start = SparseTextEmbedding(arguments.start)
    corpus = Corpus.read(arguments.texts, start.tokenizer, held_out=arguments.held_out, seed=arguments.seed)
    log.info("%s", corpus)
    adapt(corpus, arguments.start, arguments.to, steps=arguments.steps, seed=arguments.seed)
    print(table(measure(corpus, {"before": arguments.start, "after": arguments.to})))


@dataclass(frozen=True)
class Pair:
    """A query made from the texts, and the text that answers it."""

    query: str
    text: str


@dataclass(frozen=True)
class Corpus:
    """Passages of a folder, and which files are kept for measuring."""

    passages: list[Passage]
    held_out: frozenset[str]
    """Names of files, relative to the folder."""

    def __str__(self) -> str:
        files = {passage.metadata["source"] for passage in self.passages}
        pairs = sum(map(len, self.sections()))
        return (
            f"{len(self.passages)} passages of {len(files)} files; {pairs} pairs to learn from, "
            f"{len(self.questions())} headings of {len(self.held_out)} other files to measure with"
        )

    @classmethod
    def read(cls, folder: Path, tokenizer: Tokenizer, *, held_out: float = 0.3, seed: int = 13) -> Corpus:
        """Read a folder's Markdown and text files; what cannot be read is logged.

        Args:
            folder: The texts.
            tokenizer: The model's.
            held_out: Share of the files with headings that are measured on, not learned from; one at least.
            seed: Decides which.

        Raises:
            InputError: If there is no such folder, or fewer than two of its files have headings.
        """
        options = ReadOptions(base=folder)
        splitter = Splitter(tokenizer, PASSAGE_TOKENS)
        passages: list[Passage] = []
        for found in find_files([folder], options):
            for item in [found] if isinstance(found, FileIssue) else read_file(found, options, splitter):
                if isinstance(item, FileIssue):
                    log.warning("%s %s", item.place, item.reason)
                else:
                    passages.append(item)
        with_headings = sorted({p.metadata["source"] for p in passages if "heading" in p.metadata})
        if len(with_headings) < 2:
            raise InputError(
                f"{str(folder)!r} has {len(with_headings)} files with headings (Markdown), expected two at "
                "least: one to learn from, one to measure on. Pass a folder with more of them."
            )
        number = min(len(with_headings) - 1, max(1, round(held_out * len(with_headings))))
        chosen = np.random.default_rng(seed).permutation(len(with_headings))[:number]
        return cls(passages, frozenset(with_headings[place] for place in chosen))

    def sections(self) -> list[list[Pair]]:
        """Return the pairs to learn from, section by section, in the order of the files.

        No two pairs of a section belong into one batch: each would be a wrong answer to the other.
        """
        headings = self._headings()
        found: dict[tuple[str, str], list[Pair]] = defaultdict(list)
        for passage in self.passages:
            section = _section(passage)
            if section[0] not in self.held_out:
                pairs = _pairs(passage, headings.get(section))
                found[section].extend(pairs)
        return [pairs for pairs in found.values() if pairs]

    def questions(self) -> dict[str, list[str]]:
        """Return the headings of the held-out files, each with the ids of the passages under it."""
        headings = self._headings()
        found: dict[str, list[str]] = defaultdict(list)
        for passage in self.passages:
            heading = headings.get(_section(passage))
            if heading is not None and passage.metadata["source"] in self.held_out:
                found[heading].append(passage.id)
        return dict(found)

    def write_beir(self, folder: Path) -> None:
        """Write all passages, without their headings, and the questions, in BEIR layout."""
        questions = self.questions()
        rows = {
            "corpus": [{"_id": passage.id, "text": passage.text} for passage in self.passages],
            "queries": [{"_id": f"q{n}", "text": text} for n, text in enumerate(questions)],
        }
        for name, lines in rows.items():
            text = "".join(json.dumps(line) + "\n" for line in lines)
            (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
        judged = (f"q{n}\t{id}\t1\n" for n, ids in enumerate(questions.values()) for id in ids)
        (folder / "qrels.tsv").write_text("".join(judged), encoding="utf-8")

    def _headings(self) -> dict[tuple[str, str], str]:
        """Return the words of each section's own heading; those that stand over several say too little."""
        own = {section: section[1].rpartition(" > ")[2] for section in map(_section, self.passages)}
        often = Counter(heading.lower() for heading in own.values())
        return {
            section: heading for section, heading in own.items() if heading and often[heading.lower()] == 1
        }


def _section(passage: Passage) -> tuple[str, str]:
    return passage.metadata["source"], passage.metadata.get("heading", "")


def _pairs(passage: Passage, heading: str | None) -> Iterator[Pair]:
    if heading is not None:
        yield Pair(heading, passage.text)
    sentence, *rest = re.split(r"(?<=[.!?])\s+", passage.text, maxsplit=1)
    if rest and len(rest[0].split()) >= LEAST_WORDS:
        yield Pair(sentence, rest[0])


def adapt(
    corpus: Corpus, start: Path, to: Path, *, steps: int = 40, seed: int = 13, recipe: Recipe = RECIPE
) -> None:
    """Train the model of the folder `start` on the corpus, and write it to the folder `to`, in int8.

    Args:
        corpus: What to learn from.
        start: The model folder to start from; it is not changed.
        to: The folder to write.
        steps: Batches to learn from.
        seed: Decides the batches.
        recipe: Rates, losses and sizes; the dimensions to hold are measured on the model at the start.
    """
    sections = corpus.sections()
    before = _Before(SparseTextEmbedding(start), [pair for pairs in sections for pair in pairs])
    card = open_folder(start).card
    recipe = replace(
        recipe,
        seed=seed,
        keep_query=card.query_max_active_dims or recipe.keep_query,
        dims_text=before.dims("text"),
        dims_query=before.dims("query"),
        query_power=card.query_power,
    )
    model = load_model(start, frozen=recipe.frozen)
    expanding = model.head.expanding.numpy().copy()
    model.head.expanding.copy_(~model.head.barred)  # the corpus may need entries that nothing needed before
    learner = Learner(recipe, model)
    learner.pressure.factors = dict.fromkeys(learner.pressure.factors, PRESSURE)
    random = np.random.default_rng(seed)
    for step in range(steps):
        batch = draw(sections, recipe.batch, random)
        queries, texts = (
            _weights(model, before.tokens(name, batch), keep, recipe.groups)
            for name, keep in (("query", recipe.keep_query), ("text", recipe.keep_text))
        )
        parts = learner.update(queries, texts, before.scores(batch), step / steps)
        if (step + 1) % 10 == 0:
            shown = " ".join(f"{name} {value:.3f}" for name, value in parts.items())
            log.info("step %d of %d: %s", step + 1, steps, shown)
    state = arrays(model.state_dict())
    counts = expansions_in(state, {"corpus": before.all_tokens()}, model.head.floor)
    state["head.expanding"] = expanding | (counts > 0)
    write_folder(
        state,
        to,
        "int8",
        floor=model.head.floor,
        count_share=model.head.count_share,
        query_max_active_dims=card.query_max_active_dims,
        query_power=card.query_power,
        adapted=to.resolve().name,
    )


def draw(sections: Sequence[list[Pair]], size: int, random: np.random.Generator) -> list[Pair]:
    """Pick one pair each of `size` neighbouring sections, which are about like things."""
    first = int(random.integers(len(sections)))
    places = (first + np.arange(min(size, len(sections)))) % len(sections)
    return [sections[place][int(random.integers(len(sections[place])))] for place in places]


def _weights(model: torch.nn.Module, texts: Sequence[list[int]], keep: int, groups: int) -> Tensor:
    """Return the weights of tokenised texts, (texts, vocab), with gradients."""
    (weights,) = in_groups(*padded(texts), groups, lambda ids, mask: (model(ids, mask, keep),))
    return weights


class _Before:
    """What the model made of the pairs before it was trained: the teacher."""

    def __init__(self, encoder: SparseTextEmbedding, pairs: Sequence[Pair]) -> None:
        self._vocab = encoder.vocab_size
        self._vectors: dict[str, dict[str, SparseEmbedding]] = {}
        self._tokens: dict[str, dict[str, list[int]]] = {}
        for name, encode, limit in (
            ("query", encoder.query_embed, QUERY_TOKENS),
            ("text", encoder.passage_embed, PASSAGE_TOKENS),
        ):
            texts = list(dict.fromkeys(getattr(pair, name) for pair in pairs))
            self._vectors[name] = dict(zip(texts, encode(texts), strict=True))
            tokens = (_cut(encoding.ids, limit) for encoding in encoder.tokenizer.encode_batch(texts))
            self._tokens[name] = dict(zip(texts, tokens, strict=True))

    def dims(self, name: str) -> float:
        """Return the active dimensions of a query or text, on average."""
        return float(np.mean([len(vector) for vector in self._vectors[name].values()]))

    def tokens(self, name: str, batch: Sequence[Pair]) -> list[list[int]]:
        """Return the token ids of the queries or texts."""
        return [self._tokens[name][getattr(pair, name)] for pair in batch]

    def all_tokens(self) -> list[list[int]]:
        """Return the token ids of all queries and texts."""
        return [ids for of_texts in self._tokens.values() for ids in of_texts.values()]

    def scores(self, batch: Sequence[Pair]) -> Tensor:
        """Return the scores of each query with each text, (batch, batch)."""
        return self._rows("query", batch) @ self._rows("text", batch).T

    def _rows(self, name: str, batch: Sequence[Pair]) -> Tensor:
        rows = np.zeros((len(batch), self._vocab), dtype=np.float32)
        for row, pair in zip(rows, batch, strict=True):
            vector = self._vectors[name][getattr(pair, name)]
            row[vector.indices] = vector.values
        return torch.from_numpy(rows)


def _cut(ids: list[int], limit: int) -> list[int]:
    """Shorten to `limit` tokens, the last special one kept."""
    return ids if len(ids) <= limit else [*ids[: limit - 1], ids[-1]]


def measure(corpus: Corpus, models: dict[str, Path]) -> dict[str, Quality]:
    """Ask the held-out headings of BM25 and of each model, with `splade_retriever.evaluation.evaluate`.

    Args:
        corpus: Its passages are searched, those of all files.
        models: Name -> model folder.

    Returns:
        "BM25" and the names -> how well they answer.
    """
    found: dict[str, Quality] = {}
    with tempfile.TemporaryDirectory(prefix="splade-adapt-") as place:
        corpus.write_beir(Path(place))
        for name, folder in models.items():
            report = evaluate(place, SparseTextEmbedding(folder), bm25="BM25" not in found)
            if report.bm25 is not None:
                found["BM25"] = report.bm25
            found[name] = report.splade
    return found


def table(qualities: dict[str, Quality]) -> str:
    """Return the figures as lines of text."""
    lines = [f"{'':10}{'nDCG@10':>9}{'MRR@10':>9}{'R@100':>9}"]
    for name, row in qualities.items():
        lines.append(f"{name:10}{row.ndcg_at_10:9.4f}{row.mrr_at_10:9.4f}{row.recall_at_100:9.4f}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
