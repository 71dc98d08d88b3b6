"""Nodes <-> documents of an index; pure functions.

A document keeps the node's text and metadata where every reader of the collection looks for them, and the
rest of the node in `extra`, under a key of its own:

    {"llama_index": {"class": "TextNode", "ref_doc_id": "...", "node": {what else the node has}}}
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from llama_index.core.constants import DATA_KEY, TYPE_KEY
from llama_index.core.schema import BaseNode, IndexNode, MetadataMode, Node, TextNode

from splade_retriever.errors import InputError, StorageError
from splade_retriever.index.documents import Hit
from splade_retriever.index.llama_index_payload import NODE_KEY
from splade_retriever.sparse import SparseEmbedding

__all__ = [
    "VECTOR_KEY",
    "NodeDocument",
    "attach_vector",
    "checked_nodes",
    "encoded_text",
    "to_documents",
    "to_node",
]

VECTOR_KEY: Final = "_splade_vector"
"""The metadata key in which a node carries its ready vector from an ingestion pipeline to the store."""

_RESOURCES: Final = ("text_resource", "image_resource", "audio_resource", "video_resource")


@dataclass(frozen=True, slots=True)
class NodeDocument:
    """A node as `SpladeIndex.add` takes it."""

    id: str
    text: str
    metadata: dict[str, Any]
    extra: dict[str, Any]
    encoded_text: str
    vector: SparseEmbedding | None = None
    made_by: Mapping[str, Any] | None = None
    """Fingerprint of the encoder of `vector`."""


def to_documents(nodes: Iterable[BaseNode]) -> list[NodeDocument]:
    """Convert nodes for the index; each is read once.

    Raises:
        InputError: What `checked_nodes` raises; or an index node stands for an object that cannot be written.
    """
    return [_to_document(node) for node in checked_nodes(nodes)]


def checked_nodes(nodes: Iterable[BaseNode]) -> list[BaseNode]:
    """List nodes.

    Raises:
        InputError: If an item is no node, with its position.
    """
    if isinstance(nodes, BaseNode):
        raise InputError(f"nodes is one {type(nodes).__name__}, expected several. Pass [node].")
    listed = list(nodes)
    for position, node in enumerate(listed):
        if not isinstance(node, BaseNode):
            raise InputError(
                f"item {position} is a {type(node).__name__}, expected a node of LlamaIndex. Nothing was "
                "written. Wrap texts in TextNode(text=...)."
            )
    return listed


def _to_document(node: BaseNode) -> NodeDocument:
    metadata = dict(node.metadata)
    carried = metadata.pop(VECTOR_KEY, None)
    if carried is not None:
        node = node.model_copy(
            update={
                "metadata": metadata,
                "excluded_embed_metadata_keys": _without_vector(node.excluded_embed_metadata_keys),
                "excluded_llm_metadata_keys": _without_vector(node.excluded_llm_metadata_keys),
            }
        )
    kept: dict[str, Any] = {"class": node.class_name(), "node": _rest_of(node)}
    if node.ref_doc_id is not None:
        kept["ref_doc_id"] = node.ref_doc_id
    return NodeDocument(
        id=node.node_id,
        text=_text_of(node),
        metadata=metadata,
        extra={NODE_KEY: kept},
        encoded_text=encoded_text(node),
        vector=None if carried is None else SparseEmbedding(carried["values"], carried["indices"]),
        made_by=None if carried is None else carried["made_by"],
    )


def _without_vector(keys: Sequence[str]) -> list[str]:
    return [key for key in keys if key != VECTOR_KEY]


def encoded_text(node: BaseNode) -> str:
    """Give the text that an encoder sees: the content under the metadata that is not excluded."""
    return node.get_content(metadata_mode=MetadataMode.EMBED)


def _text_of(node: BaseNode) -> str:
    return node.get_content(metadata_mode=MetadataMode.NONE)


def _rest_of(node: BaseNode) -> dict[str, Any]:
    """Dump what a node has beside id, text, metadata and dense embedding.

    Raises:
        InputError: For an index node that stands for what is no node.
    """
    stands_for = node.obj if isinstance(node, IndexNode) else None
    if stands_for is not None and not isinstance(stands_for, BaseNode):
        raise InputError(
            f"node {node.node_id!r} stands for a {type(stands_for).__name__}, expected a node or nothing: "
            "other objects cannot be stored. Nothing was written. Set its obj to None, and hand the object "
            "to SpladeRetriever(object_map={index_id: object})."
        )
    if stands_for is not None:
        node = node.model_copy(update={"obj": None})
    rest = node.model_dump(mode="json", exclude={"id_", "metadata", "embedding", "text"})
    rest.pop("class_name", None)
    rest.pop("text", None)
    for name in _RESOURCES:
        resource = getattr(node, name, None)
        if resource is not None and resource.data is not None:
            rest[name]["data"] = resource.data.decode("ascii")  # base64, which a dump leaves out
    # A text that is None, and not "", stays in the dump: filling it in would change the node.
    if isinstance(rest.get("text_resource"), dict) and rest["text_resource"].get("text") is not None:
        del rest["text_resource"]["text"]
    if stands_for is not None:
        rest["obj"] = _as_document(stands_for)
    return rest


def _as_document(node: BaseNode) -> dict[str, Any]:
    """Dump a whole node as a document store of LlamaIndex does, by which an index node reads it back."""
    own = {"class_name": node.class_name(), "id_": node.node_id, "metadata": node.metadata}
    data = _with_text({**_rest_of(node), **own}, type(node), _text_of(node))
    return {DATA_KEY: data, TYPE_KEY: node.get_type()}


def _with_text(data: dict[str, Any], node_class: type[BaseNode], text: str) -> dict[str, Any]:
    """Put the text where a class of nodes reads it."""
    if not issubclass(node_class, Node):
        return {**data, "text": text}
    if data.get("text_resource") is None:
        return data
    return {**data, "text_resource": {"text": text, **data["text_resource"]}}


def attach_vector(node: BaseNode, vector: SparseEmbedding, made_by: Mapping[str, Any]) -> BaseNode:
    """Give a copy of a node that carries its sparse vector, hidden from encoders and language models.

    It also gets an empty dense embedding where it has none: a pipeline drops nodes whose embedding is None.
    """
    carried = {
        "indices": vector.indices.tolist(),
        "values": vector.values.tolist(),
        "made_by": dict(made_by),
    }
    return node.model_copy(
        update={
            "metadata": {**node.metadata, VECTOR_KEY: carried},
            "excluded_embed_metadata_keys": [*_without_vector(node.excluded_embed_metadata_keys), VECTOR_KEY],
            "excluded_llm_metadata_keys": [*_without_vector(node.excluded_llm_metadata_keys), VECTOR_KEY],
            "embedding": [] if node.embedding is None else node.embedding,
        }
    )


def to_node(hit: Hit) -> BaseNode:
    """Rebuild the node of a hit; a document that another framework wrote becomes a `TextNode`.

    Raises:
        StorageError: If the node's class is not known in this process.
    """
    kept = hit.extra.get(NODE_KEY)
    if kept is None:
        return TextNode(id_=hit.id, text=hit.text, metadata=hit.metadata)
    node_class = _class_named(kept["class"], hit.id)
    data = _with_text({**kept["node"], "id_": hit.id, "metadata": hit.metadata}, node_class, hit.text)
    node = node_class.from_dict(data)
    # Older llama-index-core has this field under two spellings, and reads the wrong one.
    node.metadata_separator = data.get("metadata_separator", node.metadata_separator)
    return node


def _class_named(name: str, id: str) -> type[BaseNode]:
    for known in _subclasses(BaseNode):  # type: ignore[type-abstract]  # only its subclasses are given
        if known.class_name() == name:
            return known
    raise StorageError(
        f"document {id!r} is a node of class {name!r}, which this process does not know. Import the module "
        "that defines it before reading."
    )


def _subclasses(of: type[BaseNode]) -> Iterator[type[BaseNode]]:
    for found in of.__subclasses__():
        yield found
        yield from _subclasses(found)
