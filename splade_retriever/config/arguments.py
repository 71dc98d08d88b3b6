"""Arguments that a configuration passes on to `SpladeIndex` and `SparseTextEmbedding`: names and types."""

import inspect
import sys
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

    annotations = {name: hint for name, hint in IndexKeywords.__annotations__.items() if name != "api_key"}
    return {"create": bool, "adopt": bool, **_resolved(annotations, IndexKeywords.__module__)}


@cache
def encoder_types() -> Mapping[str, Any]:
    """Return what a configuration may have under `encoder`: name -> type."""
    from splade_retriever.encoding.text_embedding import SparseTextEmbedding

    parameters = inspect.signature(SparseTextEmbedding).parameters
    annotations = {
        name: parameter.annotation for name, parameter in parameters.items() if name not in _NOT_OF_ENCODER
    }
    return _resolved(annotations, SparseTextEmbedding.__module__)


def _resolved(annotations: Mapping[str, Any], module: str) -> dict[str, Any]:
    """Return the types of annotations; Any for a type that is imported for type checkers only."""
    types: dict[str, Any] = {}
    for name, annotation in annotations.items():
        holder = type("Holder", (), {"__annotations__": {name: annotation}})
        try:
            types[name] = get_type_hints(holder, globalns=vars(sys.modules[module]))[name]
        except NameError:
            types[name] = Any
    return types


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
