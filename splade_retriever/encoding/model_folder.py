"""Reads a model folder: which file is which, and which kind of model it holds.

Supported are folders of this package (`card.json`), folders that sentence-transformers' SparseEncoder saves
(`modules.json`, `1_SpladePooling/config.json`, `router_config.json`), snapshots of the hub, and a bare
`model.onnx` beside a `tokenizer.json`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from splade_retriever.encoding.model_cards import Activation, ModelCard
from splade_retriever.encoding.onnx.onnx_wire import read_summary
from splade_retriever.errors import ModelFilesError, ModelGraphError

__all__ = ["DIGEST", "ModelFolder", "export_help", "find_model", "open_folder"]

DIGEST: Final = "sha256:"
"""Prefix of the revision of a folder, which is a digest of its files and not a commit."""
_PLACES: Final = ("", "onnx/")
_ACTIVATIONS: Final[Mapping[str, Activation]] = {"relu": "log1p", "log1p_relu": "log1p_log1p"}
_STATIC: Final = ("SparseStaticEmbedding", "IDF")
_POOLED: Final = ".pooled-"
"""Part of the names of the graphs that this package caches beside a model."""
_NO_LIMIT: Final = 1_000_000
"""transformers writes 1e30 for "no limit"; no model reads a million tokens."""
_PADDED_POSITIONS: Final = ("roberta", "xlm-roberta", "camembert", "mpnet")
"""Architectures whose positions start after the padding id, so that two embeddings are not used."""


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """The files of one model.

    Attributes:
        card: The description of the model.
        model: The ONNX file; None where it has not been downloaded yet.
        tokenizer: The tokenizer file.
        query_weights: The table of query weights, `idf.json` or a safetensors file; None where queries go
            through the network, or each token weighs 1.0.
        finished: Whether the ONNX file is pooled already and is opened unchanged.
    """

    card: ModelCard
    model: Path | None
    tokenizer: Path
    query_weights: Path | None = None
    finished: bool = False

    def digest(self) -> str:
        """Return a digest of the files, which changes with every byte that decides a vector."""
        combined = hashlib.sha256()
        weights = [] if self.model is None else [self.model, *_external_files(self.model)]
        for path in (*weights, self.tokenizer, self.query_weights):
            if path is not None:
                with path.open("rb") as file:
                    combined.update(hashlib.file_digest(file, "sha256").digest())
        return f"{DIGEST}{combined.hexdigest()[:32]}"


def _external_files(model: Path) -> list[Path]:
    """Return the files beside an ONNX file that hold its weights; missing ones are left out."""
    files = (model.parent / name for name in sorted(read_summary(model).external_files))
    return [path for path in files if path.is_file()]


def find_model(folder: Path, names: Sequence[str]) -> Path:
    """Find the ONNX file of a folder.

    Args:
        folder: The model's folder.
        names: File names in order of preference; each is looked up in the folder, then in `onnx/`.

    Raises:
        ModelFilesError: If there is none, or several of other names; the message lists them.
    """
    for name in names:
        for place in _PLACES:
            if (folder / place / name).is_file():
                return folder / place / name
    others = sorted(
        path for place in _PLACES for path in (folder / place).glob("*.onnx") if _POOLED not in path.name
    )
    if len(others) == 1:
        return others[0]
    listed = ", ".join(str(path.relative_to(folder)) for path in others) or "none"
    raise ModelFilesError(
        f"The model folder {folder} has no {' or '.join(names)}, neither directly nor under onnx/ (ONNX "
        f"files found: {listed}). Name the file with model_file in a card.json, or export the model: "
        f"{_EXPORT}"
    )


_EXPORT: Final = (
    "pip install 'sentence-transformers[onnx]', then in Python "
    "`SparseEncoder(NAME, backend='onnx').save_pretrained(FOLDER)`, or "
    "`optimum-cli export onnx --model NAME --task fill-mask FOLDER`."
)


def export_help(card: ModelCard) -> str:
    """Return the message of how to export a model that publishes no ONNX file."""
    return (
        f"Model {card.model!r} is published without an ONNX file. Export it once: "
        f"{_EXPORT.replace('NAME', repr(card.source), 1).replace('NAME', str(card.source))} "
        f"Then open it with SparseTextEmbedding({card.model!r}, specific_model_path=FOLDER)."
    )


def open_folder(folder: Path, card: ModelCard | None = None) -> ModelFolder:
    """Read a model folder.

    Args:
        folder: The model's folder.
        card: The description of the model, if known; None to read it from the files.

    Raises:
        ModelFilesError: If a file is missing or cannot be read, or no file states how the model is pooled.
        ModelGraphError: If the model is pooled in a way that is not supported.
    """
    if not folder.is_dir():
        raise ModelFilesError(f"There is no model folder {folder}. Check the path.")
    card_file = _read_json(folder / "card.json")
    finished = card_file is not None and "precision" in card_file
    routes = _Routes.read(folder)
    root = routes.document or folder
    if card is None:
        card = _detect(folder, card_file, routes)
    elif limit := _positions(_read_json(folder / "config.json") or _read_json(root / "config.json") or {}):
        card = replace(card, max_length=min(card.max_length, limit))
    return ModelFolder(
        card=card,
        model=find_model(root, list(dict.fromkeys([Path(card.model_file).name, "model.onnx"]))),
        tokenizer=_first(
            [folder / "tokenizer.json", root / "tokenizer.json"],
            f"The model folder {folder} has no tokenizer.json. Save it with "
            f"`AutoTokenizer.from_pretrained(NAME).save_pretrained({str(folder)!r})`.",
        ),
        query_weights=_query_weights(folder, card, routes),
        finished=finished,
    )


@dataclass(frozen=True, slots=True)
class _Routes:
    """The routes of a `router_config.json`: a folder for documents, and how queries are encoded."""

    document: Path | None = None
    pooling: Path | None = None
    query: Path | None = None

    @classmethod
    def read(cls, folder: Path) -> _Routes:
        """Read a folder of sentence-transformers; without a router all routes are None.

        Raises:
            ModelGraphError: If queries have a separate network.
        """
        router = _read_json(folder / "router_config.json")
        if router is None:
            pooling = sorted(folder.glob("*_SpladePooling/config.json"))
            return cls(pooling=pooling[0] if pooling else None)
        types, structure = router.get("types", {}), router.get("structure", {})
        document, query = structure.get("document", []), structure.get("query", [])
        kind = {name: str(types.get(name, "")).rpartition(".")[2] for name in [*document, *query]}
        static = [name for name in query if kind[name] in _STATIC]
        if query and not static and query[:1] != document[:1]:
            raise ModelGraphError(
                f"The model in {folder} encodes queries with a separate network ({query[0]}), which is not "
                f"supported. Open the folder of each network as a separate model."
            )
        pooling_name = next((name for name in document if kind[name] == "SpladePooling"), None)
        inner = folder / document[0] if document else folder
        return cls(
            document=inner if inner.is_dir() and any(inner.glob("**/*.onnx")) else None,
            pooling=folder / pooling_name / "config.json" if pooling_name else None,
            query=folder / static[0] if static else None,
        )


def _detect(folder: Path, card_file: Mapping[str, Any] | None, routes: _Routes) -> ModelCard:
    """Make a card from the files of a folder; the fields of a `card.json` win."""
    stated = ModelCard.known_fields(card_file or {})
    inner = routes.document or folder
    config = _read_json(folder / "config.json") or _read_json(inner / "config.json") or {}
    _check_architecture(folder, config)
    asymmetric = routes.query is not None or (folder / "idf.json").is_file()
    detected: dict[str, Any] = {
        "model": folder.resolve().name,
        "vocab_size": int(config.get("vocab_size", 0)),
        "max_length": _max_length(folder, inner, config),
        "query_side": "idf" if asymmetric else "symmetric",
        "zero_special_tokens": asymmetric,
    }
    if "activation" not in stated:
        detected["activation"] = _activation(folder, routes, asymmetric=asymmetric)
    try:
        return ModelCard(**{**detected, **stated})
    except TypeError as error:
        raise ModelFilesError(
            f"The card {folder / 'card.json'} is not valid: {error}. Correct it."
        ) from error


def _check_architecture(folder: Path, config: Mapping[str, Any]) -> None:
    architectures = config.get("architectures") or []
    if architectures and not any("MaskedLM" in str(name) for name in architectures):
        raise ModelFilesError(
            f"The config.json in {folder} names the architecture {architectures[0]}, expected a masked "
            f"language model (...ForMaskedLM). Export the model with its language head (task fill-mask)."
        )


def _activation(folder: Path, routes: _Routes, *, asymmetric: bool) -> Activation:
    if routes.pooling is None:
        if asymmetric:
            raise ModelFilesError(
                f"The model in {folder} has a table of query weights, and no file states its activation, "
                f"which "
                f'decides the ranking. Add a card.json with {{"activation": "log1p"}} or "log1p_log1p" (the '
                f"third OpenSearch series), or open it by name with specific_model_path={str(folder)!r}."
            )
        return "log1p"
    pooling = _read_json(routes.pooling) or {}
    if pooling.get("pooling_strategy", "max") != "max":
        raise ModelGraphError(
            f"The model in {folder} pools by {pooling['pooling_strategy']!r}, expected 'max'. Use a "
            f"model of SPLADE v2 or later."
        )
    name = str(pooling.get("activation_function", "relu"))
    if name not in _ACTIVATIONS:
        raise ModelGraphError(
            f"The model in {folder} has the activation {name!r}, expected {' or '.join(_ACTIVATIONS)}. "
            f"Use another model."
        )
    return _ACTIVATIONS[name]


def _max_length(folder: Path, inner: Path, config: Mapping[str, Any]) -> int:
    """Return the smallest limit that any file states; 512 if none does."""
    limits = [_positions(config)]
    for place in dict.fromkeys((folder, inner)):
        limits.append((_read_json(place / "sentence_bert_config.json") or {}).get("max_seq_length"))
        limits.append((_read_json(place / "tokenizer_config.json") or {}).get("model_max_length"))
    usable = [int(limit) for limit in limits if isinstance(limit, int | float) and 0 < limit < _NO_LIMIT]
    return min(usable, default=512)


def _positions(config: Mapping[str, Any]) -> int | None:
    positions = config.get("max_position_embeddings")
    if not isinstance(positions, int) or positions < 1:
        return None
    return positions - (2 if config.get("model_type") in _PADDED_POSITIONS else 0)


def _query_weights(folder: Path, card: ModelCard, routes: _Routes) -> Path | None:
    if card.query_side != "idf":
        return None
    if routes.query is not None:
        stated = (_read_json(routes.query / "config.json") or {}).get("path")
        inside = [routes.query / "model.safetensors"]
        if isinstance(stated, str):
            inside.insert(0, routes.query / Path(stated).name)
    else:
        inside = []
    return _first(
        [*inside, folder / "idf.json"],
        f"Model {card.model!r} needs a table of query weights, and {folder} has no idf.json. Download that "
        f"file from the model's repository.",
    )


def _first(paths: Sequence[Path], message: str) -> Path:
    for path in paths:
        if path.is_file():
            return path
    raise ModelFilesError(message)


def _read_json(path: Path) -> dict[str, Any] | None:
    """Read a JSON object; None if there is no such file."""
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelFilesError(f"{path} is not valid JSON: {error}. Download or write it again.") from error
    if not isinstance(content, dict):
        raise ModelFilesError(
            f"{path} holds a {type(content).__name__}, expected a JSON object. Download or write it again."
        )
    return content
