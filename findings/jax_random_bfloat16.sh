#!/usr/bin/env bash
# jax.random in bfloat16 is not float32 that was rounded: every draw is made from a uniform number of 7 bits.
# jax.random.categorical on bfloat16 logits over T5's ids never draws the rare ones, a third of the mass, and
# of equal ones only the first; jax.random.normal has 128 values and a mean of -0.012, which moves the outputs
# of a flax layer of param_dtype=bfloat16 by 0.9 of their deviation where its 4,096 inputs are positive.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
cat > "$work/try.py" <<'PY'
import flax, flax.linen as nn, jax, jax.numpy as jnp, numpy as np
print("jax", jax.__version__, "flax", flax.__version__)
key = jax.random.key(0)
size = 32128
chances = np.random.default_rng(0).permutation(1 / np.arange(1, size + 1))
chances /= chances.sum()  # Zipf's law over T5's ids
entropy, rare = -(chances * np.log(chances)).sum(), chances[chances < 1e-4].sum()
inputs = jnp.abs(jax.random.normal(jax.random.key(1), (64, 4096)))
for dtype in (jnp.float32, jnp.bfloat16):
    draw = jax.jit(jax.vmap(jax.random.categorical, (0, None)))
    keys, name = jax.random.split(key, 5000), dtype.dtype.name
    ids = np.asarray(draw(keys, jnp.log(chances).astype(dtype)))
    print(f"{name}: 5,000 draws, {len(set(ids.tolist()))} ids, mean -log p {-np.log(chances[ids]).mean():.1f} "
          f"of {entropy:.1f}, ids rarer than 1e-4 {(chances[ids] < 1e-4).mean():.2f} of {rare:.2f}")
    ids = np.asarray(draw(keys[:500], jnp.zeros(size, dtype)))
    print(f"{name}: 500 draws of {size} equal ids, the largest is {ids.max()}")
    x = jax.random.normal(key, (1_000_000,), dtype).astype(jnp.float32)
    print(f"{name}: normal has {len(np.unique(x))} values, mean {x.mean():.3f}, largest {abs(x).max():.2f}")
    share = jax.random.bernoulli(key, dtype(0.001), (1_000_000,)).mean()
    print(f"{name}: bernoulli of 0.001 is {share:.4f}")
    layer = nn.Dense(1024, dtype=jnp.float32, param_dtype=dtype)
    y = layer.apply(layer.init(key, inputs), inputs)
    print(f"{name}: Dense at its start has mean {y.mean():.1f} and standard deviation {y.std():.1f}")
PY
python3 -m venv "$work/env"
"$work/env/bin/pip" install -q --disable-pip-version-check jax==0.10.2 jaxlib==0.10.2 flax==0.12.8 2>/dev/null
JAX_PLATFORMS=cpu "$work/env/bin/python" "$work/try.py" 2>/dev/null | tee "$work/seen"
grep -q "^jax 0.10.2 flax 0.12.8" "$work/seen"
grep -q "^float32: 5,000 draws, 2128 ids, mean -log p 7.3 of 7.3, ids rarer than 1e-4 0.33 of 0.33" "$work/seen"
grep -q "^bfloat16: 5,000 draws, 118 ids, mean -log p 4.0 of 7.3, ids rarer than 1e-4 0.00 of 0.33" "$work/seen"
grep -q "^bfloat16: 500 draws of 32128 equal ids, the largest is 853" "$work/seen"
grep -q "^bfloat16: normal has 128 values, mean -0.012, largest 2.89" "$work/seen"
grep -q "^bfloat16: bernoulli of 0.001 is 0.0077" "$work/seen"
grep -q "^bfloat16: Dense at its start has mean -0.9 and standard deviation 1.0" "$work/seen"
echo "as found: draw in float32 and round; logits are widened to float32 before they are sampled"
