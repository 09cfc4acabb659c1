"""Greedy decoding with a key/value cache, and exact probabilities of a closed set of labels.

The encoder is a program of its own: it is compiled for each width of the inputs, in about a third
of the time of the decoder, which is compiled for few widths and takes several encoded parts as one
batch.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from sbs_jax.configs import T5Config
from sbs_jax.distributed.partitioning import Partitioner
from sbs_jax.models.label_trie import LabelTrie
from sbs_jax.models.t5 import Transformer

EOS_ID = 1
PAD_ID = 0  # also the decoder's start token, as in T5 (but see `methods.START_IDS`)

# Widths that the decoder reads are rounded up to this: padding costs it little, projecting none.
_MEMORY_MULTIPLE = 64

# Logits of this many nodes of a trie are in memory at a time: [rows, nodes, V] in float32.
_NODES_AT_ONCE = 16

# One question a row, padded with 0; or a batch in parts, each of its own width.
Questions = Int[Array, "B L"] | list[Int[Array, "_ _"]]


class _Memory(NamedTuple):
    """What a decoder reads of its inputs: each layer's keys and values, and where tokens are."""

    keys_values: list[tuple[Float[Array, "B H S K"], Float[Array, "B H S K"]]]
    mask: Bool[Array, "B S"]


def greedy(
    params: dict,
    encoder_input_tokens: Questions,
    *,
    config: T5Config,
    partitioner: Partitioner,
    max_decode_length: int,
    start_id: int = PAD_ID,
) -> Int[Array, "B T"]:
    """The most likely next token, again and again, until every row has ended.

    Args:
        params: of a `Transformer` with `config`.
        encoder_input_tokens: int32, one question a row, padded with 0, of any width; or parts of
            one batch, each of its own width.
        max_decode_length: T, the most new tokens of a row. The original's generation_max_length
            counts its start token, so its 64 is 63 here.
        start_id: the decoder's first input.

    Returns:
        int32 token ids without the start token; 0 after a row's EOS. A row's result does not
        depend on the other rows or on padding.
    """
    return _greedy(
        params,
        _read(params, encoder_input_tokens, config, partitioner),
        config=config,
        partitioner=partitioner,
        max_decode_length=max_decode_length,
        start_id=start_id,
        scored=False,
    )[0]


def greedy_scored(
    params: dict,
    encoder_input_tokens: Questions,
    *,
    config: T5Config,
    partitioner: Partitioner,
    max_decode_length: int,
) -> tuple[Int[Array, "B T"], Float[Array, " B"]]:
    """As `greedy`, with the natural logarithm of each output's probability, its EOS included."""
    return _greedy(
        params,
        _read(params, encoder_input_tokens, config, partitioner),
        config=config,
        partitioner=partitioner,
        max_decode_length=max_decode_length,
        start_id=PAD_ID,
        scored=True,
    )


def memory_width(parts: list[Int[Array, "_ _"]]) -> int:
    """Positions that the decoder reads of a batch: the inputs' width, rounded up to 64."""
    width = max(part.shape[1] for part in parts)
    return width + -width % _MEMORY_MULTIPLE


def _read(
    params: dict, questions: Questions, config: T5Config, partitioner: Partitioner
) -> list[_Memory]:
    """Encodes every part of a batch; the memories have one width."""
    parts = questions if isinstance(questions, list) else [questions]
    width = memory_width(parts)
    encode = functools.partial(_encode, config=config, partitioner=partitioner, width=width)
    return [encode(params, part) for part in parts]


@functools.partial(jax.jit, static_argnames=("config", "partitioner", "width"))
def _encode(
    params: dict,
    encoder_input_tokens: Int[Array, "B L"],
    *,
    config: T5Config,
    partitioner: Partitioner,
    width: int,
) -> _Memory:
    model = Transformer(config)
    variables = {"params": params}
    mask = encoder_input_tokens > 0
    with partitioner.activations():
        encoded: Any = model.apply(
            variables, encoder_input_tokens, mask.astype(jnp.int32), method=Transformer.encode
        )
        keys_values: Any = model.apply(variables, encoded, method=Transformer.encoder_keys_values)
    padding = (0, width - mask.shape[1])
    wide = functools.partial(jnp.pad, pad_width=[(0, 0), (0, 0), padding, (0, 0)])
    return _Memory(jax.tree.map(wide, keys_values), jnp.pad(mask, [(0, 0), padding]))


def _joined(parts: list[_Memory]) -> _Memory:
    """The parts of a batch as one memory."""
    return jax.tree.map(lambda *arrays: jnp.concatenate(arrays), *parts)


@functools.partial(
    jax.jit, static_argnames=("config", "partitioner", "max_decode_length", "start_id", "scored")
)
def _greedy(
    params: dict,
    parts: list[_Memory],
    *,
    config: T5Config,
    partitioner: Partitioner,
    max_decode_length: int,
    start_id: int,
    scored: bool,
) -> tuple[Int[Array, "B T"], Float[Array, " B"]]:
    model = Transformer(config)
    variables = {"params": params}
    memory = _joined(parts)
    rows = memory.mask.shape[0]

    def unfinished(carry: tuple) -> Array:
        index, _, _, ended, _, _ = carry
        return (index < max_decode_length) & ~jnp.all(ended)

    def advance(carry: tuple) -> tuple:
        index, tokens, caches, ended, output, scores = carry
        logits, caches = model.apply(
            variables, tokens, index, caches, memory.mask, method=Transformer.decode_step
        )
        if scored:
            step_scores = jnp.max(logits, axis=-1) - jax.nn.logsumexp(logits, axis=-1)
            scores = jnp.where(ended, scores, scores + step_scores)
        tokens = jnp.where(ended, PAD_ID, first_argmax(logits))
        output = jax.lax.dynamic_update_slice_in_dim(output, tokens[:, None], index, axis=1)
        return index + 1, tokens, caches, ended | (tokens == EOS_ID), output, scores

    with partitioner.activations():
        start = (
            jnp.zeros((), jnp.int32),
            jnp.full((rows,), start_id, jnp.int32),
            _caches(memory, max_decode_length),
            # A row of padding (the last batch's filling) has nothing to say.
            ~jnp.any(memory.mask, axis=1),
            jnp.zeros((rows, max_decode_length), jnp.int32),
            jnp.zeros((rows,), jnp.float32),
        )
        *_, output, scores = jax.lax.while_loop(unfinished, advance, start)
        return output, scores


def score_labels(
    params: dict,
    encoder_input_tokens: Questions,
    trie: LabelTrie,
    *,
    config: T5Config,
    partitioner: Partitioner,
) -> tuple[Float[Array, "B M"], Int[Array, " B"]]:
    """Exact log-probabilities of M labels, from one pass of the decoder over their trie.

    Args:
        params: of a `Transformer` with `config`.
        encoder_input_tokens: as in `greedy`.
        trie: of the labels' token ids (`label_trie.build`), for every row the same.

    Returns:
        Natural logarithms of each label's probability among all outputs, its EOS included (they do
        not add up to 1); and the label that `greedy` gives the row, or -1 where its output is none
        of them.
    """
    parts = _read(params, encoder_input_tokens, config, partitioner)
    return _score_labels(params, parts, trie, config=config, partitioner=partitioner)


@functools.partial(jax.jit, static_argnames=("config", "partitioner"))
def _score_labels(
    params: dict,
    parts: list[_Memory],
    trie: LabelTrie,
    *,
    config: T5Config,
    partitioner: Partitioner,
) -> tuple[Float[Array, "B M"], Int[Array, " B"]]:
    model = Transformer(config)
    variables = {"params": params}
    memory = _joined(parts)
    with partitioner.activations():
        count = trie.tokens.shape[0]
        states: Any = model.apply(
            variables,
            trie.tokens,
            trie.depths,
            trie.sees,
            _caches(memory, count),
            memory.mask,
            method=Transformer.tree_states,
        )

        def of_nodes(inputs: tuple) -> tuple:
            some, edges = inputs  # [n, B, D], [n, C]
            logits: Any = model.apply(
                variables, some.transpose(1, 0, 2), method=Transformer.logits_of
            )
            taken = jnp.take_along_axis(logits, jnp.maximum(edges, 0)[None], axis=2)
            largest = jnp.max(logits, axis=2, keepdims=True)
            total = largest + jnp.log(jnp.sum(jnp.exp(logits - largest), axis=2, keepdims=True))
            return taken - total, (taken >= largest) & (edges >= 0)[None]

        size = min(count, _NODES_AT_ONCE)
        groups = (_in_groups(x, size) for x in (states.transpose(1, 0, 2), jnp.asarray(trie.edges)))
        scored_nodes = jax.lax.map(of_nodes, tuple(groups))
    edge_scores, likeliest = (
        jnp.moveaxis(x, 0, 1).reshape(x.shape[1], -1, x.shape[3])[:, :count] for x in scored_nodes
    )
    on_paths = edge_scores[:, trie.path_nodes, trie.path_edges]
    return jnp.sum(jnp.where(trie.path_mask, on_paths, 0.0), axis=-1), _walk(trie, likeliest)


def _caches(memory: _Memory, length: int) -> list[dict[str, Array]]:
    """A layer's cache: what it reads of the input, and `length` empty positions of the output."""
    rows, heads, _, head_dim = memory.keys_values[0][0].shape
    caches = []
    for key, value in memory.keys_values:
        empty = jnp.zeros((rows, heads, length, head_dim), key.dtype)
        caches.append({"key": empty, "value": empty, "encoder_key": key, "encoder_value": value})
    return caches


def _in_groups(x: Array, size: int) -> Array:
    """[N, ...] -> [groups, size, ...], padded with zeros."""
    padding = [(0, -x.shape[0] % size)] + [(0, 0)] * (x.ndim - 1)
    return jnp.pad(x, padding).reshape(-1, size, *x.shape[1:])


def _walk(trie: LabelTrie, likeliest: Bool[Array, "B N C"]) -> Int[Array, " B"]:
    """The label reached along the likeliest edges, or -1 where a likelier token is none."""
    node = jnp.zeros(likeliest.shape[0], jnp.int32)
    for _ in range(trie.path_nodes.shape[1]):
        here = jnp.maximum(node, 0)
        hits = jnp.take_along_axis(likeliest, here[:, None, None], axis=1)[:, 0]
        target = jnp.max(jnp.where(hits, trie.targets[here], _NOWHERE), axis=1)
        node = jnp.where(node >= 0, target, node)
    return jnp.where((node < 0) & (node > _NOWHERE), -1 - node, -1)


_NOWHERE = -(2**30)  # below every leaf's number


def first_argmax(logits: Float[Array, "B V"], block: int = 128) -> Int[Array, " B"]:
    """Index of the first largest logit, block by block: XLA:CPU's argmax over 32k is 10x slower."""
    rows, size = logits.shape
    padded = jnp.pad(logits, ((0, 0), (0, -size % block)), constant_values=-jnp.inf)
    blocks = padded.reshape(rows, -1, block)
    best = jnp.argmax(jnp.max(blocks, axis=-1), axis=-1)
    inside = jnp.take_along_axis(blocks, best[:, None, None], axis=1)[:, 0]
    return (best * block + jnp.argmax(inside, axis=-1)).astype(jnp.int32)
