#!/usr/bin/env bash
# optax.adafactor scales an update by the size of its parameter, and takes a stack of layers (flax
# nn.scan) for one parameter: every layer moves by the size of the largest.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install -q --disable-pip-version-check optax==0.2.8 jax==0.10.2 jaxlib==0.10.2 2>/dev/null
cat > "$work/try.py" <<'PY'
import jax, jax.numpy as jnp, numpy as np, optax
print(optax.__version__, jax.__version__)
draw = np.random.default_rng(0).normal
layers = {"large": jnp.float32(draw(size=(128, 128))), "small": jnp.float32(1e-3 * draw(size=(128, 128)))}
gradients = {name: jnp.float32(draw(size=(128, 128))) for name in layers}
adafactor = optax.adafactor(1e-2)
def size(x): return float(jnp.sqrt(jnp.mean(x**2)))
apart, _ = adafactor.update(gradients, adafactor.init(layers), layers)
stacked = [{"kernel": jnp.stack(list(tree.values()))} for tree in (gradients, layers)]
joined, _ = adafactor.update(stacked[0], adafactor.init(stacked[1]), stacked[1])
for index, name in enumerate(layers):
    a, b = size(apart[name]), size(joined["kernel"][index])
    print(f"{name}: update {a:.1e} apart, {b:.1e} stacked, ratio {b / a:.3g}")
PY
JAX_PLATFORMS=cpu "$work/env/bin/python" "$work/try.py" | tee "$work/seen"
grep -q "^0.2.8 0.10.2" "$work/seen"
grep -q "^large: update 1.0e-02 apart, 7.0e-03 stacked, ratio 0.707" "$work/seen"
grep -q "^small: update 1.0e-05 apart, 7.0e-03 stacked, ratio 704" "$work/seen"
echo "as found: one array per layer for the optimizer, whatever the step stacks"
