"""Prepare the training data: read, check against the evaluation collections, tokenise, order.

    python -m model_building.prepare --data TRAIN_FOLDER --evaluation EVAL_FOLDER --out runs/data

Each source is a folder with `pairs.jsonl.gz` ({"query", "text"}). A pair is dropped if its query equals an
evaluation query, or if its query or text shares thirteen consecutive words with an evaluation document or
query. The rows of a source are ordered by topic (k-means over TF-IDF components), so that neighbours are
hard negatives of each other in a batch.
"""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from model_building.minilm import minilm_folder
from model_building.overlap import Guard, read_jsonl
from model_building.sources import SOURCES

logger = logging.getLogger(__name__)

QUERY_TOKENS, TEXT_TOKENS = 48, 160


def main() -> None:
    """Parse the arguments, and write one `.npz` per source and the document frequencies."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--evaluation", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/data"))
    parser.add_argument("--seed", type=int, default=13)
    parser.add_argument("--share", type=float, default=1.0, help="share of the rows to keep, for a quick try")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    prepare(arguments.data, arguments.evaluation, arguments.out, seed=arguments.seed, share=arguments.share)


def prepare(data: Path, evaluation: Path, out: Path, *, seed: int = 13, share: float = 1.0) -> None:
    """Write the tokenised pairs of every source in `data`, and their numbers in `sources.json`."""
    out.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    guard = Guard(evaluation)
    tokenizer = Tokenizer.from_file(str(minilm_folder() / "tokenizer.json"))
    tokenizer.no_padding()
    frequency = np.zeros(tokenizer.get_vocab_size(), dtype=np.int64)
    documents = 0
    counts: dict[str, dict[str, int]] = {}
    for source in SOURCES:
        file = data / source.name / "pairs.jsonl.gz"
        if not file.exists():
            logger.info("%s: skipped, %s does not exist", source.name, file)
            continue
        rows = list(read_jsonl(file))
        pairs = [pair for pair in rows if guard.allows(pair["query"], pair["text"])]
        dropped = len(rows) - len(pairs)
        chosen = random.permutation(len(pairs))[: max(64, int(source.rows * share))]
        pairs = order_by_topic([pairs[i] for i in chosen], random)
        queries = tokenise(tokenizer, [pair["query"] for pair in pairs], QUERY_TOKENS)
        texts = tokenise(tokenizer, [document_text(pair) for pair in pairs], TEXT_TOKENS)
        for text in texts:
            frequency[np.unique(text)] += 1
        documents += len(texts)
        keys = np.array([hash_of(pair["text"]) for pair in pairs], dtype=np.uint64)
        columns: dict[str, Any] = {**flat("query", queries), **flat("text", texts), "text_key": keys}
        np.savez(out / f"{source.name}.npz", **columns)
        counts[source.name] = {"kept": len(pairs), "overlapping": dropped}
        logger.info(
            "%s: %d pairs kept, %d overlap with the evaluation collections", source.name, len(pairs), dropped
        )
    np.savez(out / "frequency.npz", frequency=frequency, documents=documents)
    (out / "sources.json").write_text(json.dumps(counts, indent=2) + "\n", encoding="utf-8")


def hash_of(text: str) -> int:
    """Return a 64-bit key of a text, the same in every process."""
    from hashlib import blake2b

    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big")


def order_by_topic(pairs: list[dict[str, str]], random: np.random.Generator) -> list[dict[str, str]]:
    """Order pairs so that neighbours have similar topics."""
    from sklearn.cluster import MiniBatchKMeans
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    seed = int(random.integers(2**31))
    clusters = max(1, len(pairs) // 400)
    counted = TfidfVectorizer(max_features=20_000, sublinear_tf=True, stop_words="english").fit_transform(
        [f"{pair['query']} {pair['text']}"[:1500] for pair in pairs]
    )
    components = TruncatedSVD(min(64, counted.shape[1] - 1), n_iter=2, random_state=seed).fit_transform(
        counted
    )
    topic = MiniBatchKMeans(clusters, n_init=1, random_state=seed, batch_size=4096).fit_predict(components)
    return [pairs[i] for i in np.lexsort((random.random(len(pairs)), topic))]


def document_text(pair: dict[str, str]) -> str:
    """Return the text of a pair or a passage, with its title in front."""
    title = pair.get("title") or ""
    return (
        f"{title} {pair['text']}"
        if title and title.lower() not in pair["text"][:200].lower()
        else pair["text"]
    )


def tokenise(tokenizer: Tokenizer, texts: list[str], limit: int) -> list[list[int]]:
    """Return the token ids of texts, truncated to a limit."""
    tokenizer.enable_truncation(limit)
    return [encoding.ids for encoding in tokenizer.encode_batch(texts)]


def flat(name: str, rows: list[list[int]]) -> dict[str, NDArray[np.generic]]:
    """Return rows of token ids, joined, and where each ends, by the names under which they are stored."""
    ends = np.cumsum([len(row) for row in rows])
    return {name: np.concatenate([np.asarray(row, np.uint16) for row in rows]), f"{name}_end": ends}


if __name__ == "__main__":
    main()
