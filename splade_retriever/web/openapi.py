"""The OpenAPI document of the page's JSON API."""

from __future__ import annotations

from typing import Any

from splade_retriever import __version__

__all__ = ["openapi_document"]


def openapi_document() -> dict[str, Any]:
    """Return the document that `/openapi.json` serves."""
    query = {"type": "string", "description": "The query."}
    k = {"type": "integer", "minimum": 1, "maximum": 100, "default": 10, "description": "Number of hits."}
    filter = {
        "type": ["object", "null"],
        "description": 'A filter on metadata, such as {"year": {"$gte": 2020}}.',
    }
    syntax = {
        "type": "boolean",
        "default": False,
        "description": 'Read +word, -word, word^2 and "two words" in the query.',
    }
    weights = {
        "type": ["array", "null"],
        "description": "The query's vector in place of the model's: pairs of token id and weight.",
        "items": {
            "type": "array",
            "prefixItems": [{"type": "integer", "minimum": 0}, {"type": "number", "minimum": 0}],
            "minItems": 2,
            "maxItems": 2,
        },
    }
    id = {"type": "string", "description": "The id of a document."}
    tenant = {"type": ["string", "null"], "description": "Whose id it is, where the index has tenants."}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "splade-retriever",
            "version": __version__,
            "description": "Search an index, and explain why documents were found or not.",
        },
        "components": {"securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}},
        "security": [{}, {"token": []}],
        "paths": {
            "/api/info": {
                "get": {
                    "summary": "The collection, its model and its number of documents.",
                    "responses": _responses("The index."),
                }
            },
            "/api/search": _post(
                "Search, and explain each hit.",
                {"query": query, "k": k, "filter": filter, "syntax": syntax, "weights": weights},
                ["query"],
            ),
            "/api/explain": _post(
                "Explain the score of a document, with the words that expansions come from.",
                {"query": query, "id": id, "tenant": tenant, "syntax": syntax, "weights": weights},
                ["query", "id"],
            ),
            "/api/why-not": _post(
                "Explain why a search does not return a document.",
                {"query": query, "id": id, "tenant": tenant, "k": k, "filter": filter, "syntax": syntax},
                ["query", "id"],
            ),
        },
    }


def _post(summary: str, properties: dict[str, Any], required: list[str]) -> dict[str, Any]:
    schema = {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }
    content = {"application/json": {"schema": schema}}
    return {
        "post": {
            "summary": summary,
            "requestBody": {"required": True, "content": content},
            "responses": _responses("The result."),
        }
    }


def _responses(description: str) -> dict[str, Any]:
    any_object = {"application/json": {"schema": {"type": "object"}}}
    error = {
        "application/json": {
            "schema": {
                "type": "object",
                "properties": {"error": {"type": "string"}},
                "required": ["error"],
            }
        }
    }
    return {
        "200": {"description": description, "content": any_object},
        "400": {"description": "The request is not valid; the message says why.", "content": error},
        "401": {"description": "The token is missing or wrong.", "content": error},
        "403": {"description": "The request comes from another site.", "content": error},
    }
