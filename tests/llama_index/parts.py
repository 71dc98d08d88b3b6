"""Nodes that the tests of the LlamaIndex adapter share."""

from collections.abc import Sequence

from llama_index.core.schema import NodeWithScore, TextNode
from llama_index.core.vector_stores.types import FilterOperator, MetadataFilter, MetadataFilters

NODES = [
    TextNode(
        id_="landing", text="Chandrayaan-3 landed near the south pole of the Moon.", metadata={"year": 2023}
    ),
    TextNode(id_="rover", text="The rover Pragyan left the lander Vikram.", metadata={"year": 2023}),
    TextNode(id_="rocket", text="A rocket lifted the lander to a lunar orbit.", metadata={"year": 2019}),
]
SINCE_2020 = MetadataFilters(filters=[MetadataFilter(key="year", operator=FilterOperator.GT, value=2020)])


def ids_of(found: Sequence[NodeWithScore]) -> list[str]:
    return [scored.node_id for scored in found]
