"""The JSON Schema of configuration files, for editors."""

from collections.abc import Mapping
from typing import Any, Final

from splade_retriever.config.arguments import encoder_types, index_types, type_adapter
from splade_retriever.config.retriever_config import RetrieverConfig

__all__ = ["json_schema"]

_DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of a configuration file: one retriever, or several under `retrievers`."""
    retriever = RetrieverConfig.model_json_schema(ref_template="#/$defs/{model}")
    definitions = retriever.pop("$defs", {})
    for definition in definitions.values():  # some versions of pydantic leave it out for dataclasses
        if "properties" in definition:
            definition["additionalProperties"] = False
    retriever["description"] = "Where an index is and how it is searched."
    properties = retriever["properties"]
    properties["index"] |= _arguments(index_types())
    properties["encoder"] |= _arguments(encoder_types())
    # In a file with several retrievers the location may be in either place.
    partial = {name: value for name, value in retriever.items() if name != "required"}
    schema_field = {"$schema": {"type": "string"}}
    return {
        "$schema": _DIALECT,
        "title": "Configuration of splade-retriever",
        "oneOf": [
            {**retriever, "title": "One retriever", "properties": {**schema_field, **properties}},
            {
                "title": "Several retrievers",
                "type": "object",
                "properties": {
                    **schema_field,
                    "defaults": {"$ref": "#/$defs/fields"},
                    "retrievers": {
                        "type": "object",
                        "additionalProperties": {"$ref": "#/$defs/fields"},
                        "minProperties": 1,
                    },
                },
                "required": ["retrievers"],
                "additionalProperties": False,
            },
        ],
        "$defs": {**definitions, "fields": {**partial, "title": "Fields of a retriever"}},
    }


def _arguments(types: Mapping[str, Any]) -> dict[str, Any]:
    adapters = {name: type_adapter(hint) for name, hint in types.items()}
    return {
        # A type that JSON does not have allows anything here; its argument is checked when the index opens.
        "properties": {
            name: {} if found is None else found.json_schema() for name, found in adapters.items()
        },
        "additionalProperties": False,
    }
