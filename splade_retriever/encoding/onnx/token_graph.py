"""The graph that returns the weights of each token of a text, made from a graph that pools them.

A pooled graph ends in the maximum over the tokens of a text. Here every token becomes a text of one token
just before that maximum, so the same nodes return one row per token: row t is the weights of a text whose
only candidate is token t, in the context of the complete text. The maximum over the rows is the pooled
vector, up to the rounding of 8-bit codes, whose scale is that of a token instead of that of a text.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import onnx
from onnx import helper

from splade_retriever.encoding.onnx.bundled_graph import POOLED_IDS, POOLED_STATES, POOLED_WEIGHTS
from splade_retriever.errors import ModelGraphError

__all__ = ["token_graph"]


def token_graph(source: Path) -> bytes:
    """Return a graph that maps one text, (1, tokens), to the weights of each token, (tokens, vocab).

    Counts of tokens, which are added to the weights of a complete text, are left out.

    Args:
        source: A graph that `rewrite` or `bundled_graph` wrote, with its weights inside the file.

    Raises:
        ModelGraphError: If the graph pools in another way.
    """
    model = onnx.load(str(source))
    graph = model.graph
    made = {name for node in graph.node for name in node.output}
    pooled = POOLED_WEIGHTS if POOLED_WEIGHTS in made else str(graph.output[0].name)
    states = POOLED_STATES if POOLED_STATES in made else _states(graph)
    if states is None or _reads_inputs(graph, states, pooled):
        raise ModelGraphError(
            f"{source} pools its tokens in another way than graphs of this package, so it does not show "
            "which token a weight comes from. Use the ONNX export that ends in logits."
        )
    for name in {states, POOLED_IDS} & made:
        _split(graph, name)
    kept = _needed(graph, pooled)
    nodes = [node for node in graph.node if node.output[0] in kept]
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


def _split(graph: onnx.GraphProto, name: str) -> None:
    """Make a text of each token: (1, tokens, ...) becomes (tokens, 1, ...) for all that read it."""
    split = f"{name}_by_token"
    for node in graph.node:
        for place, read in enumerate(node.input):
            if read == name:
                node.input[place] = split
    swap = [1, 0] if name == POOLED_IDS else [1, 0, 2]
    place = next(n for n, node in enumerate(graph.node) if name in node.output)
    graph.node.insert(place + 1, helper.make_node("Transpose", [name], [split], perm=swap))


def _states(graph: onnx.GraphProto) -> str | None:
    """Return the states of the tokens without padding: what `GraphBuilder.without_padding` returns."""
    made_by = {name: node for node in graph.node for name in node.output}
    for node in reversed(graph.node):
        if node.op_type == "Where" and node.input[1] in made_by and node.input[2] in made_by:
            first = made_by[node.input[2]]
            if first.op_type == "Slice" and first.input[0] == node.input[1]:
                return str(node.output[0])
    return None


def _reads_inputs(graph: onnx.GraphProto, states: str, pooled: str) -> bool:
    """Return whether the weights are made of the inputs by another way than the states of the tokens."""
    kept = _needed(graph, pooled, without={states, POOLED_IDS})
    inputs = {entry.name for entry in graph.input} - {tensor.name for tensor in graph.initializer}
    return any(inputs.intersection(node.input) for node in graph.node if node.output[0] in kept)


def _needed(graph: onnx.GraphProto, *names: str, without: Collection[str] = ()) -> set[str]:
    made_by = {name: node for node in graph.node for name in node.output}
    needed: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        node = made_by.get(name)
        if node is None or name in without or node.output[0] in needed:
            continue
        needed.update(node.output)
        waiting.extend(node.input)
    return needed
