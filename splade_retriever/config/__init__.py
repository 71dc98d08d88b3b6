"""Configuration files: where an index is and how it is searched."""

from splade_retriever.config.diagnosis import diagnose_config
from splade_retriever.config.files import to_yaml
from splade_retriever.config.retriever_config import RetrieverConfig
from splade_retriever.config.schema import json_schema
from splade_retriever.config.template import template

__all__ = ["RetrieverConfig", "diagnose_config", "json_schema", "template", "to_yaml"]
