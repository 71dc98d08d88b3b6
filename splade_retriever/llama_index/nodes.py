"""Nodes <-> documents of an index: pure functions.

A document has the node's text and metadata in the usual places, where other readers of the collection find
them. The rest of the node is in `extra`:

    {"llama_index": {"class": "TextNode", "ref_doc_id": "...", "node": {the other fields of the node}}}
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from llama_index.core.constants import DATA_KEY, TYPE_KEY
from llama_index.core.schema import BaseNode, IndexNode, MetadataMode, Node, TextNode

from splade_retriever.errors import InputError, StorageError
from splade_retriever.index.documents import Hit
from splade_retriever.index.hit_report import METADATA_KEY
from splade_retriever.index.llama_index_payload import NODE_KEY
from splade_retriever.sparse import SparseEmbedding
from splade_retriever.validation import type_name

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
"""The metadata key of a vector that an ingestion pipeline attaches to a node for the store."""

_RESOURCES: Final = ("text_resource", "image_resource", "audio_resource", "video_resource")


@dataclass(frozen=True, slots=True)
class NodeDocument:
    """The arguments of `SpladeIndex.add` for one node."""

    id: str
    text: str
    metadata: dict[str, Any]
    extra: dict[str, Any]
    encoded_text: str
    vector: SparseEmbedding | None = None
    made_by: Mapping[str, Any] | None = None
    """Fingerprint of the encoder of `vector`."""


def to_documents(nodes: Iterable[BaseNode]) -> list[NodeDocument]:
    """Convert nodes for the index.

    Raises:
        InputError: If an item is not a node, or an index node has an object that cannot be stored.
    """
    return [_to_document(node) for node in checked_nodes(nodes)]


def checked_nodes(nodes: Iterable[BaseNode]) -> list[BaseNode]:
    """Return nodes as a list.

    Raises:
        InputError: If there are not several nodes, or an item is not a node, with its position.
    """
    if isinstance(nodes, BaseNode):
        raise InputError(f"nodes is one {type(nodes).__name__}, expected several. Pass [node].")
    if not isinstance(nodes, Iterable):
        raise InputError(f"nodes is {type_name(nodes)}, expected a list of LlamaIndex nodes.")
    checked = list(nodes)
    for position, node in enumerate(checked):
        if not isinstance(node, BaseNode):
            raise InputError(
                f"Item {position} is {type_name(node)}, expected a LlamaIndex node. Nothing was "
                "written. Wrap texts in TextNode(text=...)."
            )
    return checked


def _to_document(node: BaseNode) -> NodeDocument:
    metadata = dict(node.metadata)
    attached = metadata.pop(VECTOR_KEY, None)
    metadata.pop(METADATA_KEY, None)  # the report of the search that found the node
    if len(metadata) < len(node.metadata):
        node = node.model_copy(
            update={
                "metadata": metadata,
                "excluded_embed_metadata_keys": _without_own(node.excluded_embed_metadata_keys),
                "excluded_llm_metadata_keys": _without_own(node.excluded_llm_metadata_keys),
            }
        )
    extra: dict[str, Any] = {"class": node.class_name(), "node": _rest_of(node)}
    if node.ref_doc_id is not None:
        extra["ref_doc_id"] = node.ref_doc_id
    return NodeDocument(
        id=node.node_id,
        text=_text_of(node),
        metadata=metadata,
        extra={NODE_KEY: extra},
        encoded_text=encoded_text(node),
        vector=None if attached is None else SparseEmbedding(attached["values"], attached["indices"]),
        made_by=None if attached is None else attached["made_by"],
    )


def _without_own(keys: Sequence[str]) -> list[str]:
    return [key for key in keys if key not in (VECTOR_KEY, METADATA_KEY)]


def _without_vector(keys: Sequence[str]) -> list[str]:
    return [key for key in keys if key != VECTOR_KEY]


def encoded_text(node: BaseNode) -> str:
    """Return the text to encode: the content together with the metadata that is not excluded."""
    return node.get_content(metadata_mode=MetadataMode.EMBED)


def _text_of(node: BaseNode) -> str:
    return node.get_content(metadata_mode=MetadataMode.NONE)


def _rest_of(node: BaseNode) -> dict[str, Any]:
    """Dump the fields of a node except id, text, metadata and dense embedding.

    Raises:
        InputError: If the object of an index node is not a node.
    """
    target = node.obj if isinstance(node, IndexNode) else None
    if target is not None and not isinstance(target, BaseNode):
        raise InputError(
            f"Node {node.node_id!r} has an obj of type {type(target).__name__}, expected a node or None: "
            "other objects cannot be stored. Nothing was written. Set obj to None, and pass the object to "
            "SpladeRetriever(object_map={index_id: object})."
        )
    if target is not None:
        node = node.model_copy(update={"obj": None})
    rest = node.model_dump(mode="json", exclude={"id_", "metadata", "embedding", "text"})
    rest.pop("class_name", None)
    rest.pop("text", None)
    for name in _RESOURCES:
        resource = getattr(node, name, None)
        if resource is not None and resource.data is not None:
            rest[name]["data"] = resource.data.decode("ascii")  # base64; model_dump leaves it out
    # A text of None is not the same as "", so it stays in the dump.
    if isinstance(rest.get("text_resource"), dict) and rest["text_resource"].get("text") is not None:
        del rest["text_resource"]["text"]
    if target is not None:
        rest["obj"] = _as_docstore_entry(target)
    return rest


def _as_docstore_entry(node: BaseNode) -> dict[str, Any]:
    """Dump a node in the format of LlamaIndex's document stores, which an index node reads."""
    fields = {"class_name": node.class_name(), "id_": node.node_id, "metadata": node.metadata}
    data = _with_text({**_rest_of(node), **fields}, type(node), _text_of(node))
    return {DATA_KEY: data, TYPE_KEY: node.get_type()}


def _with_text(data: dict[str, Any], node_class: type[BaseNode], text: str) -> dict[str, Any]:
    """Put the text into the field in which a node class has it."""
    if not issubclass(node_class, Node):
        return {**data, "text": text}
    if data.get("text_resource") is None:
        return data
    return {**data, "text_resource": {"text": text, **data["text_resource"]}}


def attach_vector(node: BaseNode, vector: SparseEmbedding, made_by: Mapping[str, Any]) -> BaseNode:
    """Return a copy of a node with its sparse vector, hidden from encoders and language models.

    A copy without a dense embedding gets an empty one, because pipelines drop nodes whose embedding is None.
    """
    attached = {
        "indices": vector.indices.tolist(),
        "values": vector.values.tolist(),
        "made_by": dict(made_by),
    }
    return node.model_copy(
        update={
            "metadata": {**node.metadata, VECTOR_KEY: attached},
            "excluded_embed_metadata_keys": [*_without_vector(node.excluded_embed_metadata_keys), VECTOR_KEY],
            "excluded_llm_metadata_keys": [*_without_vector(node.excluded_llm_metadata_keys), VECTOR_KEY],
            "embedding": [] if node.embedding is None else node.embedding,
        }
    )


def to_node(hit: Hit) -> BaseNode:
    """Return the node of a hit; a document of another framework becomes a `TextNode`.

    Raises:
        StorageError: If no class of this process has the name of the node's class.
    """
    extra = hit.extra.get(NODE_KEY)
    if extra is None:
        return TextNode(id_=hit.id, text=hit.text, metadata=hit.metadata)
    node_class = _class_named(extra["class"], hit.id)
    data = _with_text({**extra["node"], "id_": hit.id, "metadata": hit.metadata}, node_class, hit.text)
    node = node_class.from_dict(data)
    # Older versions of llama-index-core have two spellings of this field, and read the wrong one.
    node.metadata_separator = data.get("metadata_separator", node.metadata_separator)
    return node


def _class_named(name: str, id: str) -> type[BaseNode]:
    for known in _subclasses(BaseNode):  # type: ignore[type-abstract]  # only its subclasses are returned
        if known.class_name() == name:
            return known
    raise StorageError(
        f"Document {id!r} is a node of class {name!r}, and no such class is imported. Import the module that "
        "defines it before reading."
    )


def _subclasses(parent: type[BaseNode]) -> Iterator[type[BaseNode]]:
    for child in parent.__subclasses__():
        yield child
        yield from _subclasses(child)
