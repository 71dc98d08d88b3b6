"""Make the table of query weights of the bundled model whose queries need no network.

    python -m model_building.query_table --data TRAIN_FOLDER --evaluation EVALUATION_FOLDER

Documents stay as the bundled model encodes them. The table gives each token of a query a weight and a few
entries that it adds, and a query is the sum over its tokens. Queries and texts of a pool
(`model_building.pool`) are needed, with their vectors by the bundled model:

1. The start is the IDF in the texts of the pool. A token expands to what the network gives that token alone,
   in proportion to its own weight there, times `expansion`.
2. Training fits the sums to the network's vectors of the queries: the mean squared difference, relative to
   the size of each vector, on a sample of queries in each step. Beside what a token expands to alone, it can
   expand to what the network adds to the queries that hold it. A penalty on the logarithm of each weight's
   change holds tokens that are rare in queries near the start.
3. The average of fitted table and start keeps the largest entries of each token.
4. Ranking trains it further: KL divergence from the network's scores over candidates, which are the best
   texts of each query by the network and by the start (`rank`).
5. The result has the scale of the network's weights, so that both models score alike.

A share of the queries is held out; the record has both losses on them before and after training.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor, nn

from model_building.pool import collect
from model_building.token_store import TokenStore
from model_building.train import add_recipe_options, hardware, with_options, word_idf
from splade_retriever.encoding.model_cards import ModelCard
from splade_retriever.encoding.session import Session
from splade_retriever.training.learner import divergence

__all__ = [
    "Candidates",
    "Queries",
    "Table",
    "TableRecipe",
    "best_texts",
    "divergence_of",
    "fit",
    "fitted",
    "make_table",
    "rank",
    "start_table",
    "write_folder",
]

logger = logging.getLogger(__name__)

NAME_SUFFIX = "-doc"
SPECIAL_IDS = (0, 100, 101, 102, 103)
MAX_QUERIES = {
    "squad-part": 3_000,
    "qamr": 700,
    "openstax": 1_200,
    "oewn": 300,
    "arxiv": 2_000,
    "docs": 2_500,
    "queries": 5_000,
    "sentences": 3_500,
    "medquad": 1_500,
    "science-qa": 1_500,
    "nq-part": 700,
}
"""Source -> number of its queries that are used; of others `OTHER_QUERIES`."""
OTHER_QUERIES = 500
OTHER_TEXTS = 9_000
"""Texts that answer none of the queries."""
TEXTS_AT_ONCE = 128
"""Texts per call of the network, which returns a number per text and entry of the vocabulary."""
QUERIES_AT_ONCE = 256
ABSENT = -1e4
"""Score of a text that is no candidate."""
LOG_EVERY = 100
"""Steps between two lines of the log."""


@dataclass(frozen=True)
class TableRecipe:
    """All settings that decide the table, besides the queries and the model.

    Attributes:
        seed: Decides the queries held out, and the samples.
        held: Share of the queries held out.
        alone: Entries that a token expands to, of those by the network for the token alone.
        together: The same, of those that the network adds to queries with the token.
        min_queries: Queries that hold a token before it gets entries of the second kind.
        common: Times the mean weight of an entry over all queries that is taken off for it.
        expansion: Factor of the first kind at the start.
        steps: Steps.
        queries: Queries per step.
        rate: Learning rate.
        hold: Factor of the penalty on the change of a token's own weight.
        hold_expansion: Factor of the penalty on the change of what it adds.
        end_share: Share of the fitted table in the average; the rest is the start.
        kept: Entries that a token expands to in the end.
        min_weight: Lighter entries are dropped.
        max_active_dims: Weights of a query that are kept, the largest.
        texts: Maximum number of texts that queries rank.
        by_network: Candidates of a query, the best by the network.
        by_start: The same by the start.
        rank_steps: Steps of the ranking.
        rank_queries: Queries per step.
        listed: Candidates of each query in a step; each query ranks those of all.
        rank_rate: Learning rate.
        rank_hold: Factor of the penalty on the change of each weight.
    """

    seed: int = 1
    held: float = 0.05
    alone: int = 16
    together: int = 8
    min_queries: int = 5
    common: float = 3.0
    expansion: float = 0.3
    steps: int = 700
    queries: int = 128
    rate: float = 0.03
    hold: float = 2e-5
    hold_expansion: float = 6e-5
    end_share: float = 0.5
    kept: int = 16
    min_weight: float = 0.03
    max_active_dims: int = 32
    texts: int = 12_000
    by_network: int = 32
    by_start: int = 16
    rank_steps: int = 300
    rank_queries: int = 64
    listed: int = 12
    rank_rate: float = 0.02
    rank_hold: float = 1e-3


def main() -> None:
    """Parse the arguments, collect the pool if that is not done, and make the folder of the model."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--evaluation", type=Path, required=True)
    parser.add_argument("--pool", type=Path, default=Path("runs/table/pool"), help="made where it is missing")
    parser.add_argument("--share", type=float, default=0.15, help="share of the data that a new pool has")
    parser.add_argument("--model", type=Path, default=Path("splade_retriever/bundled"))
    parser.add_argument("--to", type=Path, default=Path("splade_retriever/bundled_doc"))
    parser.add_argument("--record", type=Path, default=Path("model_building/record"))
    add_recipe_options(parser, TableRecipe())
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    if not (arguments.pool / "pool.json").exists():
        collect(arguments.data, arguments.evaluation, arguments.pool, share=arguments.share)
    recipe = with_options(TableRecipe(), arguments)
    table, record = make_table(arguments.pool, arguments.model, recipe)
    write_folder(table, arguments.model, arguments.to, recipe)
    arguments.record.mkdir(parents=True, exist_ok=True)
    (arguments.record / "query_table.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


@dataclass(frozen=True)
class Queries:
    """Queries as the table sees them, and their vectors by the network.

    Attributes:
        tokens: Shape (queries, vocab): 1 for each token of a query, special ones left out.
        vectors: Shape (queries, vocab), the weights by the network, as they are searched with.
    """

    tokens: sparse.csr_array
    vectors: sparse.csr_array

    def __getitem__(self, rows: NDArray[np.int64]) -> Queries:
        return Queries(self.tokens[rows], self.vectors[rows])

    def __len__(self) -> int:
        return int(self.tokens.shape[0])


@dataclass(frozen=True)
class Candidates:
    """Texts that queries rank.

    Attributes:
        texts: Shape (texts, vocab), their weights by the network.
        lists: Shape (queries, candidates), the candidates of each query.
        answers: Shape (queries,), the text that answers each by a label, -1 for none.
        cut_from: Shape (queries,), the text that each was cut from, which is no candidate; -1 for none.
    """

    texts: sparse.csr_array
    lists: NDArray[np.int32]
    answers: NDArray[np.int64]
    cut_from: NDArray[np.int64]

    def __getitem__(self, rows: NDArray[np.int64]) -> Candidates:
        return Candidates(self.texts, self.lists[rows], self.answers[rows], self.cut_from[rows])


def make_table(pool: Path, model: Path, recipe: TableRecipe) -> tuple[sparse.csr_array, dict[str, Any]]:
    """Make the table from a pool.

    Args:
        pool: The folder that `model_building.pool` wrote; the vectors by the network are kept in it.
        model: The folder of the model whose queries the table replaces.
        recipe: The settings.

    Returns:
        Shape (vocab, vocab): what each token adds to each entry; and the record of the run.
    """
    counted = np.load(pool / "frequency.npz")
    idf = word_idf(counted["frequency"], int(counted["documents"])).numpy()
    idf[list(SPECIAL_IDS)] = 0
    chosen = _Chosen.of_pool(pool, recipe)
    started = time.monotonic()
    network = _Network(model)
    alone = _cached(pool / "alone.npz", network.of_queries, _each_token(counted["frequency"]))
    vectors = _cached(pool / "vectors.npz", network.of_queries, chosen.queries)
    texts = _cached(pool / "text_vectors.npz", network.of_texts, chosen.texts)
    queries = Queries(_tokens(chosen.queries, len(idf)), vectors)
    logger.info(
        "%d queries, %d texts encoded in %.0f s", len(queries), *texts.shape[:1], time.monotonic() - started
    )
    start = start_table(idf, alone, recipe)
    lists = best_texts(queries, start, texts, chosen.cut_from, recipe)
    candidates = Candidates(texts, lists, chosen.answers, chosen.cut_from)
    usable = np.flatnonzero((np.diff(queries.tokens.indptr) > 0) & (np.diff(vectors.indptr) > 0))
    order = np.random.default_rng(recipe.seed).permutation(usable)
    held, learned = np.split(order, [int(len(order) * recipe.held)])
    fit_to, ranked = queries[learned], candidates[learned]
    fitting, fit_curve = fit(_with_neighbours(start, fit_to, recipe), fit_to, recipe)
    average = _pruned(recipe.end_share * fitting + (1 - recipe.end_share) * start, recipe)
    table, rank_curve = rank(average, fit_to, ranked, recipe)
    scale, _ = fitted(table, fit_to)
    stages = {"idf": _diagonal(idf), "start": start, "average": average, "table": table}
    record = {
        "recipe": asdict(recipe),
        "queries": len(learned),
        "texts": len(chosen.texts),
        "held": len(held),
        "held_loss": {name: fitted(each, queries[held])[1] for name, each in stages.items()},
        "held_divergence": {
            name: divergence_of(each, queries[held], candidates[held]) for name, each in stages.items()
        },
        "entries": int(table.nnz),
        "scale": scale,
        "curve": fit_curve,
        "rank_curve": rank_curve,
        "hardware": hardware("cpu"),
    }
    return scale * table, record


def start_table(idf: NDArray[np.float32], alone: sparse.csr_array, recipe: TableRecipe) -> sparse.csr_array:
    """Return the table before training.

    Args:
        idf: Shape (vocab,).
        alone: Shape (vocab, vocab): the vector of each token alone, as a query, by the network.
        recipe: The settings.
    """
    own = alone.diagonal()
    # A token that weighs little alone, such as "the", has an expansion that says little about it.
    relative = np.where(own > 0, idf / np.maximum(own, 0.5), 0)
    expansions = _largest(_without_diagonal(alone), recipe.alone)
    scaled = sparse.diags_array(recipe.expansion * relative) @ expansions
    return sparse.csr_array(_diagonal(idf) + scaled)


def fit(
    table: sparse.csr_array, queries: Queries, recipe: TableRecipe
) -> tuple[sparse.csr_array, list[dict[str, float]]]:
    """Fit a table to the network's vectors; entries that are 0 stay 0.

    Returns:
        The table, and the mean loss of every `LOG_EVERY` steps.
    """
    random = np.random.default_rng(recipe.seed)
    model = Table(table)

    def losses() -> tuple[Tensor, Tensor]:
        batch = queries[random.choice(len(queries), min(recipe.queries, len(queries)), replace=False)]
        wanted = torch.from_numpy(batch.vectors.toarray())
        size = wanted.square().sum(1).clamp_min(1e-3)
        difference = ((model(batch.tokens) - wanted).square().sum(1) / size).mean()
        return difference, 50 * difference + model.penalty(recipe.hold, recipe.hold_expansion)

    curve = _minimise(losses, model, steps=recipe.steps, rate=recipe.rate)
    return model.entries(), curve


def rank(
    table: sparse.csr_array, queries: Queries, candidates: Candidates, recipe: TableRecipe
) -> tuple[sparse.csr_array, list[dict[str, float]]]:
    """Train a table to rank candidates as the network does; entries that are 0 stay 0.

    Returns:
        The table, and the mean divergence of every `LOG_EVERY` steps.
    """
    random = np.random.default_rng(recipe.seed)
    model = Table(table, scale=fitted(table, queries)[0])

    def losses() -> tuple[Tensor, Tensor]:
        rows = random.choice(len(queries), min(recipe.rank_queries, len(queries)), replace=False)
        batch, ranked = queries[rows], candidates[rows]
        places = random.random(ranked.lists.shape).argsort(1)[:, : recipe.listed]
        listed = np.take_along_axis(ranked.lists, places, 1)
        texts = np.unique(np.concatenate([ranked.answers[ranked.answers >= 0], listed.ravel()]))
        weights = torch.from_numpy(candidates.texts[texts].toarray())
        barred = torch.from_numpy(texts[None, :] == ranked.cut_from[:, None])
        divergence = _divergence(
            model(batch.tokens) @ weights.T, torch.from_numpy(batch.vectors.toarray()) @ weights.T, barred
        )
        return divergence, divergence + model.penalty(recipe.rank_hold, recipe.rank_hold)

    curve = _minimise(losses, model, steps=recipe.rank_steps, rate=recipe.rank_rate)
    return model.entries(), curve


def best_texts(
    queries: Queries,
    start: sparse.csr_array,
    texts: sparse.csr_array,
    cut_from: NDArray[np.int64],
    recipe: TableRecipe,
) -> NDArray[np.int32]:
    """Return the candidates of each query: the best texts by the network and by a table.

    Args:
        queries: The queries.
        start: Shape (vocab, vocab), the table.
        texts: Shape (texts, vocab), their weights by the network.
        cut_from: Shape (queries,), the text that each was cut from, which is no candidate; -1 for none.
        recipe: Says how many.
    """
    parts = []
    for rows in np.array_split(np.arange(len(queries)), max(1, len(queries) // QUERIES_AT_ONCE)):
        some, barred = queries[rows], cut_from[rows]
        lists = []
        for vectors, wanted in ((some.vectors, recipe.by_network), (some.tokens @ start, recipe.by_start)):
            scores = (vectors @ texts.T).toarray()
            scores[barred >= 0, barred[barred >= 0]] = -1
            number = min(wanted, scores.shape[1])
            lists.append(np.argpartition(-scores, number - 1, axis=1)[:, :number])
        parts.append(np.concatenate(lists, 1).astype(np.int32))
    return np.concatenate(parts)


def divergence_of(table: sparse.csr_array, queries: Queries, candidates: Candidates) -> float:
    """Return the mean KL divergence of a table's scores from the network's over the candidates of queries."""
    made = fitted(table, queries)[0] * (queries.tokens @ table)
    total = 0.0
    for row in range(len(queries)):
        texts = candidates.texts[np.unique(candidates.lists[row])]
        scores, wanted = (
            torch.from_numpy((texts @ vectors[[row]].T).toarray().T) for vectors in (made, queries.vectors)
        )
        total += float(_divergence(scores, wanted, torch.zeros_like(scores, dtype=torch.bool)))
    return total / len(queries)


def _divergence(scores: Tensor, wanted: Tensor, barred: Tensor) -> Tensor:
    """Return KL(wanted || scores), the mean over the rows, without barred texts."""
    return divergence(scores.masked_fill(barred, ABSENT), wanted.masked_fill(barred, ABSENT), 1.0)


def _minimise(
    losses: Callable[[], tuple[Tensor, Tensor]], model: Table, *, steps: int, rate: float
) -> list[dict[str, float]]:
    """Take steps with Adam; return the mean of the first loss of every `LOG_EVERY` steps.

    Args:
        losses: Returns the loss to report and the one to minimise.
        model: The table.
        steps: The number of steps.
        rate: The learning rate, which rises for 4% of the steps and then falls to 0.
    """
    optimiser = torch.optim.Adam(model.parameters(), lr=rate)
    curve: list[dict[str, float]] = []
    recent: list[float] = []
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / (0.04 * steps)) * (1 - step / steps)
        reported, total = losses()
        optimiser.zero_grad()
        torch.autograd.backward(total)
        optimiser.step()
        recent.append(reported.item())
        if len(recent) == LOG_EVERY or step + 1 == steps:
            curve.append({"step": step + 1, "loss": float(np.mean(recent))})
            logger.info("step %d: loss %.4f", step + 1, curve[-1]["loss"])
            recent.clear()
    return curve


class Table(nn.Module):
    """A table with the logarithms of its entries as parameters.

    Args:
        start: Shape (vocab, vocab): its entries, above 0.
        scale: Factor that brings IDF to the scale of the network's weights; ranking does not see it.
    """

    def __init__(self, start: sparse.csr_array, scale: float = 0.5) -> None:
        super().__init__()
        self.shape, self.ends = start.shape, start.indptr
        self.rows = np.repeat(np.arange(start.shape[0]), np.diff(start.indptr))
        self.columns = torch.from_numpy(start.indices.astype(np.int64))
        self.start = torch.from_numpy(np.log(start.data).astype(np.float32))
        self.own = torch.from_numpy(self.rows == start.indices)
        self.values = nn.Parameter(self.start.clone())
        self.scale = nn.Parameter(torch.tensor(scale).log())

    def forward(self, tokens: sparse.csr_array) -> Tensor:
        """Return the weights of queries at the network's scale, (queries, vocab)."""
        first, counts = self.ends[tokens.indices], np.diff(self.ends)[tokens.indices]
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        entries = torch.from_numpy(np.repeat(first, counts) + within).long()
        rows = np.repeat(np.arange(tokens.shape[0]), np.diff(tokens.indptr))
        place = (torch.from_numpy(np.repeat(rows, counts)).long(), self.columns[entries])
        zeros = torch.zeros(tokens.shape[0], self.shape[1])
        return zeros.index_put(place, self.values[entries].exp(), accumulate=True) * self.scale.exp()

    def penalty(self, own: float, expansion: float) -> Tensor:
        """Return the weighted sum of squared changes."""
        changed = (self.values - self.start).square()
        return torch.where(self.own, own, expansion).mul(changed).sum()

    def entries(self) -> sparse.csr_array:
        """Return the table at the scale of the start."""
        values = self.values.detach().exp().numpy()
        return sparse.csr_array((values, self.columns.numpy(), self.ends), shape=self.shape)


def fitted(table: sparse.csr_array, queries: Queries) -> tuple[float, float]:
    """Return the factor that brings a table to the network's scale, and its loss with that factor.

    The loss is the mean squared difference to the network's vectors, relative to the size of each.
    """
    made, wanted = queries.tokens @ table, queries.vectors
    size = np.maximum(wanted.power(2).sum(1), 1e-3)
    square, product = (made.power(2).sum(1) / size).mean(), ((made * wanted).sum(1) / size).mean()
    return float(product / square), float(1 - product**2 / square)


_Row: TypeAlias = tuple[NDArray[np.int64], NDArray[np.float32]]
"""The entries of a sparse vector and their weights."""


def _nonzero(weights: NDArray[np.float32]) -> _Row:
    entries = np.flatnonzero(weights)
    return entries, weights[entries]


class _Network:
    """The network of a model folder."""

    def __init__(self, folder: Path) -> None:
        card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
        self.card = ModelCard(**ModelCard.known_fields(card))
        self._session = Session(folder / "model.onnx", activation=self.card.activation)

    def of_queries(self, texts: Sequence[NDArray[np.int64]]) -> sparse.csr_array:
        """Return the vectors of texts as queries, (texts, vocab)."""
        return self._vectors(texts, self._as_query)

    def of_texts(self, texts: Sequence[NDArray[np.int64]]) -> sparse.csr_array:
        """Return the vectors of texts as documents, (texts, vocab)."""
        return self._vectors(texts, _nonzero)

    def _vectors(
        self, texts: Sequence[NDArray[np.int64]], row_of: Callable[[NDArray[np.float32]], _Row]
    ) -> sparse.csr_array:
        """Return the vectors of texts; of an empty one nothing is computed.

        Args:
            texts: The token ids of each text, special ones included.
            row_of: Returns entries and weights of the vector, given the weights by the network.
        """
        read = [place for place, text in enumerate(texts) if len(text)]
        ends = np.cumsum([len(texts[place]) for place in read])
        store = TokenStore(np.concatenate(texts).astype(np.uint16), ends, "cpu")
        nothing = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.float32)
        rows = [nothing] * len(texts)
        width = 0
        for places, batch in store.of_one_length():
            for start in range(0, len(places), TEXTS_AT_ONCE):
                part = batch[start : start + TEXTS_AT_ONCE].numpy()
                weights = self._session.weights(part, np.ones_like(part))
                width = weights.shape[1]
                for place, row in zip(places[start:], weights, strict=False):
                    rows[read[place]] = row_of(row)
        return _rows(rows, width)

    def _as_query(self, weights: NDArray[np.float32]) -> _Row:
        entries = np.flatnonzero(weights)
        limit = self.card.query_max_active_dims
        if limit is not None and len(entries) > limit:
            entries = entries[np.argpartition(-weights[entries], limit)[:limit]]
        return entries, weights[entries] ** self.card.query_power


def write_folder(table: sparse.csr_array, model: Path, folder: Path, recipe: TableRecipe) -> None:
    """Write card and table of the model whose queries need no network.

    Args:
        table: Shape (vocab, vocab).
        model: The folder of the model that encodes the documents.
        folder: The folder to write; it is made where it is missing.
        recipe: Says how many weights a query keeps.
    """
    documents = json.loads((model / "card.json").read_text(encoding="utf-8"))
    folder.mkdir(parents=True, exist_ok=True)
    card = {
        "model": documents["model"] + NAME_SUFFIX,
        "license": documents["license"],
        "description": f"Documents by the network of {documents['model'].rpartition('/')[2]}, queries from a "
        "table; works offline.",
        "activation": documents["activation"],
        "query_side": "idf",
        "query_max_active_dims": recipe.max_active_dims,
        "precision": documents["precision"],
        "max_length": documents["max_length"],
        "vocab_size": documents["vocab_size"],
        "documents_by": documents["model"],
    }
    (folder / "card.json").write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
    expansions = _without_diagonal(table)
    _write_tensors(
        folder / "queries.safetensors",
        {
            "weight": table.diagonal().astype("<f4"),
            "expansion.ends": expansions.indptr[1:].astype("<i4"),
            "expansion.ids": expansions.indices.astype("<u2"),
            "expansion.weights": expansions.data.astype("<f2"),
        },
    )


def _write_tensors(file: Path, tensors: dict[str, NDArray[Any]]) -> None:
    """Write flat tensors in the format of safetensors."""
    names = {"<f4": "F32", "<f2": "F16", "<i4": "I32", "<u2": "U16"}
    header: dict[str, Any] = {}
    body = b""
    for name, values in tensors.items():
        data = values.tobytes()
        header[name] = {
            "dtype": names[values.dtype.newbyteorder("<").str],
            "shape": [len(values)],
            "data_offsets": [len(body), len(body) + len(data)],
        }
        body += data
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    file.write_bytes(len(encoded).to_bytes(8, "little") + encoded + body)


def _cached(
    file: Path,
    vectors: Callable[[Sequence[NDArray[np.int64]]], sparse.csr_array],
    texts: Sequence[NDArray[np.int64]],
) -> sparse.csr_array:
    """Return the vectors of texts; they are kept in the file."""
    if not file.exists():
        temporary = file.with_suffix(".tmp.npz")
        sparse.save_npz(temporary, vectors(texts))
        temporary.replace(file)
    return sparse.csr_array(sparse.load_npz(file))


def _each_token(frequency: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Return each token that texts hold as a text: [CLS], the token, [SEP]; of others an empty one."""
    lists = ([101, token, 102] if texts else [] for token, texts in enumerate(frequency))
    return [np.array(ids, dtype=np.int64) for ids in lists]


@dataclass(frozen=True)
class _Chosen:
    """The queries and texts of a pool that are used, as token ids; see `Candidates` for the rest."""

    queries: list[NDArray[np.int64]]
    texts: list[NDArray[np.int64]]
    answers: NDArray[np.int64]
    cut_from: NDArray[np.int64]

    @classmethod
    def of_pool(cls, pool: Path, recipe: TableRecipe) -> _Chosen:
        """Choose some queries of each source, the texts that answer them and some others, shuffled."""
        stored, texts = np.load(pool / "queries.npz"), np.load(pool / "texts.npz")
        random = np.random.default_rng(recipe.seed)
        of_sources = [
            random.permutation(np.flatnonzero(stored["source"] == number))[
                : MAX_QUERIES.get(name, OTHER_QUERIES)
            ]
            for number, name in enumerate(stored["sources"].tolist())
        ]
        queries = random.permutation(np.concatenate(of_sources))
        answers = stored["answer"][queries]
        needed = np.unique(answers[answers >= 0])
        others = np.setdiff1d(np.arange(len(texts["text_end"])), needed)
        chosen = random.permutation(np.concatenate([needed, random.permutation(others)[:OTHER_TEXTS]]))
        chosen = chosen[: recipe.texts]
        # The last place is for -1, a query without such a text.
        place_of = np.full(len(texts["text_end"]) + 1, -1)
        place_of[chosen] = np.arange(len(chosen))
        query_ids = np.split(stored["query"].astype(np.int64), stored["query_end"][:-1])
        text_ids = np.split(texts["text"].astype(np.int64), texts["text_end"][:-1])
        return cls(
            [query_ids[row] for row in queries],
            [text_ids[row] for row in chosen],
            place_of[answers],
            place_of[stored["cut_from"][queries]],
        )


def _tokens(texts: Sequence[NDArray[np.int64]], vocab: int) -> sparse.csr_array:
    lists = [np.setdiff1d(ids, SPECIAL_IDS) for ids in texts]
    return _rows([(part, np.ones(len(part), dtype=np.float32)) for part in lists], vocab)


def _rows(rows: Sequence[tuple[NDArray[np.int64], NDArray[np.float32]]], width: int) -> sparse.csr_array:
    ends = np.cumsum([0, *(len(entries) for entries, _ in rows)])
    entries = np.concatenate([entries for entries, _ in rows])
    values = np.concatenate([values for _, values in rows]).astype(np.float32)
    return sparse.csr_array((values, entries, ends), shape=(len(rows), width))


def _with_neighbours(start: sparse.csr_array, queries: Queries, recipe: TableRecipe) -> sparse.csr_array:
    """Add the entries that the network adds to queries with a token, where the start has none."""
    held = np.asarray(queries.tokens.sum(0)).ravel()
    added = sparse.csr_array(queries.vectors - queries.vectors.multiply(queries.tokens > 0))
    mean = np.asarray(added.sum(0)).ravel() / len(queries)
    # Five more queries without the entry: the mean of a few is uncertain.
    often = sparse.diags_array(np.where(held >= recipe.min_queries, 1 / (held + 5), 0))
    together = sparse.csr_array(often @ (queries.tokens.T @ added))
    together.data -= recipe.common * mean[together.indices]
    together = _largest(_without_diagonal(together), recipe.together)
    together.data *= together.data > 0.05
    unknown = together - together.multiply(start > 0)
    # A weight by the network is about half an IDF.
    return _positive(start + 2 * unknown)


def _pruned(table: sparse.csr_array, recipe: TableRecipe) -> sparse.csr_array:
    expansions = _largest(_without_diagonal(table), recipe.kept)
    expansions.data *= expansions.data > recipe.min_weight
    return _positive(_diagonal(table.diagonal()) + expansions)


def _diagonal(values: NDArray[np.float32]) -> sparse.csr_array:
    return _positive(sparse.csr_array(sparse.diags_array(values.astype(np.float32))))


def _without_diagonal(table: sparse.csr_array) -> sparse.csr_array:
    return _positive(sparse.csr_array(table - sparse.diags_array(table.diagonal())))


def _positive(table: sparse.csr_array) -> sparse.csr_array:
    """Return a table without its entries of 0 and below, sorted by column."""
    kept = sparse.csr_array(table, dtype=np.float32)
    kept.data[kept.data <= 0] = 0
    kept.eliminate_zeros()
    kept.sort_indices()
    return kept


def _largest(table: sparse.csr_array, kept: int) -> sparse.csr_array:
    """Return the largest entries of each row."""
    table = sparse.csr_array(table)
    rows = np.repeat(np.arange(table.shape[0]), np.diff(table.indptr))
    order = np.lexsort((-table.data, rows))
    rank = np.arange(len(order)) - table.indptr[rows[order]]
    result = table.copy()
    result.data[order[rank >= kept]] = 0
    return _positive(result)


if __name__ == "__main__":
    main()
