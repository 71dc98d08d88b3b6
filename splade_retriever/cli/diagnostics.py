"""Facts about an index and about this installation, for `splade info` and `splade doctor`."""

from __future__ import annotations

import os
import platform
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from splade_retriever import __version__
from splade_retriever.edge.disk_usage import disk_usage
from splade_retriever.index.collection_settings import COMPARED_SETTINGS, CollectionSettings
from splade_retriever.validation import is_url

if TYPE_CHECKING:
    from splade_retriever.index.splade_index import SpladeIndex

__all__ = ["Check", "check_all", "describe"]

_PACKAGES: Final = (
    "onnxruntime",
    "tokenizers",
    "numpy",
    "qdrant-client",
    "qdrant-edge-py",
    "huggingface-hub",
)
_FRAMEWORKS: Final = ("langchain-core", "llama-index-core")
_FAST_INT8: Final = ("avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm")
"""Processor flags that make int8 models about twice as fast."""


@dataclass(frozen=True, slots=True)
class Check:
    """Result of one check."""

    name: str
    ok: bool
    found: str


def describe(index: SpladeIndex, location: str) -> dict[str, Any]:
    """Describe what an index holds and how it was made, as JSON values.

    Returns:
        index, collection, engine, documents, model (None where another program made the collection),
        second_model (None where there is none),
        encoder (its fingerprint), settings, and size_bytes (None on a server).
    """
    config = index.store.describe().config
    made_with = CollectionSettings.from_metadata(config.metadata, index.collection)
    vectors = config.params.sparse_vectors or {}
    storage = {name: getattr(params.index, "datatype", None) for name, params in vectors.items()}
    settings: dict[str, Any] = {}
    if made_with is not None:
        settings = {name: getattr(made_with, name) for name in COMPARED_SETTINGS}
        settings |= {"vector_name": made_with.vector_name, "dense_name": made_with.dense_name}
        settings["datatype"] = storage.get(made_with.vector_name)
        if made_with.second_encoder is not None:
            settings["second_name"] = made_with.second_name
    return {
        "index": location,
        "collection": index.collection,
        "engine": "Qdrant server" if is_url(location) else f"Qdrant Edge {_version('qdrant-edge-py')}",
        "documents": index.count(),
        "model": None if made_with is None else made_with.encoder.get("model"),
        "second_model": index.second_model_name,
        "encoder": None if made_with is None else dict(made_with.encoder),
        "settings": settings,
        "size_bytes": None if is_url(location) else disk_usage(Path(location)),
    }


def check_all() -> list[Check]:
    """Check everything that a first index and search need, and make both."""
    checks = [
        Check("splade-retriever", True, f"{__version__}, Python {platform.python_version()}"),
        _check_packages(),
        Check("frameworks", True, ", ".join(f"{name} {_version(name)}" for name in _FRAMEWORKS)),
        _check_processor(),
    ]
    checks.append(_attempted("model", _try_model))
    checks.append(_attempted("engine", _try_engine))
    offline = os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0")
    cache = os.environ.get("HF_HOME", "~/.cache/huggingface")
    download = "never downloaded (HF_HUB_OFFLINE)" if offline else "downloaded on first use"
    checks.append(Check("other models", True, f"{download}, stored in {cache}"))
    return checks


def _check_packages() -> Check:
    missing = [name for name in _PACKAGES if _version(name) == "not installed"]
    found = ", ".join(f"{name} {_version(name)}" for name in _PACKAGES)
    return Check("packages", not missing, found)


def _check_processor() -> Check:
    from splade_retriever.encoding.encode_stream import cores

    flags = _processor_flags()
    fast = [flag for flag in _FAST_INT8 if flag in flags]
    int8 = f"int8 instructions: {', '.join(fast)}" if fast else "no int8 instructions found"
    return Check("processor", True, f"{cores()} cores for this process, {platform.machine()}, {int8}")


def _processor_flags() -> set[str]:
    try:
        return set(Path("/proc/cpuinfo").read_text(encoding="utf-8").split())
    except OSError:  # only Linux has that file
        return set()


def _attempted(name: str, attempt: Callable[[], str]) -> Check:
    try:
        return Check(name, True, attempt())
    except Exception as error:  # noqa: BLE001 - any failure is the result of the check
        return Check(name, False, f"{type(error).__name__}: {error}")


def _try_model() -> str:
    from splade_retriever import SparseTextEmbedding

    started = time.perf_counter()
    model = SparseTextEmbedding()
    opened_s = time.perf_counter() - started
    (vector,) = model.embed(["The lander reached the surface of the Moon."])
    if not len(vector):
        raise ValueError("The bundled model returned no weights for a sentence; install the package again")
    heaviest = next(iter(model.tokens_and_weights(vector)))
    return (
        f"{model.model_name} ({model.precision}) opened in {opened_s:.1f} s; a sentence has {len(vector)} "
        f"tokens, the heaviest {heaviest!r}"
    )


def _try_engine() -> str:
    from splade_retriever import SpladeIndex

    texts = ["The lander reached the Moon.", "Bread is baked in the oven.", "The train leaves at noon."]
    with tempfile.TemporaryDirectory(prefix="splade-doctor-") as folder:
        with SpladeIndex(folder) as index:
            index.add(texts, ids=["moon", "bread", "train"])
        with SpladeIndex(folder, create=False) as index:
            started = time.perf_counter()
            hits = index.search("lunar landing", k=1)
            took_s = time.perf_counter() - started
            if index.count() != len(texts) or not hits or hits[0].id != "moon":
                raise ValueError(
                    f"3 documents were written, but a search returned {[hit.id for hit in hits]}"
                )
    return (
        f"Qdrant Edge wrote 3 documents, opened them again and found the right one in {1000 * took_s:.0f} ms"
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
