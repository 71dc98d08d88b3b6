"""Reads a model folder: which file is which, and which kind of model it holds.

Supported are folders of this package (`card.json`), folders that sentence-transformers' SparseEncoder saves
(`modules.json`, `1_SpladePooling/config.json`, `router_config.json`), snapshots of the hub, and a bare
`model.onnx` beside a `tokenizer.json`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, TypeGuard

from splade_retriever.encoding.model_cards import Activation, ModelCard
from splade_retriever.encoding.model_root import (
    MAX_TABLE_BYTES,
    MAX_TOKENIZER_BYTES,
    MAX_WEIGHTS_BYTES,
    ModelRoot,
    sha256,
)
from splade_retriever.encoding.onnx.onnx_wire import external_files, is_quantised
from splade_retriever.errors import InputError, ModelFilesError, ModelGraphError

__all__ = [
    "DIGEST",
    "QUERY_TABLE",
    "Checkpoint",
    "ModelFolder",
    "choose_model",
    "export_help",
    "find_model",
    "has_quantised_name",
    "open_checkpoint",
    "open_folder",
]

QUERY_TABLE: Final = "queries.safetensors"
"""The table of query weights of a folder of this package, which may expand."""
DIGEST: Final = "sha256:"
"""Prefix of the revision of a folder, which is a digest of its files and not a commit."""
_PLACES: Final = ("", "onnx/")
_QUANTISED_NAMES: Final = (
    "model_quantized.onnx",
    "model_int8.onnx",
    "model_uint8.onnx",
    "model_qint8_avx512_vnni.onnx",
    "model_qint8_avx512.onnx",
    "model_quint8_avx2.onnx",
    "model_qint8_arm64.onnx",
)
_MODEL_NAMES: Final = (
    "model.onnx",
    *(f"model_O{level}.onnx" for level in (3, 2, 1)),
    "model_fp16.onnx",
    "model_O4.onnx",
    *_QUANTISED_NAMES,
)
"""Names that exporters give to ONNX files, the most exact first; O4 is optimised and in fp16."""
_ACTIVATIONS: Final[Mapping[str, Activation]] = {"relu": "log1p", "log1p_relu": "log1p_log1p"}
_STATIC: Final = ("SparseStaticEmbedding", "IDF")
_NETWORKS: Final = ("Transformer", "MLMTransformer")
_MODULES: Final = (*_NETWORKS, "SpladePooling", "Router", *_STATIC)
_NO_LIMIT: Final = 1_000_000
"""transformers writes 1e30 for "no limit"; no model reads a million tokens."""
_PADDED_POSITIONS: Final = ("roberta", "xlm-roberta", "camembert", "mpnet")
"""Architectures whose positions start after the padding id, so that two embeddings are not used."""


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """The files of one model.

    Attributes:
        path: The folder that they lie in.
        card: The description of the model.
        model: The ONNX file; None where it has not been downloaded yet.
        tokenizer: The tokenizer file.
        query_weights: The table of query weights, `idf.json` or a safetensors file; None where queries go
            through the network, or each token weighs 1.0.
        finished: Whether the ONNX file is pooled or quantised already, and is opened unchanged.
    """

    path: Path
    card: ModelCard
    model: Path | None
    tokenizer: Path
    query_weights: Path | None = None
    finished: bool = False

    @property
    def weight_files(self) -> list[Path]:
        """The ONNX file and the files beside it that hold its weights; empty before it is downloaded.

        Raises:
            ModelFilesError: If a weight file is missing, or not a regular file of the folder.
            ModelGraphError: If the ONNX file is damaged.
        """
        return [] if self.model is None else [self.model, *external_files(self.model)]

    def digest(self) -> str:
        """Return a digest of the files, which changes with every byte that decides a vector."""
        combined = hashlib.sha256()
        for path in (*self.weight_files, self.tokenizer, self.query_weights):
            if path is not None:
                combined.update(sha256(path))
        return f"{DIGEST}{combined.hexdigest()[:32]}"


def choose_model(names: Collection[str], preferred: str = "model.onnx") -> str | None:
    """Return the ONNX file to use of a repository: the preferred one, or the first of the known names.

    Args:
        names: All paths in the repository.
        preferred: The path that the card states.
    """
    if preferred in names:
        return preferred
    paths = (f"{place}{name}" for name in _MODEL_NAMES for place in _PLACES)
    return next((path for path in paths if path in names), None)


def has_quantised_name(model_file: str) -> bool:
    """Return whether the name of an ONNX file says that it is quantised, before it is downloaded."""
    return Path(model_file).name in _QUANTISED_NAMES


def find_model(root: ModelRoot, names: Sequence[str], *, inner: str = "") -> Path:
    """Find the ONNX file of a folder.

    Args:
        root: The model's folder.
        names: File names in order of preference; each is looked up in the folder, then in `onnx/`. The names
            that exporters use come after them.
        inner: A folder inside it to search instead.

    Raises:
        ModelFilesError: If there is none, or several of other names; the message lists them.
    """
    places = [Path(inner) / place for place in _PLACES]
    for name in dict.fromkeys([*names, *_MODEL_NAMES]):
        for place in places:
            if (path := root.find(place / name, max_bytes=MAX_WEIGHTS_BYTES)) is not None:
                return path
    others = sorted(place / path.name for place in places for path in (root.path / place).glob("*.onnx"))
    if len(others) == 1 and (path := root.find(others[0], max_bytes=MAX_WEIGHTS_BYTES)) is not None:
        return path
    raise ModelFilesError(
        f"The model folder {root.path / inner} has no {' or '.join(names)}, neither directly nor under onnx/ "
        f"(ONNX files found: {', '.join(map(str, others)) or 'none'}). Name the file with model_file in a "
        f"card.json, or export the model: `splade export {root.path} NEW_FOLDER` (extra `export`)."
    )


def export_help(card: ModelCard) -> str:
    """Return the message of how to export a model that publishes no ONNX file."""
    folder = card.model.rpartition("/")[2]
    accept = " --accept-license" if card.non_commercial else ""
    return (
        f"Model {card.model!r} is published without an ONNX file. Export it once with PyTorch: "
        f'pip install "splade-retriever[export]", then `splade export {card.model} {folder}{accept}`. '
        f"Then open the folder: SparseTextEmbedding({f'./{folder}'!r}"
        f"{', accept_license=True' if accept else ''})."
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
    root = ModelRoot(folder)
    card_file = root.read_json("card.json")
    finished = card_file is not None and "precision" in card_file
    routes = _Routes.read(root)
    if card is None:
        card = _detect(root, card_file, routes)
    elif limit := _positions(_config(root, routes)):
        card = replace(card, max_length=min(card.max_length, limit))
    model = find_model(root, [Path(card.model_file.replace("\\", "/")).name], inner=routes.document)
    if not finished and _is_quantised(model):
        card, finished = replace(card, precision="int8"), True
    return ModelFolder(
        path=folder,
        card=card,
        model=model,
        tokenizer=_first(
            root,
            [Path("tokenizer.json"), Path(routes.document, "tokenizer.json")],
            f"The model folder {folder} has no tokenizer.json. Save it with "
            f"`AutoTokenizer.from_pretrained(NAME).save_pretrained({str(folder)!r})`.",
            max_bytes=MAX_TOKENIZER_BYTES,
        ),
        query_weights=_query_weights(root, card, routes),
        finished=finished,
    )


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model that has not been exported to ONNX yet.

    Attributes:
        card: The description of the model.
        network: The folder of the network for documents: `config.json` and the weights.
        query_weights: As of `ModelFolder`.
    """

    card: ModelCard
    network: Path
    query_weights: Path | None


def open_checkpoint(
    folder: Path, card: ModelCard | None = None, *, activation: Activation | None = None
) -> Checkpoint:
    """Read a folder with PyTorch weights, as transformers and sentence-transformers save it.

    Args:
        folder: The folder.
        card: The description of the model, if known; None to read it from the files.
        activation: The activation, for a model whose files do not state it.

    Raises:
        ModelFilesError: If a file is missing or cannot be read, or no file states how the model is pooled.
        ModelGraphError: If the model is pooled in a way that is not supported.
    """
    root = ModelRoot(folder)
    _check_modules(root)
    routes = _Routes.read(root)
    if root.read_json(Path(routes.network, "config.json")) is None:
        raise ModelFilesError(
            f"{folder / routes.network} has no config.json, so it is not a model of transformers. Pass the "
            f"folder that `save_pretrained` wrote, or a name on the model hub."
        )
    if card is None:
        stated = dict(root.read_json("card.json") or {})
        card = _detect(root, {**stated, **({"activation": activation} if activation else {})}, routes)
    else:
        _check_architecture(folder, _config(root, routes))
        limit = _max_length(root, routes, _config(root, routes))
        card = replace(card, max_length=min(card.max_length, limit))
    return Checkpoint(card, folder / routes.network, _query_weights(root, card, routes))


def _check_modules(root: ModelRoot) -> None:
    """Check that sentence-transformers would run no module that is left out here."""
    path = root.find("modules.json", max_bytes=MAX_TABLE_BYTES)
    router = root.read_json("router_config.json") or {}
    try:
        modules = json.loads(path.read_text(encoding="utf-8")) if path else []
        kinds = [str(module["type"]) for module in modules] + list(map(str, router.get("types", {}).values()))
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ModelFilesError(
            f"{path} is not a list of modules of sentence-transformers: {error!r}. Download it again."
        ) from error
    other = [kind for kind in kinds if kind.rpartition(".")[2] not in _MODULES]
    if other:
        raise ModelGraphError(
            f"The model in {root.path} has the module {other[0]}, expected {', '.join(_MODULES)} only. It is "
            f"not a SPLADE model, or of a kind that is not supported."
        )


def _is_quantised(model: Path) -> bool:
    """Return whether a graph is quantised; a damaged one is reported when its session opens."""
    try:
        return is_quantised(model)
    except ModelGraphError:
        return False


@dataclass(frozen=True, slots=True)
class _Routes:
    """The routes of a `router_config.json`: folders for documents, pooling and queries.

    Attributes:
        document: The folder of the document network; "" is the model folder.
        network: The folder of its PyTorch weights.
        pooling: The folder of the pooling's `config.json`.
        query: The folder of the table of query weights.
    """

    document: str = ""
    network: str = ""
    pooling: str | None = None
    query: str | None = None

    @classmethod
    def read(cls, root: ModelRoot) -> _Routes:
        """Read a folder of sentence-transformers; without a router only the pooling is looked up.

        Raises:
            ModelFilesError: If the router is not of sentence-transformers' format.
            ModelGraphError: If queries have a separate network.
        """
        router = root.read_json("router_config.json")
        if router is None:
            pooling = sorted(path.parent.name for path in root.path.glob("*_SpladePooling/config.json"))
            return cls(pooling=pooling[0] if pooling else None)
        types, document, query = _parsed_router(root, router)
        kind = {name: str(types.get(name, "")).rpartition(".")[2] for name in [*document, *query]}
        static = [name for name in query if kind[name] in _STATIC]
        if query and not static and query[:1] != document[:1]:
            raise ModelGraphError(
                f"The model in {root.path} encodes queries with a separate network ({query[0]}), which is "
                f"not supported. Open the folder of each network as a separate model."
            )
        inner = root.path / document[0] if document else root.path
        return cls(
            document=document[0] if document and inner.is_dir() and _holds_onnx(inner) else "",
            network=document[0] if document and (inner / "config.json").is_file() else "",
            pooling=next((name for name in document if kind[name] == "SpladePooling"), None),
            query=static[0] if static else None,
        )


def _parsed_router(
    root: ModelRoot, router: Mapping[str, Any]
) -> tuple[Mapping[str, Any], list[str], list[str]]:
    """Return the types by name, and the names of the document and the query route."""
    types, structure = router.get("types", {}), router.get("structure", {})
    if isinstance(types, dict) and isinstance(structure, dict):
        routes = [structure.get(side, []) for side in ("document", "query")]
        if all(isinstance(route, list) and all(isinstance(name, str) for name in route) for route in routes):
            for name in (*routes[0], *routes[1]):
                root.check_name(name)
            return types, routes[0], routes[1]
    raise ModelFilesError(
        f"{root.path / 'router_config.json'} has no types and structure as sentence-transformers writes "
        f"them. Download or save the model again."
    )


def _holds_onnx(folder: Path) -> bool:
    return any(folder.glob("*.onnx")) or any(folder.glob("onnx/*.onnx"))


def _config(root: ModelRoot, routes: _Routes) -> dict[str, Any]:
    for folder in ("", routes.document, routes.network):
        config = root.read_json(Path(folder, "config.json"))
        if config:
            return config
    return {}


def _detect(root: ModelRoot, card_file: Mapping[str, Any] | None, routes: _Routes) -> ModelCard:
    """Make a card from the files of a folder; the fields of a `card.json` win."""
    stated = ModelCard.known_fields(card_file or {})
    config = _config(root, routes)
    _check_architecture(root.path, config)
    asymmetric = routes.query is not None or root.find("idf.json", max_bytes=MAX_TABLE_BYTES) is not None
    vocab_size = config.get("vocab_size", 0)
    detected: dict[str, Any] = {
        "model": root.path.resolve().name,
        "vocab_size": vocab_size if _is_int(vocab_size) and vocab_size > 0 else 0,
        "max_length": _max_length(root, routes, config),
        "query_side": "idf" if asymmetric else "symmetric",
        "zero_special_tokens": asymmetric,
    }
    if "activation" not in stated:
        detected["activation"] = _activation(root, routes, asymmetric=asymmetric)
    try:
        return ModelCard(**{**detected, **stated})
    except InputError as error:
        raise ModelFilesError(
            f"The card {root.path / 'card.json'} is not valid: {error} Correct that file."
        ) from error


def _check_architecture(folder: Path, config: Mapping[str, Any]) -> None:
    names = config.get("architectures")
    architectures = names if isinstance(names, list) else []
    if architectures and not any("MaskedLM" in str(name) for name in architectures):
        raise ModelFilesError(
            f"The config.json in {folder} names the architecture {architectures[0]}, expected a masked "
            f"language model (...ForMaskedLM). Export the model with its language head (task fill-mask)."
        )


def _activation(root: ModelRoot, routes: _Routes, *, asymmetric: bool) -> Activation:
    if routes.pooling is None:
        if asymmetric:
            raise ModelFilesError(
                f"The model in {root.path} has a table of query weights, and no file states its activation, "
                f'which decides the ranking. Add a card.json with {{"activation": "log1p"}} or '
                f'"log1p_log1p" (the third OpenSearch series), or open it by name with '
                f"specific_model_path={str(root.path)!r}."
            )
        return "log1p"
    pooling = root.read_json(Path(routes.pooling, "config.json")) or {}
    strategy, function = pooling.get("pooling_strategy", "max"), pooling.get("activation_function", "relu")
    if strategy != "max":
        raise ModelGraphError(
            f"The model in {root.path} pools by {strategy!r}, expected 'max'. Use a model of SPLADE v2 or "
            f"later."
        )
    if not isinstance(function, str) or function not in _ACTIVATIONS:
        raise ModelGraphError(
            f"The model in {root.path} has the activation {function!r}, expected "
            f"{' or '.join(_ACTIVATIONS)}. Use another model."
        )
    return _ACTIVATIONS[function]


def _max_length(root: ModelRoot, routes: _Routes, config: Mapping[str, Any]) -> int:
    """Return the smallest limit that any file states; 512 if none does."""
    limits: list[object] = [_positions(config)]
    for folder in dict.fromkeys(("", routes.document, routes.network)):
        for name, key in (
            ("sentence_bert_config.json", "max_seq_length"),
            ("tokenizer_config.json", "model_max_length"),
        ):
            limits.append((root.read_json(Path(folder, name)) or {}).get(key))
    usable = [
        int(limit)
        for limit in limits
        if isinstance(limit, int | float) and not isinstance(limit, bool) and 1 <= limit < _NO_LIMIT
    ]
    return min(usable, default=512)


def _positions(config: Mapping[str, Any]) -> int | None:
    positions = config.get("max_position_embeddings")
    if not _is_int(positions) or positions < 1:
        return None
    return max(1, positions - (2 if config.get("model_type") in _PADDED_POSITIONS else 0))


def _is_int(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _query_weights(root: ModelRoot, card: ModelCard, routes: _Routes) -> Path | None:
    if card.query_side != "idf":
        return None
    inside = []
    if routes.query is not None:
        inside = [Path(routes.query, "model.safetensors")]
        stated = (root.read_json(Path(routes.query, "config.json")) or {}).get("path")
        if isinstance(stated, str) and Path(stated).name:
            inside.insert(0, Path(routes.query, Path(stated).name))
    return _first(
        root,
        [*inside, Path(QUERY_TABLE), Path("idf.json")],
        f"Model {card.model!r} needs a table of query weights, and {root.path} has no idf.json. Download "
        f"that file from the model's repository.",
        max_bytes=MAX_TABLE_BYTES,
    )


def _first(root: ModelRoot, names: Sequence[Path], message: str, *, max_bytes: int) -> Path:
    for name in names:
        if (path := root.find(name, max_bytes=max_bytes)) is not None:
            return path
    raise ModelFilesError(message)
