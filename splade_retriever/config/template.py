"""A commented configuration file to start from."""

from splade_retriever.config.files import to_yaml
from splade_retriever.config.retriever_config import RetrieverConfig

__all__ = ["template"]

_EXAMPLES = {
    "collection": "collection: splade",
    "model": "model: prithivida/Splade_PP_en_v1",
    "second_model": "second_model: Qdrant/bm25",
    "encoder": "encoder: {precision: int8}",
    "index": "index: {timeout: 30}",
    "dense": (
        "dense: {class: langchain_huggingface.HuggingFaceEmbeddings, "
        "args: {model_name: BAAI/bge-small-en-v1.5}}"
    ),
    "api_key_variable": "api_key_variable: QDRANT_API_KEY",
    "filter": "filter: {year: {$gte: 2020}}",
    "mode": "mode: hybrid",
    "fusion": "fusion: {method: rrf, weights: [1.0, 0.5]}",
    "score_threshold": "score_threshold: 5.0",
    "explain": "explain: true",
    "origins": "origins: true",
    "controls": "controls: {boost: {rover: 2}, exclude: [india], synonyms: {moon: [lunar]}}",
}


def template(location: str, *, schema: str | None = None) -> str:
    """Return a YAML file with a location and every other field as a comment.

    Args:
        location: The folder of an index, or the URL of a server.
        schema: Path of the JSON Schema that editors read, relative to the file; None for no such line.
    """
    lines = [] if schema is None else [f"# yaml-language-server: $schema={schema}"]
    for name, field in RetrieverConfig.model_fields.items():
        lines.append(f"# {field.description}")
        if name == "location":
            lines.append(to_yaml({"location": location}).rstrip())
        elif name in _EXAMPLES:
            lines.append(f"# {_EXAMPLES[name]}")
        else:
            lines.append(to_yaml({name: field.default}).rstrip())
    return "\n".join(lines) + "\n"
