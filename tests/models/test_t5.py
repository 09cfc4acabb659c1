"""The student: names, sizes, masks and the equivalence of its three ways to run."""

import dataclasses

import jax
import jax.extend.core
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from sbs_jax.configs import T5Config
from sbs_jax.models import layers, stacks, t5
from sbs_jax.models.t5 import Transformer

TINY = T5Config(
    vocab_size=96,
    emb_dim=16,
    num_heads=2,
    num_encoder_layers=2,
    num_decoder_layers=2,
    head_dim=8,
    mlp_dim=32,
)
TIED = T5Config(**{**vars(TINY), "mlp_activations": ("relu",), "logits_via_embedding": True})


def batch_of(rows: list[tuple[list[int], list[int]]], width: int = 8) -> dict:
    """One sequence a row, padded to `width`."""

    def padded(sequences: list[list[int]]) -> jax.Array:
        return jnp.array([ids + [0] * (width - len(ids)) for ids in sequences], jnp.int32)

    encoder = padded([inputs for inputs, _ in rows])
    decoder = padded([targets for _, targets in rows])
    return {
        "encoder_input_tokens": encoder,
        "encoder_segment_ids": (encoder > 0).astype(jnp.int32),
        "decoder_input_tokens": jnp.pad(decoder, ((0, 0), (1, 0)))[:, :-1],
        "decoder_target_tokens": decoder,
        "decoder_segment_ids": (decoder > 0).astype(jnp.int32),
    }


BATCH = batch_of([([7, 8, 9, 1], [5, 6, 7, 1]), ([4, 1], [9, 1])])


def names(config: T5Config) -> set[str]:
    params = t5.init_params(config, jax.random.key(0))
    leaves = jax.tree_util.tree_flatten_with_path(params)[0]
    return {"/".join(key.key for key in path) for path, _ in leaves}


def test_parameter_names_are_t5x_names():
    found = names(TINY)
    assert {
        "token_embedder/embedding",
        "encoder/relpos_bias/rel_embedding",
        "encoder/layers_1/attention/query/kernel",
        "encoder/layers_0/pre_attention_layer_norm/scale",
        "encoder/layers_0/mlp/wi_1/kernel",
        "encoder/encoder_norm/scale",
        "decoder/layers_0/self_attention/out/kernel",
        "decoder/layers_1/encoder_decoder_attention/value/kernel",
        "decoder/layers_0/pre_cross_attention_layer_norm/scale",
        "decoder/decoder_norm/scale",
        "decoder/logits_dense/kernel",
    } <= found
    # 3 shared + per encoder layer 4 + 3 + 2 + per decoder layer 8 + 3 + 3, two norms, two biases.
    assert len(found) == 2 + 2 + 2 + 2 * 9 + 2 * 14
    assert {"encoder/layers_0/mlp/wi/kernel"} <= names(TIED)
    assert "decoder/logits_dense/kernel" not in names(TIED)


def test_parameter_shapes_match_a_checkpoint_of_upstream_t5x(shared):
    recorded = np.load(shared / "vectors" / "t5x_checkpoint" / "checkpoint_3_params.npz")
    config = T5Config(
        vocab_size=4224,
        emb_dim=128,
        num_heads=2,
        num_encoder_layers=2,
        num_decoder_layers=2,
        head_dim=64,
        mlp_dim=256,
    )
    shapes = jax.eval_shape(lambda: t5.init_params(config, jax.random.key(0)))
    leaves = jax.tree_util.tree_flatten_with_path(shapes)[0]
    ours = {"/".join(key.key for key in path): leaf.shape for path, leaf in leaves}
    assert ours == {name: recorded[name].shape for name in recorded.files}


@pytest.mark.parametrize("config", [TINY, TIED], ids=["v1.1", "v1.0"])
def test_a_target_sees_its_past_and_never_its_future(config):
    params = t5.init_params(config, jax.random.key(0))
    embedded = jax.random.normal(jax.random.key(1), (1, 6, config.emb_dim))
    encoded = jax.random.normal(jax.random.key(2), (1, 3, config.emb_dim))

    def third_output(x: jax.Array) -> jax.Array:
        module = Transformer(config).bind({"params": params})
        ones = jnp.ones((1, 6), jnp.int32)
        return jnp.sum(module.decoder(x, encoded, ones, ones, ones[:, :3], True)[0, 2] ** 2)

    influence = jnp.abs(jax.grad(third_output)(embedded)[0]).sum(axis=-1)
    assert np.all(influence[:3] > 0)
    assert np.all(influence[3:] == 0)


def test_padding_and_neighbours_do_not_move_a_row():
    params = t5.init_params(TINY, jax.random.key(0))
    apply = jax.jit(lambda batch: Transformer(TINY).apply({"params": params}, batch))
    both = apply(BATCH)
    alone = apply(batch_of([([4, 1], [9, 1])], width=24))
    np.testing.assert_allclose(both[1, :2], alone[0, :2], atol=2e-6)


def test_cached_steps_give_the_logits_of_the_whole_sequence():
    params = t5.init_params(TINY, jax.random.key(0))
    module = Transformer(TINY)
    whole = module.apply({"params": params}, BATCH)
    segments = BATCH["encoder_segment_ids"]

    def method(name: str, *args: object) -> object:
        return module.apply({"params": params}, *args, method=name)

    encoded = method("encode", BATCH["encoder_input_tokens"], segments)
    empty = jnp.zeros((len(segments), TINY.num_heads, 8, TINY.head_dim))
    caches = [
        {"key": empty, "value": empty, "encoder_key": key, "encoder_value": value}
        for key, value in method("encoder_keys_values", encoded)
    ]
    for index in range(4):
        tokens = BATCH["decoder_input_tokens"][:, index]
        logits, caches = method("decode_step", tokens, jnp.int32(index), caches, segments > 0)
        np.testing.assert_allclose(logits[0], whole[0, index], atol=5e-6)


def buckets_of(queries: int, keys: int, bidirectional: bool) -> np.ndarray:
    distance = np.arange(queries)[:, None] - np.arange(keys)[None, :]
    return layers.distance_buckets(distance, bidirectional)


def test_relative_buckets_are_exact_when_near_and_capped_when_far():
    past = buckets_of(300, 300, bidirectional=False)
    assert past[20, 20 - 15] == 15  # exact below 16
    assert past[40, 40 - 16] == 16 and past[40, 0] == 16 + int(16 * np.log(40 / 16) / np.log(8))
    assert past[299, 0] == 31 and past[0, 299] == 0  # capped; the future is one bucket
    both = buckets_of(300, 300, bidirectional=True)
    assert both[5, 0] == 5 and both[0, 5] == 16 + 5
    assert both[299, 0] == 15 and both[0, 299] == 31


def loss_and_gradients(config: T5Config) -> tuple[jax.Array, dict]:
    params = t5.init_params(config, jax.random.key(0))

    def loss(params: dict) -> jax.Array:
        return jnp.sum(Transformer(config).apply({"params": params}, BATCH) ** 2)

    return jax.jit(jax.value_and_grad(loss))(params)


@pytest.mark.parametrize(
    ("policy", "scan_layers"),
    [
        pytest.param("minimal", False, marks=pytest.mark.slow),
        pytest.param("full", False, marks=pytest.mark.slow),
        ("minimal", True),
        pytest.param("full", True, marks=pytest.mark.slow),
    ],
)
def test_remat_and_scan_change_no_number(policy, scan_layers):
    changed = dataclasses.replace(TINY, remat_policy=policy, scan_layers=scan_layers)
    (loss, grads), (wanted_loss, wanted) = loss_and_gradients(changed), loss_and_gradients(TINY)
    np.testing.assert_allclose(loss, wanted_loss, rtol=1e-6)
    assert jax.tree.structure(grads) == jax.tree.structure(wanted)
    for found, leaf in zip(jax.tree.leaves(grads), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(found, leaf, rtol=1e-4, atol=1e-4)


def test_a_remat_policy_decides_what_is_kept():
    """Between the passes: full keeps least, minimal the matrix products with parameters besides."""

    def kept(policy: str) -> int:
        config = dataclasses.replace(TINY, remat_policy=policy)
        params = t5.init_params(config, jax.random.key(0))

        def logits(params: dict) -> jax.Array:
            return Transformer(config).apply({"params": params}, BATCH)

        residuals = jax.eval_shape(lambda p: jax.vjp(logits, p)[1], params)
        return sum(leaf.size for leaf in jax.tree.leaves(residuals))

    assert kept("full") < kept("minimal") < kept("none")


def test_scan_compiles_one_layer_however_deep_the_stack():
    def program(depth: int, scan_layers: bool) -> int:
        config = dataclasses.replace(
            TINY,
            num_encoder_layers=depth,
            num_decoder_layers=depth,
            remat_policy="full",
            scan_layers=scan_layers,
        )
        params = jax.eval_shape(lambda: t5.init_params(config, jax.random.key(0)))
        jaxpr = jax.make_jaxpr(lambda p: Transformer(config).apply({"params": p}, BATCH))(params)
        return products(jaxpr.jaxpr)

    assert program(6, True) == program(3, True) < program(3, False) < program(6, False)


def products(jaxpr) -> int:
    """Matrix products of a program, those of a called function once a call."""
    inner = [sub for eqn in jaxpr.eqns for sub in jax.extend.core.jaxprs_in_params(eqn.params)]
    own = sum(eqn.primitive.name == "dot_general" for eqn in jaxpr.eqns)
    return own + sum(products(getattr(sub, "jaxpr", sub)) for sub in inner)


@pytest.mark.parametrize("scan_layers", [False, True])
def test_every_layer_and_row_meets_its_own_dropout(scan_layers):
    """Layers that add their noise to x: twice the same would double some numbers."""

    class Adds(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array, bits: jax.Array) -> jax.Array:
            self.param("zero", nn.initializers.zeros, ())
            return jnp.concatenate([x[:, 1:], bits[:, None].astype(jnp.float32)], axis=1)

    class Stack(nn.Module):
        config: T5Config
        max_segments: int = 2

        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            bits, _ = stacks.draw_bits(self, False, 3, x.shape[0], 2, 5)
            return stacks.run_layers(self, Adds(parent=None), 3, x, bits)

    config = dataclasses.replace(TINY, dropout_rate=0.5, scan_layers=scan_layers)
    size = layers.noise_size(config, 2, 2, (5,))
    zero = {"params": {f"layers_{i}": {"zero": jnp.zeros(())} for i in range(3)}}
    x = jnp.zeros((2, 3, size))
    found = np.asarray(Stack(config).apply(zero, x, rngs={"dropout": jax.random.key(0)}))
    seen = {row.tobytes() for row in found.reshape(-1, size)}
    assert len(seen) == 6, "three layers, two rows"
    again = Stack(config).apply(zero, x, rngs={"dropout": jax.random.key(1)})
    assert np.any(np.asarray(again) != found)


def test_bfloat16_computes_in_bfloat16_and_answers_in_float32():
    config = T5Config(**{**vars(TINY), "dtype": "bfloat16"})
    params = t5.init_params(config, jax.random.key(0))
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(params))
    logits = Transformer(config).apply({"params": params}, BATCH)
    assert logits.dtype == jnp.float32
    exact = Transformer(TINY).apply({"params": params}, BATCH)
    assert 0 < float(jnp.max(jnp.abs(logits[0, :4] - exact[0, :4]))) < 0.3


def noise_of(segment_ids: jax.Array, numbers: int, max_segments: int = 4) -> layers.Noise:
    bits = jax.random.bits(jax.random.key(0), (segment_ids.shape[0], numbers), jnp.uint16)
    return layers.Noise(bits, 0.5, max_segments, segment_ids)


def test_a_dropout_mask_holds_for_one_sequence_and_for_all_its_positions():
    x = jnp.ones((2, 6, 64))
    segments = jnp.array([[1, 1, 2, 2, 3, 3], [1, 1, 1, 1, 2, 2]])
    out = np.asarray(noise_of(segments, 4 * 64).sequences(x))
    assert set(np.unique(out)) == {0.0, 2.0}  # kept values are scaled to keep the mean
    masks = [
        out[row, np.asarray(segments[row]) == s] for row, s in ((0, 1), (0, 2), (0, 3), (1, 1))
    ]
    for mask in masks:
        assert (mask == mask[0]).all()
    assert len({mask[0].tobytes() for mask in masks}) == len(masks)


@pytest.mark.parametrize("rate", [0.05, 0.1, 0.5])
def test_dropout_drops_at_its_rate_and_keeps_the_mean(rate):
    bits = jax.random.bits(jax.random.key(0), (8, 64 * 500), jnp.uint16)
    noise = layers.Noise(bits, rate, 1, jnp.ones((8, 64), jnp.int32))
    out = np.asarray(noise.keys(jnp.ones((8, 64, 500, 1))))
    assert np.mean(out == 0) == pytest.approx(rate, abs=0.003)
    assert np.mean(out) == pytest.approx(1.0, abs=0.01)


def test_masked_values_are_masked_attention_weights():
    """Dropout on the weights, one mask per key for all queries, is dropout on the rows of V."""
    rng = np.random.default_rng(0)
    weights = jax.nn.softmax(jnp.asarray(rng.normal(size=(2, 4, 6, 6)), jnp.float32))
    values = jnp.asarray(rng.normal(size=(2, 6, 4, 16)), jnp.float32)
    noise = noise_of(jnp.ones((2, 6), jnp.int32), 24)
    found = jnp.einsum("bhql,blhk->bqhk", weights, noise.keys(values))
    keep = noise_of(jnp.ones((2, 6), jnp.int32), 24).keys(jnp.ones((2, 6, 4, 1)))
    dropped = weights * keep.transpose(0, 2, 3, 1)
    assert 0.2 < np.mean(np.asarray(dropped) == 0) < 0.8
    wanted = jnp.einsum("bhql,blhk->bqhk", dropped, values)
    np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("queries", "keys"), [(1, 1), (5, 5), (7, 4), (4, 7), (130, 150)])
@pytest.mark.parametrize("bidirectional", [True, False])
def test_the_position_bias_and_its_gradient_are_those_of_a_gather(queries, keys, bidirectional):
    module = layers.RelativePositionBias(TINY, bidirectional)
    params = module.init(jax.random.key(0), queries, keys)
    slopes = jax.random.normal(jax.random.key(1), (1, TINY.num_heads, queries, keys))
    buckets = buckets_of(queries, keys, bidirectional)

    def gathered(params: dict) -> jax.Array:
        return params["params"]["rel_embedding"][:, buckets][None]

    ours = jax.vjp(lambda p: module.apply(p, queries, keys), params)
    plain = jax.vjp(gathered, params)
    np.testing.assert_array_equal(ours[0], plain[0])
    found, wanted = (jax.tree.leaves(pull(slopes))[0] for _, pull in (ours, plain))
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("bidirectional", [True, False])
def test_the_bias_of_one_query_is_its_row_of_the_whole(bidirectional):
    module = layers.RelativePositionBias(TINY, bidirectional)
    params = module.init(jax.random.key(0), 9, 9)
    whole = module.apply(params, 9, 9)
    for index in (0, 4, 8):
        row = module.apply(params, jnp.int32(index), 9, method="of_last")
        np.testing.assert_array_equal(
            row[..., : index + 1], whole[:, :, index : index + 1, : index + 1]
        )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_masked_bias_sums_its_gradient_in_float32(dtype):
    """512 rows of 2**-8 beside one of 1: added one by one in bfloat16, they would be lost."""
    bias = jnp.zeros((1, 1, 1, 2), dtype)
    mask = jnp.ones((513, 1, 1, 2), bool).at[:, :, :, 1].set(False)
    slopes = jnp.full((513, 1, 1, 2), 2.0**-8, dtype).at[0].set(1)
    out, pull = jax.vjp(lambda b: layers.masked_bias(b, mask), bias)
    assert out.dtype == dtype and np.all(np.asarray(out[..., 1]) < -9e9)
    np.testing.assert_array_equal(pull(slopes)[0].astype(jnp.float32), [[[[3.0, 0.0]]]])
