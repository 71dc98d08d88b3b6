"""A model folder on this machine: which file is what, and what kind of model lies in it.

Understood are our own folders (`card.json`), folders that sentence-transformers' SparseEncoder saves
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
from splade_retriever.encoding.onnx.onnx_wire import outline
from splade_retriever.errors import ModelFilesError, ModelGraphError

__all__ = ["DIGEST", "ModelFolder", "export_help", "find_model", "open_folder"]

DIGEST: Final = "sha256:"
"""Begins the revision of a folder, which is a digest of its files, not a commit."""
_PLACES: Final = ("", "onnx/")
_ACTIVATIONS: Final[Mapping[str, Activation]] = {"relu": "log1p", "log1p_relu": "log1p_log1p"}
_STATIC: Final = ("SparseStaticEmbedding", "IDF")
_REWRITTEN: Final = ".pooled-"
"""Stands in the names of the graphs that this package keeps beside a model."""
_NO_LIMIT: Final = 1_000_000
"""transformers writes 1e30 for "no limit"; no model reads a million tokens."""
_PADDED_POSITIONS: Final = ("roberta", "xlm-roberta", "camembert", "mpnet")
"""Architectures whose positions start after the padding id, so that two embeddings are never used."""


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """The files of one model, found.

    Attributes:
        card: What the model is.
        model: The ONNX file; None where it has not been downloaded yet.
        tokenizer: The tokenizer file.
        query_weights: The table of query weights, `idf.json` or a safetensors file; None where queries go
            through the network, or weigh 1.0.
        finished: The ONNX file is pooled already, and opened as it is.
    """

    card: ModelCard
    model: Path | None
    tokenizer: Path
    query_weights: Path | None = None
    finished: bool = False

    def digest(self) -> str:
        """Say in one string what the files hold: it changes with any byte that decides a vector."""
        whole = hashlib.sha256()
        weights = [] if self.model is None else [self.model, *_external(self.model)]
        for path in (*weights, self.tokenizer, self.query_weights):
            if path is not None:
                with path.open("rb") as file:
                    whole.update(hashlib.file_digest(file, "sha256").digest())
        return f"{DIGEST}{whole.hexdigest()[:32]}"


def _external(model: Path) -> list[Path]:
    """Find the files beside an ONNX file that hold its weights; one that is not there has no content."""
    files = (model.parent / name for name in sorted(outline(model).external))
    return [path for path in files if path.is_file()]


def find_model(folder: Path, names: Sequence[str]) -> Path:
    """Find the ONNX file of a folder.

    Args:
        folder: The model's folder.
        names: File names in the order of preference; each is looked for in the folder, then in `onnx/`.

    Raises:
        ModelFilesError: If there is none, or several of other names; the message lists what lies there.
    """
    for name in names:
        for place in _PLACES:
            if (folder / place / name).is_file():
                return folder / place / name
    others = sorted(
        path for place in _PLACES for path in (folder / place).glob("*.onnx") if _REWRITTEN not in path.name
    )
    if len(others) == 1:
        return others[0]
    found = ", ".join(str(path.relative_to(folder)) for path in others) or "none"
    raise ModelFilesError(
        f"The model folder {folder} has no {' or '.join(names)}, also not under onnx/ (ONNX files found: "
        f"{found}). Name the file with model_file in a card.json, or export the model: {_EXPORT}"
    )


_EXPORT: Final = (
    "pip install 'sentence-transformers[onnx]', then in Python "
    "`SparseEncoder(NAME, backend='onnx').save_pretrained(FOLDER)`, or "
    "`optimum-cli export onnx --model NAME --task fill-mask FOLDER`."
)


def export_help(card: ModelCard) -> str:
    """Tell how to make an ONNX file of a model that publishes none."""
    return (
        f"Model {card.model!r} is published without an ONNX file. Export it once: "
        f"{_EXPORT.replace('NAME', repr(card.source), 1).replace('NAME', str(card.source))} "
        f"Then open it with SparseTextEmbedding({card.model!r}, specific_model_path=FOLDER)."
    )


def open_folder(folder: Path, card: ModelCard | None = None) -> ModelFolder:
    """Find out what lies in a folder.

    Args:
        folder: The model's folder.
        card: What the model is, where the caller knows; None to find out.

    Raises:
        ModelFilesError: If a file is missing or unreadable, or the files do not say how the model is pooled.
        ModelGraphError: If the model is pooled in a way that is not supported.
    """
    if not folder.is_dir():
        raise ModelFilesError(f"There is no model folder {folder}. Check the path.")
    own = _json(folder / "card.json")
    finished = own is not None and "precision" in own
    routes = _Routes.read(folder)
    root = routes.document or folder
    if card is None:
        card = _detect(folder, own, routes)
    elif limit := _positions(_json(folder / "config.json") or _json(root / "config.json") or {}):
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
    """What a `router_config.json` says: one folder for documents, and how queries are encoded."""

    document: Path | None = None
    pooling: Path | None = None
    query: Path | None = None

    @classmethod
    def read(cls, folder: Path) -> _Routes:
        """Read a folder of sentence-transformers; without a router all is None.

        Raises:
            ModelGraphError: If queries have a network of their own.
        """
        found = _json(folder / "router_config.json")
        if found is None:
            pooling = sorted(folder.glob("*_SpladePooling/config.json"))
            return cls(pooling=pooling[0] if pooling else None)
        types, structure = found.get("types", {}), found.get("structure", {})
        document, query = structure.get("document", []), structure.get("query", [])
        kind = {name: str(types.get(name, "")).rpartition(".")[2] for name in [*document, *query]}
        static = [name for name in query if kind[name] in _STATIC]
        if query and not static and query[:1] != document[:1]:
            raise ModelGraphError(
                f"The model in {folder} encodes queries with a network of their own ({query[0]}), which is "
                f"not supported. Open the folder of each network as a model of its own."
            )
        pooling_name = next((name for name in document if kind[name] == "SpladePooling"), None)
        inner = folder / document[0] if document else folder
        return cls(
            document=inner if inner.is_dir() and any(inner.glob("**/*.onnx")) else None,
            pooling=folder / pooling_name / "config.json" if pooling_name else None,
            query=folder / static[0] if static else None,
        )


def _detect(folder: Path, own: Mapping[str, Any] | None, routes: _Routes) -> ModelCard:
    """Make a card from what the files say; our own `card.json` has the last word."""
    stated = ModelCard.known_fields(own or {})
    inner = routes.document or folder
    config = _json(folder / "config.json") or _json(inner / "config.json") or {}
    _check_architecture(folder, config)
    asymmetric = routes.query is not None or (folder / "idf.json").is_file()
    found: dict[str, Any] = {
        "model": folder.resolve().name,
        "vocab_size": int(config.get("vocab_size", 0)),
        "max_length": _max_length(folder, inner, config),
        "query_side": "idf" if asymmetric else "symmetric",
        "zero_special_tokens": asymmetric,
    }
    if "activation" not in stated:
        found["activation"] = _activation(folder, routes, asymmetric=asymmetric)
    try:
        return ModelCard(**{**found, **stated})
    except TypeError as err:
        raise ModelFilesError(f"The card {folder / 'card.json'} cannot be used: {err}. Correct it.") from err


def _check_architecture(folder: Path, config: Mapping[str, Any]) -> None:
    architectures = config.get("architectures") or []
    if architectures and not any("MaskedLM" in str(name) for name in architectures):
        raise ModelFilesError(
            f"The model in {folder} is {architectures[0]} by its config.json, expected a masked language "
            f"model (...ForMaskedLM), which SPLADE is. Export the model with its language head (task "
            f"fill-mask)."
        )


def _activation(folder: Path, routes: _Routes, *, asymmetric: bool) -> Activation:
    if routes.pooling is None:
        if asymmetric:
            raise ModelFilesError(
                f"The model in {folder} has a table of query weights, and no file says its activation, which "
                f'decides the ranking. Add a card.json with {{"activation": "log1p"}} or "log1p_log1p" (the '
                f"third OpenSearch series), or open it by name with specific_model_path={str(folder)!r}."
            )
        return "log1p"
    pooling = _json(routes.pooling) or {}
    if pooling.get("pooling_strategy", "max") != "max":
        raise ModelGraphError(
            f"The model in {folder} pools by {pooling['pooling_strategy']!r}, expected 'max', the only "
            f"pooling supported. Use a model of SPLADE v2 or later."
        )
    name = str(pooling.get("activation_function", "relu"))
    if name not in _ACTIVATIONS:
        raise ModelGraphError(
            f"The model in {folder} has the activation {name!r}, expected {' or '.join(_ACTIVATIONS)}."
        )
    return _ACTIVATIONS[name]


def _max_length(folder: Path, inner: Path, config: Mapping[str, Any]) -> int:
    """Take the smallest limit that any file states; 512 where none does."""
    limits = [_positions(config)]
    for place in dict.fromkeys((folder, inner)):
        limits.append((_json(place / "sentence_bert_config.json") or {}).get("max_seq_length"))
        limits.append((_json(place / "tokenizer_config.json") or {}).get("model_max_length"))
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
        stated = (_json(routes.query / "config.json") or {}).get("path")
        inside = [routes.query / "model.safetensors"]
        if isinstance(stated, str):
            inside.insert(0, routes.query / Path(stated).name)
    else:
        inside = []
    return _first(
        [*inside, folder / "idf.json"],
        f"Model {card.model!r} weighs queries by a table, and {folder} has no idf.json. Fetch that file from "
        f"the model's repository.",
    )


def _first(paths: Sequence[Path], otherwise: str) -> Path:
    for path in paths:
        if path.is_file():
            return path
    raise ModelFilesError(otherwise)


def _json(path: Path) -> dict[str, Any] | None:
    """Read a JSON object; None where there is no such file."""
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as err:
        raise ModelFilesError(f"{path} is not readable JSON: {err}. Fetch or write it again.") from err
    if not isinstance(found, dict):
        raise ModelFilesError(f"{path} holds a {type(found).__name__}, expected a JSON object.")
    return found
