"""Exports a checkpoint: graph, tokenizer, card and table of query weights, compared with PyTorch first."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from splade_retriever.encoding.model_cards import Activation, ModelCard, Precision
from splade_retriever.encoding.onnx.onnx_wire import external_files
from splade_retriever.encoding.onnx.pooled_model import forget_graphs, write_pooled
from splade_retriever.encoding.query_weights import QueryWeights
from splade_retriever.encoding.text_embedding import SparseTextEmbedding
from splade_retriever.encoding.tokenizer import Tokenizer
from splade_retriever.errors import InputError, ModelOutputError, SpladeError, StorageError
from splade_retriever.exporting.network import (
    MAX_FILE_BYTES,
    check_code,
    check_vocabulary,
    export_graph,
    load_network,
    load_tokenizer,
    quiet,
)
from splade_retriever.exporting.reference import Reference, reference
from splade_retriever.exporting.source import Source, find_source
from splade_retriever.exporting.texts import TEXTS

__all__ = ["ExportReport", "export_model"]

FloatArray = NDArray[np.float32]

_TOLERANCE: Final = 1e-3
_MIN_COSINE: Final = 0.95
"""int8 of published models has a mean cosine of .98 and more; a graph that lost a part is far below."""


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What was written.

    Attributes:
        folder: The model folder.
        card: The description of the model, as in its `card.json`.
        library: The library whose weights the export was compared with.
        texts: Number of texts that were compared.
        max_difference: The largest difference of any weight, in fp32.
        cosine: Mean cosine between vectors of the int8 graph and of PyTorch; None for an fp32 export.
        size: Bytes of all files.
    """

    folder: Path
    card: ModelCard
    library: str
    texts: int
    max_difference: float
    cosine: float | None
    size: int


def export_model(
    model: str | Path,
    target: str | Path,
    *,
    int8: bool = False,
    activation: Activation | None = None,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    accept_license: bool = False,
    trust_remote_code: bool = False,
    texts: Sequence[str] = TEXTS,
    max_file_bytes: int = MAX_FILE_BYTES,
    on_step: Callable[[str], None] = lambda step: None,
) -> ExportReport:
    """Export a SPLADE model to a new folder; nothing is written unless its weights equal PyTorch's.

    Args:
        model: A folder, a name of the catalogue, or "owner/name" on the hub.
        target: The folder to write; it must not exist, or be empty.
        int8: Write the quantised, pooled graph alone: a quarter of the size, opened without rewriting.
            Otherwise the graph ends in logits and opens as fp32 or int8.
        activation: "log1p" or "log1p_log1p", for a model whose files do not state it.
        revision: The commit, branch or tag of the repository.
        cache_dir: The folder for downloads; None is huggingface_hub's cache.
        local_files_only: Never use the network.
        accept_license: You have read a non-commercial licence and comply with it.
        trust_remote_code: Run Python code that the model contains.
        texts: The texts to compare.
        max_file_bytes: See `export_graph`.
        on_step: Called with each step as a short sentence.

    Raises:
        InputError: If the target is not empty, or there is no text.
        LicenseError: If the licence is non-commercial and was not accepted.
        ModelFilesError: If a file is missing, damaged, or could not be downloaded.
        ModelGraphError: If the model is of a kind that cannot be exported.
        ModelOutputError: If the exported model returns other weights than PyTorch.
        StorageError: If the folder cannot be written.
    """
    folder = _new_folder(Path(target).expanduser())
    if isinstance(texts, str) or not texts:
        raise InputError("texts is empty or a str, expected a list of texts to compare.")
    on_step("Reading the checkpoint")
    source = find_source(
        model,
        activation=activation,
        revision=revision,
        cache_dir=cache_dir,
        local_files_only=local_files_only,
        accept_license=accept_license,
        trust_remote_code=trust_remote_code,
    )
    check_code(source.checkpoint.network, trusted=trust_remote_code)
    prefix = f".{folder.name}-"
    with _write_errors(folder), tempfile.TemporaryDirectory(prefix=prefix, dir=folder.parent) as temporary:
        work = Path(temporary, "model")
        work.mkdir()
        exporter = _Exporter(source, work, texts, trust_remote_code, on_step)
        report = exporter.run(int8=int8, max_file_bytes=max_file_bytes)
        if folder.exists():
            folder.rmdir()  # it is empty
        work.rename(folder)
    return replace(report, folder=folder)


def _new_folder(folder: Path) -> Path:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} exists and is not an empty folder. Name a new folder.")
    with _write_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def _write_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except SpladeError:  # some are OSErrors, too
        raise
    except OSError as error:
        raise StorageError(
            f"{folder} cannot be written: {error.strerror or error}. Make room, or choose a folder that can "
            f"be written."
        ) from error


@dataclass(frozen=True, slots=True)
class _Exporter:
    """One export, into a temporary folder."""

    source: Source
    folder: Path
    texts: Sequence[str]
    trust_remote_code: bool
    on_step: Callable[[str], None]

    def run(self, *, int8: bool, max_file_bytes: int) -> ExportReport:
        """Write all files and compare them."""
        self.on_step("Loading the network")
        network_folder = self.source.checkpoint.network
        with quiet():
            network = load_network(network_folder, trust_remote_code=self.trust_remote_code)
            tokenizer = load_tokenizer(network_folder, trust_remote_code=self.trust_remote_code)
        check_vocabulary(network, tokenizer, network_folder)
        # `save_pretrained` would write the settings of the last call; an export has no padding or truncation.
        tokenizer.backend_tokenizer.no_padding()
        tokenizer.backend_tokenizer.no_truncation()
        tokenizer.backend_tokenizer.save(str(self.folder / "tokenizer.json"))
        card = self._write_query_side(
            replace(self.source.card, vocab_size=int(network.config.vocab_size), precision="fp32")
        )
        self.on_step("Encoding the texts with PyTorch")
        expected = reference(
            self.source.folder,
            card,
            self.texts,
            network=network,
            tokenizer=tokenizer,
            trust_remote_code=self.trust_remote_code,
        )
        self.on_step("Writing the ONNX graph")
        export_graph(network, self.folder / "model.onnx", max_file_bytes=max_file_bytes)
        del network
        _write_card(self.folder, card, self.source, precision=None)
        self.on_step("Comparing the export with PyTorch")
        difference = _compare(self.folder, card, self.texts, expected)
        cosine = None
        if int8:
            self.on_step("Quantising to int8")
            cosine = self._quantise(card, expected)
            card = replace(card, precision="int8")
        for path in self.source.terms:
            shutil.copyfile(path, self.folder / path.name)
        size = sum(path.stat().st_size for path in self.folder.iterdir())
        return ExportReport(self.folder, card, expected.library, len(self.texts), difference, cosine, size)

    def _write_query_side(self, card: ModelCard) -> ModelCard:
        """Write the table of query weights; one of ones is no table."""
        table = self.source.checkpoint.query_weights
        if card.query_side != "idf" or table is None:
            return card
        tokenizer = Tokenizer.from_file(self.folder / "tokenizer.json", max_length=card.max_length)
        weights = QueryWeights.from_file(table, tokenizer.vocabulary, without=tokenizer.special_ids)
        content = weights.as_table(tokenizer.vocabulary)
        if len(content) + len(tokenizer.special_ids) >= tokenizer.vocab_size and set(content.values()) == {
            1.0
        }:
            return replace(card, query_side="ones")
        (self.folder / "idf.json").write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
        return card

    def _quantise(self, card: ModelCard, expected: Reference) -> float:
        """Replace the graph by its int8 form; return the mean cosine with PyTorch's vectors."""
        exact = [self.folder / "model.onnx", *external_files(self.folder / "model.onnx")]
        quantised = self.folder / "int8"
        quantised.mkdir()
        write_pooled(exact[0], quantised / "model.onnx", activation=card.activation, precision="int8")
        for path in exact:
            path.unlink()
        for path in quantised.iterdir():
            path.rename(self.folder / path.name)
        quantised.rmdir()
        _write_card(self.folder, card, self.source, precision="int8")
        model = SparseTextEmbedding(self.folder, accept_license=True)
        ours, theirs = _dense(model.embed(self.texts), card), _as_returned(expected.documents, model, card)
        cosine = float(np.mean(_cosines(ours, theirs)))
        if not cosine >= _MIN_COSINE:
            raise ModelOutputError(
                f"The int8 export of {card.model!r} has a mean cosine of {cosine:.3f} with PyTorch's "
                f"vectors, expected at least {_MIN_COSINE}. Nothing was written. Export it without --int8."
            )
        return cosine


def _write_card(folder: Path, card: ModelCard, source: Source, *, precision: Precision | None) -> None:
    content: dict[str, Any] = {
        "model": card.model,
        "license": card.license,
        "description": card.description,
        "activation": card.activation,
        "pooling": "max",
        "query_side": card.query_side,
        "query_max_active_dims": card.query_max_active_dims,
        "query_power": card.query_power,
        "zero_special_tokens": card.zero_special_tokens,
        "max_length": card.max_length,
        "vocab_size": card.vocab_size,
        "exported_from": {"repository": source.repository, "commit": source.commit},
    }
    if precision is not None:
        content["precision"] = precision  # states that the graph is pooled and is opened unchanged
    (folder / "card.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _compare(folder: Path, card: ModelCard, texts: Sequence[str], expected: Reference) -> float:
    """Return the largest difference to PyTorch's weights.

    Raises:
        ModelOutputError: If it is too large, or the model has no weight for any text.
    """
    sides = {"document": expected.documents, "query": expected.queries}
    try:
        model = SparseTextEmbedding(folder, accept_license=True)
        returned = {"document": model.embed(texts), "query": model.query_embed(texts)}
        largest = 0.0
        for side, weights in sides.items():
            if weights is not None:
                theirs = _as_returned(weights, model, card)
                differences = _differences(_dense(returned[side], card), theirs, card, expected.library)
                worst = int(differences.argmax())
                largest = max(largest, float(differences[worst]))
                if not largest <= _TOLERANCE * max(1.0, float(theirs.max())):
                    raise ModelOutputError(
                        f"The export of {card.model!r} returns other {side} weights than "
                        f"{expected.library}: they differ by {largest:.3g} for the text "
                        f"{texts[worst][:60]!r}. Nothing was written. The model may need a prompt, another "
                        f"maximum length or another tokenizer than its files state."
                    )
    finally:
        forget_graphs(folder / "model.onnx")
    return largest


def _differences(ours: FloatArray, theirs: FloatArray, card: ModelCard, library: str) -> FloatArray:
    """Return the largest difference for each text."""
    if ours.shape != theirs.shape or not theirs.max() > 0:
        raise ModelOutputError(
            f"{library} returned vectors of shape {theirs.shape} for {card.model!r}, with a largest weight "
            f"of {float(theirs.max()):.3g}; expected shape {ours.shape} and weights above 0. Nothing was "
            f"written."
        )
    largest: FloatArray = np.abs(ours - theirs).max(axis=1)
    return largest


def _as_returned(weights: FloatArray, model: SparseTextEmbedding, card: ModelCard) -> FloatArray:
    """Return a reference without the weights of special tokens, where the card leaves them out."""
    weights = weights.copy()
    if card.zero_special_tokens:
        weights[:, [token_id for token_id in model.tokenizer.special_ids if token_id < weights.shape[1]]] = 0
    return weights


def _dense(vectors: Any, card: ModelCard) -> FloatArray:
    rows = []
    for vector in vectors:
        row = np.zeros(card.vocab_size, dtype=np.float32)
        row[vector.indices] = vector.values
        rows.append(row)
    return np.stack(rows)


def _cosines(ours: FloatArray, theirs: FloatArray) -> FloatArray:
    lengths = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
    cosines: FloatArray = (ours * theirs).sum(axis=1) / np.maximum(lengths, 1e-9)
    return cosines
