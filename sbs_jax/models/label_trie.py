"""A closed set of labels as a trie of token ids, for one decoder pass over all of them."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int

START_ID = 0  # the decoder's first input


class LabelTrie(NamedTuple):
    """The inner nodes of a trie, N of them, as arrays.

    Node 0 is the start; every other node is a prefix shared by one or more labels. An edge is a
    token that continues a prefix; the EOS of a label is the edge to its leaf.

    Attributes:
        tokens: the decoder's input at each node.
        depths: each node's position in the output.
        sees: whether a node (row) attends to another (column): itself and its prefixes.
        edges: token of each edge of a node; -1 where a node has fewer edges than the widest.
        targets: where an edge leads: a node, or ``-1 - label`` for a leaf.
        path_nodes, path_edges: the edges from the start to each label's leaf.
        path_mask: False on the padding of the two.
    """

    tokens: Int[np.ndarray, " N"]
    depths: Int[np.ndarray, " N"]
    sees: Bool[np.ndarray, "N N"]
    edges: Int[np.ndarray, "N C"]
    targets: Int[np.ndarray, "N C"]
    path_nodes: Int[np.ndarray, "M T"]
    path_edges: Int[np.ndarray, "M T"]
    path_mask: Bool[np.ndarray, "M T"]


def build(labels: Sequence[Sequence[int]]) -> LabelTrie:
    """The trie of distinct labels, each given by its token ids with the EOS at the end.

    Raises:
        ValueError: no labels, two equal ones, or one that continues behind another's EOS.
    """
    nodes: dict[tuple[int, ...], int] = {(): 0}
    children: list[dict[int, int]] = [{}]
    for label, ids in enumerate(labels):
        for end in range(1, len(ids)):
            prefix = tuple(ids[:end])
            if prefix not in nodes:
                nodes[prefix] = len(children)
                children.append({})
            parent = children[nodes[prefix[:-1]]]
            if parent.setdefault(ids[end - 1], nodes[prefix]) != nodes[prefix]:
                raise ValueError(f"label {label} continues another one")
        last = children[nodes[tuple(ids[:-1])]]
        if not ids or last.setdefault(ids[-1], -1 - label) != -1 - label:
            raise ValueError(f"label {label} is empty or equals another one")
    if not labels:
        raise ValueError("no labels")
    return _arrays(list(nodes), nodes, children, labels)


def _arrays(
    prefixes: list[tuple[int, ...]],
    nodes: dict[tuple[int, ...], int],
    children: list[dict[int, int]],
    labels: Sequence[Sequence[int]],
) -> LabelTrie:
    count, width = len(prefixes), max(map(len, children))
    edges, targets = (np.full((count, width), -1, np.int32) for _ in range(2))
    sees = np.zeros((count, count), bool)
    for node, prefix in enumerate(prefixes):
        edges[node, : len(children[node])] = list(children[node])
        targets[node, : len(children[node])] = list(children[node].values())
        sees[node, [nodes[prefix[:end]] for end in range(len(prefix) + 1)]] = True
    shape = (len(labels), max(map(len, labels)))
    path_nodes, path_edges = (np.zeros(shape, np.int32) for _ in range(2))
    path_mask = np.zeros(shape, bool)
    for label, ids in enumerate(labels):
        for step, token in enumerate(ids):
            node = nodes[tuple(ids[:step])]
            path_nodes[label, step] = node
            path_edges[label, step] = list(children[node]).index(token)
            path_mask[label, step] = True
    return LabelTrie(
        tokens=np.array([prefix[-1] if prefix else START_ID for prefix in prefixes], np.int32),
        depths=np.array([len(prefix) for prefix in prefixes], np.int32),
        sees=sees,
        edges=edges,
        targets=targets,
        path_nodes=path_nodes,
        path_edges=path_edges,
        path_mask=path_mask,
    )
