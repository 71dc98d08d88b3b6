"""A dense encoder named in a configuration: the import path of its class, and arguments."""

import importlib
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field

from splade_retriever.config.environment import expand
from splade_retriever.errors import ConfigFault, ConfigurationError
from splade_retriever.protocols import DenseEncoder, NodeEncoder

__all__ = ["LOCAL_CLASSES", "DenseEncoderConfig", "load_dense_encoder"]

LOCAL_CLASSES: Final = frozenset(
    {
        "langchain_community.embeddings.FastEmbedEmbeddings",
        "langchain_community.embeddings.fastembed.FastEmbedEmbeddings",
        "langchain_huggingface.HuggingFaceEmbeddings",
        "llama_index.embeddings.fastembed.FastEmbedEmbedding",
        "llama_index.embeddings.huggingface.HuggingFaceEmbedding",
    }
)
"""Classes that a configuration may name without leave: they encode on this machine."""

_RUNS_CODE: Final = "trust_remote_code"


class DenseEncoderConfig(BaseModel):
    """The class of a dense encoder and its arguments."""

    class_path: str = Field(
        alias="class",
        description="Import path of the class, such as langchain_huggingface.HuggingFaceEmbeddings.",
    )
    args: dict[str, Any] = Field(default={}, description="Arguments of the class by name.", repr=False)

    model_config = ConfigDict(
        frozen=True, strict=True, extra="forbid", hide_input_in_errors=True, serialize_by_alias=True
    )


def load_dense_encoder(
    config: DenseEncoderConfig, *, allowed: Collection[str] = ()
) -> DenseEncoder | NodeEncoder:
    """Import the class and make the encoder.

    Importing and making an object of a class runs its code, so only listed classes are loaded:
    `LOCAL_CLASSES`, and those in `allowed`.

    Args:
        config: Class and arguments.
        allowed: Import paths of further classes. A class listed here may also take `trust_remote_code`.

    Raises:
        ConfigurationError: If the class is not listed, cannot be imported, or does not take the arguments.
    """
    path = config.class_path
    if path not in allowed:
        _check_local(config)
    module_name, _, name = path.rpartition(".")
    try:
        encoder_class = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError) as error:
        raise _error(
            f"names the dense encoder {path!r}, which cannot be imported ({error}). Install its package with "
            "pip, or correct the name."
        ) from error
    arguments = expand(config.args, path=("dense", "args"))
    try:
        encoder: DenseEncoder | NodeEncoder = encoder_class(**arguments)
    except (TypeError, ValueError) as error:
        raise _error(
            f"has arguments under dense.args that {path} does not take ({type(error).__name__}). Names: "
            f"{', '.join(arguments) or 'none'}."
        ) from None
    return encoder


def _check_local(config: DenseEncoderConfig) -> None:
    if config.class_path not in LOCAL_CLASSES:
        raise _error(
            f"names the dense encoder {config.class_path!r}, which is not in the list of allowed classes. If "
            f"you trust the file, pass allowed_classes=[{config.class_path!r}]. Allowed without it: "
            f"{', '.join(sorted(LOCAL_CLASSES))}."
        )
    if _RUNS_CODE in _names(config.args):
        raise _error(
            f"sets {_RUNS_CODE} for the dense encoder, which would run code of the model's repository. If "
            f"you trust the file, pass allowed_classes=[{config.class_path!r}]."
        )


def _names(values: Any) -> Iterator[str]:
    """Yield all names in nested values."""
    if isinstance(values, Mapping):
        for name, value in values.items():
            yield str(name)
            yield from _names(value)
    elif isinstance(values, list | tuple):
        for value in values:
            yield from _names(value)


def _error(reason: str) -> ConfigurationError:
    return ConfigurationError.of([ConfigFault(("dense",), reason)])
