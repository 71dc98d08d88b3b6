"""Checks what a configuration file names: its values, and the index of each of its retrievers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from splade_retriever.config.environment import expand
from splade_retriever.config.retriever_config import RetrieverConfig
from splade_retriever.errors import ConfigurationError, SpladeError
from splade_retriever.index.options import ServerKeywords
from splade_retriever.maintenance.diagnosis import Diagnosis, Finding, diagnose

__all__ = ["diagnose_config"]

_SERVER: Final = tuple(ServerKeywords.__annotations__)


def diagnose_config(path: str | Path) -> dict[str, Diagnosis]:
    """Check each retriever of a configuration file, with its model and the fields of its filter.

    Nothing is written, and no model is downloaded.

    Returns:
        Name of the retriever -> what was found. A file with faults has one entry, under the file's name.

    Raises:
        InputError: The file cannot be read, or is not valid in its format.
    """
    try:
        configs = RetrieverConfig.read_all(path)
    except ConfigurationError as error:
        if not error.faults:
            raise
        return {Path(path).name: Diagnosis(str(path), tuple(_faults(error, str(path))))}
    return {name: _diagnosis(config, str(path)) for name, config in configs.items()}


def _diagnosis(config: RetrieverConfig, path: str) -> Diagnosis:
    try:
        config.check_environment()
        arguments = _arguments(config)
    except ConfigurationError as error:
        return Diagnosis(config.location, tuple(_faults(error, path)))
    location = arguments.pop("location")
    try:
        found = diagnose(location, **arguments).findings
    except SpladeError as error:
        found = (Finding(check="index", level="fault", found=str(error), collection=config.collection),)
    return Diagnosis(location, found)


def _arguments(config: RetrieverConfig) -> dict[str, Any]:
    """Return the arguments of `diagnose`.

    Fields that the configuration indexes on opening need no check.

    Raises:
        ConfigurationError: A variable is not set.
    """
    index = expand(config.index, path=("index",))
    filters = [] if config.filter is None else [expand(config.filter, path=("filter",))]
    return {
        "location": expand(config.location, path=("location",)),
        "collection": expand(config.collection, path=("collection",)),
        "model": expand(config.model, path=("model",)),
        "second_model": expand(config.second_model, path=("second_model",)),
        "model_settings": expand(config.encoder, path=("encoder",)),
        "vector_name": index.get("vector_name"),
        "filters": filters,
        "created_indexes": list(index.get("indexed_fields") or ()),
        "api_key": None if config.api_key_variable is None else os.environ.get(config.api_key_variable),
        **{name: index[name] for name in _SERVER if name in index},
    }


def _faults(error: ConfigurationError, path: str) -> Iterator[Finding]:
    for fault in error.faults:
        place = path if fault.line is None else f"{path}:{fault.line}"
        yield Finding(check="configuration", level="fault", found=f"{place} {fault.reason}")
