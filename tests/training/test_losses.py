"""The paper's equation: token means per task, weighted, whatever the layout."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sbs_jax.training import losses


def batch_with(task_ids: list[list[int]]) -> dict:
    ids = jnp.array(task_ids, jnp.int32)
    return {
        "decoder_task_ids": ids,
        "decoder_loss_weights": (ids > 0).astype(jnp.int32),
        "decoder_target_tokens": jnp.arange(ids.size, dtype=jnp.int32).reshape(ids.shape) % 5,
    }


def loss_of(logits: np.ndarray, batch: dict, weights: jnp.ndarray) -> float:
    sums, _ = losses.task_sums(jnp.asarray(logits), batch)
    return float(losses.weighted_loss(sums, losses.task_counts(batch), weights))


def reference(logits: np.ndarray, batch: dict, alpha: float) -> float:
    """The equation written out in float64 numpy, token by token."""
    means = []
    for task in (1, 2):
        terms = [
            -(
                logits[r, c, batch["decoder_target_tokens"][r, c]]
                - np.log(np.sum(np.exp(logits[r, c])))
            )
            for r, c in np.argwhere(np.asarray(batch["decoder_task_ids"]) == task)
        ]
        means.append(np.mean(terms))
    return alpha * means[0] + (1 - alpha) * means[1]


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.5, 1.0])
def test_loss_is_the_weighted_sum_of_token_means(alpha):
    batch = batch_with([[1, 1, 2, 2, 2, 0], [2, 2, 2, 2, 0, 0]])
    logits = np.random.default_rng(0).normal(size=(2, 6, 5)).astype(np.float32)
    weights = losses.task_weights(("label", "rationale"), alpha)
    assert loss_of(logits, batch, weights) == pytest.approx(
        reference(logits.astype(np.float64), batch, alpha), rel=1e-6
    )


@pytest.mark.parametrize(("alpha", "silent_task"), [(0.0, 1), (1.0, 2)])
def test_alpha_zero_and_one_are_exact_single_task_limits(alpha, silent_task):
    batch = batch_with([[1, 1, 2, 2, 2, 0]])
    weights = losses.task_weights(("label", "rationale"), alpha)
    logits = np.random.default_rng(0).normal(size=(1, 6, 5)).astype(np.float32)
    changed = logits.copy()
    changed[np.asarray(batch["decoder_task_ids"]) == silent_task] *= -3.0
    assert loss_of(logits, batch, weights) == loss_of(changed, batch, weights)


def test_a_single_task_is_not_scaled_by_alpha():
    np.testing.assert_array_equal(losses.task_weights(("label",), 0.1), [1.0, 0.0])
    np.testing.assert_array_equal(losses.task_weights(("rationale",), 0.1), [0.0, 1.0])


def test_padding_counts_for_nothing_and_a_missing_task_gives_no_nan():
    batch = batch_with([[1, 1, 0, 0]])
    logits = np.zeros((1, 4, 5), np.float32)
    weights = losses.task_weights(("label", "rationale"), 0.5)
    assert loss_of(logits, batch, weights) == pytest.approx(0.5 * np.log(5), rel=1e-6)
    np.testing.assert_array_equal(losses.task_counts(batch), [2.0, 0.0])


def test_hits_count_the_most_likely_tokens():
    batch = batch_with([[1, 2, 2, 0]])
    logits = np.full((1, 4, 5), -1.0, np.float32)
    logits[0, 0, 0] = logits[0, 1, 4] = logits[0, 2, 2] = 1.0  # targets 0, 1, 2
    _, hits = losses.task_sums(jnp.asarray(logits), batch)
    np.testing.assert_array_equal(hits, [1.0, 1.0])


def test_alpha_outside_its_range_is_refused():
    with pytest.raises(ValueError, match=r"alpha is 1\.5"):
        losses.task_weights(("label", "rationale"), 1.5)


@pytest.mark.parametrize("spread", [1.0, 30.0, 1e4])
def test_cross_entropy_and_its_gradient_are_those_of_a_softmax(spread):
    rng = np.random.default_rng(0)
    logits = jnp.asarray(spread * rng.normal(size=(2, 5, 33)), jnp.float32)
    targets = jnp.asarray(rng.integers(0, 33, (2, 5)), jnp.int32)
    slopes = jnp.asarray(rng.normal(size=(2, 5)), jnp.float32)

    def plain(logits: jax.Array) -> jax.Array:
        one_hot = jax.nn.one_hot(targets, logits.shape[-1])
        return -jnp.sum(one_hot * jax.nn.log_softmax(logits), axis=-1)

    ours, pull = jax.vjp(lambda x: losses.cross_entropy(x, targets)[0], logits)
    theirs, pull_plain = jax.vjp(plain, logits)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(pull(slopes)[0], pull_plain(slopes)[0], rtol=1e-4, atol=1e-6)
