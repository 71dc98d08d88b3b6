"""Arguments that a configuration passes on to `SpladeIndex` and `SparseTextEmbedding`: names and types."""

import inspect
from collections.abc import Mapping
from functools import cache
from typing import Any, Final, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError, PydanticUserError

from splade_retriever.config.faults import check_names, wrong_argument

__all__ = ["check_arguments", "encoder_types", "index_types", "type_adapter"]

_NOT_OF_ENCODER: Final = frozenset(
    {"self", "return", "model_name", "cuda", "device_ids", "kwargs", "fastembed"}
)


@cache
def index_types() -> Mapping[str, Any]:
    """Return what a configuration may have under `index`: name -> type."""
    from splade_retriever.index.options import IndexKeywords

    hints = get_type_hints(IndexKeywords)
    return {
        "create": bool,
        "adopt": bool,
        **{name: hint for name, hint in hints.items() if name != "api_key"},
    }


@cache
def encoder_types() -> Mapping[str, Any]:
    """Return what a configuration may have under `encoder`: name -> type."""
    from splade_retriever.encoding.text_embedding import SparseTextEmbedding

    hints = get_type_hints(SparseTextEmbedding.__init__)
    names = inspect.signature(SparseTextEmbedding).parameters
    return {name: hints.get(name, Any) for name in names if name not in _NOT_OF_ENCODER}


def check_arguments(parent: str, values: Mapping[str, Any], types: Mapping[str, Any]) -> None:
    """Check names, and values of types that JSON has; strings with variables are checked when it opens.

    Raises:
        ValueError: If a name is unknown, or a value does not have the type of its argument.
    """
    check_names(parent, values, list(types))
    for name, value in values.items():
        adapter = type_adapter(types[name])
        if adapter is None or (isinstance(value, str) and "$" in value):
            continue
        try:
            adapter.validate_python(value)
        except ValidationError as error:
            expected = error.errors(include_url=False, include_input=False)[-1]["msg"]
            raise wrong_argument((parent, name), expected) from None


def type_adapter(hint: Any) -> TypeAdapter[Any] | None:
    """Return what checks a type; None for types that JSON does not have."""
    try:
        adapter = TypeAdapter(hint, config=ConfigDict(strict=True, hide_input_in_errors=True))
        return None if "$defs" in adapter.json_schema() else adapter
    except (PydanticSchemaGenerationError, PydanticUserError, NameError):
        return None
