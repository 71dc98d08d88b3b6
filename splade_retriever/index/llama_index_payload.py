"""Payloads as LlamaIndex's own Qdrant store writes them; read and written without LlamaIndex.

{<metadata, flat>, "_node_content": "<the node as JSON>", "_node_type": "TextNode", "doc_id": "...", ...}
"""

import json
from collections.abc import Mapping
from typing import Any, Final

__all__ = ["NODE_KEY", "read_node", "write_node"]

NODE_KEY: Final = "llama_index"
"""The key of a document's `extra` that holds what a node has beside id, text and metadata."""

_SOURCE_KEYS: Final = ("document_id", "doc_id", "ref_doc_id")
_NO_SOURCE: Final = "None"
"""LlamaIndex's word, a string, for a node without a source document."""


def read_node(
    payload: Mapping[str, Any], content: object
) -> tuple[dict[str, Any], str | None, dict[str, Any]]:
    """Read a node's metadata, its text, and its `extra`, which has the shape of the adapter's own.

    Args:
        payload: Without the node's JSON.
        content: The node's JSON.

    Returns:
        Metadata, text (None where there is none), and extra.
    """
    try:
        node = json.loads(content) if isinstance(content, str) else {}
    except ValueError:
        node = {}
    if not isinstance(node, dict):
        node = {}
    metadata = node.pop("metadata", None) or {
        key: value for key, value in payload.items() if key not in (*_SOURCE_KEYS, "_node_type")
    }
    text = node.pop("text", None)
    resource = node.get("text_resource")
    if isinstance(resource, dict) and resource.get("text") is not None:
        text = resource["text"]
        node["text_resource"] = {key: value for key, value in resource.items() if key != "text"}
    rest = {key: value for key, value in node.items() if key not in ("id_", "embedding", "class_name")}
    kept = {"class": payload.get("_node_type", "TextNode"), "node": rest}
    source = payload.get("ref_doc_id", _NO_SOURCE)
    if source != _NO_SOURCE:
        kept["ref_doc_id"] = source
    return metadata, text, {NODE_KEY: kept} if rest else {}


def write_node(
    id: str, text: str, metadata: Mapping[str, Any], extra: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Write a document so that LlamaIndex's own store reads it as a node."""
    kept = (extra or {}).get(NODE_KEY, {})
    node = {**kept.get("node", {}), "id_": id, "metadata": dict(metadata), "text": text}
    if node.get("text_resource") is not None:
        node["text_resource"] = {"text": text, **node["text_resource"]}
    source = kept.get("ref_doc_id", _NO_SOURCE)
    return {
        **metadata,
        "_node_content": json.dumps(node),
        "_node_type": kept.get("class", "TextNode"),
        **dict.fromkeys(_SOURCE_KEYS, source),
    }
