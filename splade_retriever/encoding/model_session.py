"""Opens the ONNX session of a model's files, and shares it within the process."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias
from weakref import WeakValueDictionary

from splade_retriever.encoding.model_cards import Activation, Precision
from splade_retriever.encoding.model_files import ModelFiles
from splade_retriever.encoding.model_root import content_stamp
from splade_retriever.encoding.onnx.onnx_wire import external_files
from splade_retriever.errors import InputError, ModelGraphError

if TYPE_CHECKING:
    from splade_retriever.encoding.batch_plan import BatchPlan
    from splade_retriever.encoding.session import DeviceSessions, Provider, ProviderArgument, Session

__all__ = ["SharedSessions"]

logger = logging.getLogger(__name__)

_WITHOUT_INT8: Final = (
    "CUDAExecutionProvider",
    "TensorrtExecutionProvider",
    "NvTensorRTRTXExecutionProvider",
    "ROCMExecutionProvider",
    "MIGraphXExecutionProvider",
)

_Key: TypeAlias = tuple[object, ...]


class SharedSessions:
    """The open sessions: encoders of the same file and settings share a session, and its copy of the weights.

    A session is closed with the last encoder that uses it. A forked child opens its own: the threads of the
    parent, which may hold the locks of its sessions, do not exist in the child.
    """

    def __init__(self) -> None:
        # By process id; setdefault is atomic, so this needs no lock, which a fork could leave locked.
        self._by_process: dict[int, _ProcessSessions] = {}

    def open(
        self,
        files: ModelFiles,
        *,
        precision: Precision,
        providers: Sequence[ProviderArgument] | None = None,
        device_ids: Sequence[int] | None = None,
        cpu_mem_arena: bool = True,
    ) -> tuple[Session | DeviceSessions, BatchPlan]:
        """Return the session of a model, and the limits of its batches.

        The graph of a published model is rewritten once before.

        Args:
            files: The model's files; the ONNX file is downloaded if that was left for later.
            precision: "fp32", "fp16" or "int8".
            providers: ONNX Runtime execution providers, used exactly as given.
            device_ids: Devices of the first provider, each with a session; None is the provider's default.
            cpu_mem_arena: Whether ONNX Runtime keeps freed memory for later calls.

        Raises:
            InputError: If `providers` are not valid, or have no products for `precision`.
            ModelFilesError: If a file is missing, could not be downloaded, or changed since the model was
                opened.
            ModelGraphError: If the ONNX file cannot be opened or quantised.
        """
        from splade_retriever.encoding.batch_plan import plan_batches
        from splade_retriever.encoding.session import (
            PROCESSOR,
            DeviceSessions,
            checked_providers,
            on_devices,
        )

        chosen = checked_providers(providers)
        _check_precision(precision, chosen)
        devices = on_devices(chosen, device_ids) if device_ids else [chosen]
        card, graph = files.card, files.onnx_file()
        process = self._by_process.setdefault(os.getpid(), _ProcessSessions())
        # Threads that open the same model wait for one of them to rewrite and load it.
        with process.opening((graph, card.activation, precision, *chosen)):
            if not (files.folder.finished and precision == card.precision):
                graph = _pooled(graph, files, precision, screened=[one.name for one in chosen] == [PROCESSOR])
            files.check_unchanged()
            sessions = [
                process.session(
                    graph, providers=on_device, activation=card.activation, cpu_mem_arena=cpu_mem_arena
                )
                for on_device in devices
            ]
            files.check_unchanged()
            # The memory that is free once the weights are on the devices.
            plan = plan_batches(devices)
            return sessions[0] if len(sessions) == 1 else DeviceSessions(sessions), plan


class _ProcessSessions:
    """The open sessions of one process, and a lock for each model that is being opened."""

    def __init__(self) -> None:
        self.sessions: WeakValueDictionary[_Key, Session] = WeakValueDictionary()
        self._opening: dict[_Key, threading.Lock] = {}

    def session(
        self, graph: Path, *, providers: Sequence[Provider], activation: Activation, cpu_mem_arena: bool
    ) -> Session:
        """Return the session of a graph and its settings, opened if it is not open yet."""
        from splade_retriever.encoding.session import Session

        key = (_identity(graph), activation, cpu_mem_arena, *providers)
        session = self.sessions.get(key)
        if session is None:
            session = Session(graph, providers=providers, activation=activation, cpu_mem_arena=cpu_mem_arena)
            self.sessions[key] = session
        return session

    def opening(self, key: _Key) -> threading.Lock:
        return self._opening.setdefault(key, threading.Lock())


def _check_precision(precision: Precision, providers: Sequence[Provider]) -> None:
    """Check that the first provider computes a precision itself.

    ONNX Runtime runs on the processor, without a word, what a provider does not have.
    """
    first = providers[0].name
    if precision == "int8" and first in _WITHOUT_INT8:
        raise InputError(
            f"precision is 'int8', and {first} has no products of 8-bit codes, which would run on the "
            f"processor instead. Pass precision='fp16', or leave providers= out. A model that "
            f"exists only as int8, such as the bundled one, runs on the processor."
        )


def _identity(graph: Path) -> _Key:
    """Return what identifies the content of a graph and its weight files, without reading them."""
    return tuple((str(path), content_stamp(path)) for path in (graph, *external_files(graph)))


def _pooled(source: Path, files: ModelFiles, precision: Precision, *, screened: bool) -> Path:
    from splade_retriever.encoding.onnx.pooled_model import pooled_graph

    try:
        # Other devices have no products of 8-bit codes, which screening needs.
        return pooled_graph(source, activation=files.card.activation, precision=precision, screened=screened)
    except ModelGraphError as error:
        if precision != "fp32":
            raise
        logger.warning(
            "The graph of model %r cannot be pooled inside (%s). It is pooled outside, which returns the "
            "same numbers and needs more memory and time.",
            files.card.model,
            error,
        )
        return source
