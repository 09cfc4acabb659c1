#!/usr/bin/env bash
# On a CPU the gradient of what is used more than once in bfloat16 is added up in bfloat16 and stands still
# at 256 times a share, where jnp.sum and a matrix product add up in float32: embeddings that are looked up,
# biases that are broadcast. flax layers of dtype=bfloat16 with parameters in float32 are among them, since
# they cast a parameter before they use it: the most frequent of 16,384 tokens can lose half of its gradient,
# a bias 3/4, a bucket of T5's relative positions (every pair of positions is a look-up) 96 %.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install -q --disable-pip-version-check jax==0.10.2 jaxlib==0.10.2 flax==0.12.8 2>/dev/null
cat > "$work/try.py" <<'PY'
import flax, flax.linen as nn, jax, jax.numpy as jnp, numpy as np
print("jax", jax.__version__, "flax", flax.__version__)
zeros = jnp.zeros(10_000, jnp.int32)
for name, look_up in (
    ("jnp.take", lambda table, ids: jnp.take(table, ids, axis=0)),
    ("cast, then jnp.take", lambda table, ids: jnp.take(table.astype(jnp.float32), ids, axis=0)),
    ("one-hot product", lambda table, ids: jax.nn.one_hot(ids, 4, dtype=table.dtype) @ table),
):
    gradient = jax.jit(jax.grad(lambda table, ids: look_up(table, ids).astype(jnp.float32).sum()))
    print(f"{name}: {float(gradient(jnp.ones((4, 8), jnp.bfloat16), zeros)[0, 0]):.0f} of 10000")

layer, x = nn.Dense(8, dtype=jnp.bfloat16), jnp.zeros((32, 512, 8))
variables = layer.init(jax.random.key(0), x)
ones = jnp.ones((32, 512, 8), jnp.bfloat16)
pull_back = jax.jit(lambda variables, x, ones: jax.vjp(lambda v: layer.apply(v, x), variables)[1](ones)[0])
bias = pull_back(variables, x, ones)["params"]["bias"]
print(f"bias of nn.Dense: {bias.dtype}, {bias[0]:.0f} of {jnp.sum(ones, axis=(0, 1))[0]:.0f}")

def gradient(dtype, size, features, ids, upstream):
    layer = nn.Embed(size, features, dtype=dtype)  # param_dtype is float32

    @jax.jit
    def pull_back(variables, ids, upstream):
        return jax.vjp(lambda variables: layer.apply(variables, ids), variables)[1](upstream.astype(dtype))[0]

    table = pull_back(layer.init(jax.random.key(0), ids), ids, upstream)["params"]["embedding"]
    assert table.dtype == jnp.float32
    return np.asarray(table)

def compare(name, size, features, ids, mean):
    upstream = 1e-3 * (mean + jax.random.normal(jax.random.key(1), (*ids.shape, features)))
    true, half = (gradient(dtype, size, features, ids, upstream) for dtype in (jnp.float32, jnp.bfloat16))
    row = np.bincount(ids.ravel()).argmax()
    length, error = np.linalg.norm(half[row]), np.linalg.norm(half[row] - true[row])
    whole = np.linalg.norm(true[row])
    print(f"{name}, {(ids == row).sum()} look-ups of one id, their gradients' mean {mean} of their deviation: "
          f"length {length / whole:.2f} of the true one, error {error / whole:.2f}")

chances = 1 / np.arange(1, 1001)
tokens = np.random.default_rng(0).choice(1000, p=chances / chances.sum(), size=(32, 512))
distance = np.arange(512)[None] - np.arange(512)[:, None]
buckets = np.clip(distance // 16 + 16, 0, 31)
for mean in (1, 0):
    compare("tokens", 1000, 16, tokens, mean)
    compare("relative positions", 32, 8, buckets, mean)
PY
JAX_PLATFORMS=cpu "$work/env/bin/python" "$work/try.py" 2>/dev/null | tee "$work/seen"
grep -q "^jax 0.10.2 flax 0.12.8" "$work/seen"
grep -q "^jnp.take: 256 of 10000" "$work/seen"
grep -q "^cast, then jnp.take: 9984 of 10000" "$work/seen"
grep -q "^one-hot product: 9984 of 10000" "$work/seen"
grep -q "^bias of nn.Dense: float32, 4096 of 16384" "$work/seen"
grep -q "^tokens, 2202 .* mean 1 of .*: length 0.46 of the true one, error 0.54" "$work/seen"
grep -q "^relative positions, 37128 .* mean 1 of .*: length 0.04 of the true one, error 0.96" "$work/seen"
grep -q "^relative positions, 37128 .* mean 0 of .*: length 0.93 of the true one, error 0.16" "$work/seen"
echo "as found: look up and broadcast in float32 and cast the result, not the parameter"
