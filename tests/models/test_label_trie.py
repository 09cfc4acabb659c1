"""Label probabilities from one pass over a trie: the full model's, label by label."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sbs_jax.configs import T5Config
from sbs_jax.distributed.partitioning import Partitioner
from sbs_jax.models import decoding, label_trie, t5
from sbs_jax.models.t5 import Transformer

CONFIG = T5Config(
    vocab_size=40,
    emb_dim=16,
    num_heads=2,
    num_encoder_layers=1,
    num_decoder_layers=2,
    head_dim=8,
    mlp_dim=32,
)
LABELS = {
    "three of one token": [[5, 1], [6, 1], [7, 1]],
    "shared beginnings": [[5, 6, 7, 1], [5, 6, 8, 1], [5, 9, 1], [5, 1], [10, 6, 1]],
    "one label": [[11, 12, 1]],
    "the empty label too": [[1], [4, 1]],
    "many": [[a, b, 1] for a in range(3, 10) for b in range(3, 8)],
}


@pytest.fixture(scope="module")
def params() -> dict:
    params = t5.init_params(CONFIG, jax.random.key(3))
    kernel = params["decoder"]["logits_dense"]["kernel"]
    # Outputs of a few tokens that differ from row to row.
    params["decoder"]["logits_dense"]["kernel"] = kernel.at[:, 1].mul(4.0)
    return params


@pytest.fixture(scope="module")
def tokens() -> np.ndarray:
    rng = np.random.default_rng(0)
    tokens = np.zeros((24, 12), np.int32)
    for row in range(23):  # the last one is padding
        size = rng.integers(2, 12)
        tokens[row, :size] = rng.integers(3, 40, size)
    return tokens


@jax.jit
def _logits(params, source, target):
    batch = {
        "encoder_input_tokens": source,
        "encoder_segment_ids": (source > 0).astype(jnp.int32),
        "decoder_input_tokens": target,
        "decoder_segment_ids": jnp.ones_like(target),
    }
    return jax.nn.log_softmax(Transformer(CONFIG).apply({"params": params}, batch))


def label_by_label(params, tokens, labels) -> np.ndarray:
    """The full model on every label alone."""
    scores = []
    for ids in labels:
        target = np.broadcast_to(np.array([0, *ids[:-1]], np.int32), (len(tokens), len(ids)))
        logits = np.asarray(_logits(params, tokens, target))
        scores.append(logits[:, np.arange(len(ids)), ids].sum(axis=1))
    return np.stack(scores, axis=1)


def run(params, tokens, labels, partitioner=None):
    partitioner = partitioner or Partitioner(devices=jax.devices()[:1])
    scores, chosen = decoding.score_labels(
        params,
        partitioner.put_rows(tokens),
        label_trie.build(labels),
        config=CONFIG,
        partitioner=partitioner,
    )
    return partitioner.fetch(scores), partitioner.fetch(chosen)


@pytest.mark.parametrize("name", LABELS)
def test_log_probabilities_are_those_of_the_full_model(params, tokens, name):
    scores, _ = run(params, tokens, LABELS[name])
    expected = label_by_label(params, tokens, LABELS[name])
    np.testing.assert_allclose(scores[:23], expected[:23], rtol=2e-5, atol=2e-5)


def test_the_label_is_the_greedy_output_or_none(params, tokens):
    one = Partitioner(devices=jax.devices()[:1])
    outputs = one.fetch(
        decoding.greedy(
            params, one.put_rows(tokens), config=CONFIG, partitioner=one, max_decode_length=6
        )
    )[:23].tolist()
    texts = [row[: row.index(1) + 1] if 1 in row else row for row in outputs]
    ended = sorted({tuple(ids) for ids in texts if ids[-1] == 1})
    assert len(ended) >= 3, "the model must end some rows"
    labels = [list(ids) for ids in ended[:-1]]  # one real output is no label
    _, chosen = run(params, tokens, [*labels, [3, 3, 3, 3, 1]])
    expected = [labels.index(ids) if ids in labels else -1 for ids in texts]
    assert chosen[:23].tolist() == expected
    assert -1 in expected and max(expected) > 0


def test_a_mesh_changes_nothing(params, tokens):
    labels = LABELS["shared beginnings"]
    alone, several = run(params, tokens, labels), run(params, tokens, labels, Partitioner())
    np.testing.assert_allclose(alone[0][:23], several[0][:23], rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(alone[1][:23], several[1][:23])


def test_the_probability_of_the_greedy_output_is_the_product_of_its_tokens(params, tokens):
    one = Partitioner(devices=jax.devices()[:1])
    ids, scores = decoding.greedy_scored(
        params, one.put_rows(tokens), config=CONFIG, partitioner=one, max_decode_length=6
    )
    for row, output, score in zip(tokens, one.fetch(ids), one.fetch(scores), strict=True):
        output = output[: np.argmax(output == 1) + 1] if 1 in output else output
        expected = label_by_label(params, row[None], [output.tolist()])[0, 0] if row.any() else 0.0
        assert score == pytest.approx(expected, rel=2e-5, abs=2e-5)


@pytest.mark.parametrize("labels", [[], [[5, 1], [5, 1]], [[]], [[5, 1], [5, 1, 6, 1]]])
def test_what_is_no_set_of_labels_is_refused(labels):
    with pytest.raises(ValueError, match="label"):
        label_trie.build(labels)
