"""The graph that returns the weights of each token of a text, made from a graph that pools them.

A pooled graph ends in the maximum over the tokens of a text. Here every token becomes a text of one token
just before that maximum, so the same nodes return one row per token: row t is the weights of a text whose
only candidate is token t, in the context of the complete text. The maximum over the rows is the pooled
vector, up to the rounding of 8-bit codes, whose scale is that of a token instead of that of a text.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import onnx
from onnx import helper

from splade_retriever.errors import ModelGraphError

__all__ = ["token_graph"]

_DATA_INPUT: Final = {"Identity": 0, "ScatterElements": 0, "Where": 2}
"""Operators that change some weights of a text by its tokens, and which of their inputs the weights are."""


def token_graph(source: Path) -> bytes:
    """Return a graph that maps one text, (1, tokens), to the weights of each token, (tokens, vocab).

    Weights that are given to a token of the text alone, such as its count, are left out.

    Args:
        source: A graph that `rewrite` or `bundled_graph` wrote, with its weights inside the file.

    Raises:
        ModelGraphError: If the graph pools in another way.
    """
    model = onnx.load(str(source))
    graph = model.graph
    states = _states(graph)
    if states is None:
        raise ModelGraphError(
            f"{source} pools its tokens in another way than graphs of this package, so it does not show "
            "which token a weight comes from. Use the ONNX export that ends in logits."
        )
    split = f"{states}_by_token"
    after = _depending_on(graph, states)
    pooled = _pooled_weights(graph, states, after)
    for node in graph.node:
        if node.output[0] in after:
            for place, name in enumerate(node.input):
                if name == states:
                    node.input[place] = split
    kept = _needed(graph, pooled, split, states)
    nodes = [node for node in graph.node if node.output[0] in kept]
    place = next(n for n, node in enumerate(nodes) if node.output[0] == states)
    nodes.insert(place + 1, helper.make_node("Transpose", [states], [split], perm=[1, 0, 2]))
    nodes.append(helper.make_node("Identity", [pooled], ["token_weights"]))
    del graph.node[:]
    graph.node.extend(nodes)
    read = {name for node in nodes for name in node.input}
    constants = [tensor for tensor in graph.initializer if tensor.name in read]
    del graph.initializer[:]
    graph.initializer.extend(constants)
    del graph.output[:]
    graph.output.append(
        helper.make_tensor_value_info("token_weights", onnx.TensorProto.FLOAT, ["tokens", "vocab"])
    )
    return bytes(model.SerializeToString())


def _states(graph: onnx.GraphProto) -> str | None:
    """Return the states of the tokens without padding: what `GraphBuilder.without_padding` returns."""
    made_by = {name: node for node in graph.node for name in node.output}
    for node in reversed(graph.node):
        if node.op_type == "Where" and node.input[1] in made_by and node.input[2] in made_by:
            first = made_by[node.input[2]]
            if first.op_type == "Slice" and first.input[0] == node.input[1]:
                return str(node.output[0])
    return None


def _depending_on(graph: onnx.GraphProto, states: str) -> set[str]:
    names = {states}
    for node in graph.node:
        if names.intersection(node.input):
            names.update(node.output)
    return names - {states}


def _pooled_weights(graph: onnx.GraphProto, states: str, after: set[str]) -> str:
    """Return the last weights before the output that come from the states and nothing else."""
    made_by = {name: node for node in graph.node for name in node.output}
    of_tokens = {entry.name for entry in graph.input}
    for node in graph.node:
        if of_tokens.intersection(node.input) and not after.intersection(node.output):
            of_tokens.update(node.output)
    of_tokens.discard(states)
    for node in graph.node:
        if node.output[0] in after and of_tokens.intersection(node.input):
            of_tokens.update(node.output)
    name = str(graph.output[0].name)
    while name in of_tokens:
        node = made_by[name]
        name = node.input[_DATA_INPUT.get(node.op_type, 0)]
    return name


def _needed(graph: onnx.GraphProto, *names: str) -> set[str]:
    made_by = {name: node for node in graph.node for name in node.output}
    needed: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        node = made_by.get(name)
        if node is None or node.output[0] in needed:
            continue
        needed.update(node.output)
        waiting.extend(node.input)
    return needed
