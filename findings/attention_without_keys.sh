#!/usr/bin/env bash
# jax.nn.dot_product_attention and a query without keys: mask= gives the mean of all values, a bias of
# -inf gives NaN and spreads NaN gradients to sound rows, -1e10 gives the mean.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install -q --disable-pip-version-check jax==0.10.2 jaxlib==0.10.2 2>/dev/null
cat > "$work/try.py" <<'PY'
import jax, jax.numpy as jnp
q, k, v = (jax.random.normal(key, (1, 4, 1, 8)) for key in jax.random.split(jax.random.key(0), 3))
visible = jnp.ones((1, 1, 4, 4), bool).at[:, :, 3].set(False)  # query 3 sees nothing
def out(v, **how): return jax.nn.dot_product_attention(q, k, v, **how)
def bias(low): return {"bias": jnp.where(visible, 0.0, low)}
mean = v[0].mean(0)
def report(name, how):
    rows = out(v, **how)[0]
    gradient = jax.grad(lambda v: out(v, **how)[0, :3].sum())(v)  # of the sound rows alone
    print(f"{name}: row 3 is the mean: {bool(jnp.allclose(rows[3], mean, atol=1e-6))}, "
          f"NaN in row 3: {bool(jnp.isnan(rows[3]).any())}, "
          f"NaN in gradient: {bool(jnp.isnan(gradient).any())}")
print(jax.__version__)
report("mask", {"mask": visible})
report("-inf", bias(-jnp.inf))
report("-1e10", bias(-1e10))
PY
JAX_PLATFORMS=cpu "$work/env/bin/python" "$work/try.py" | tee "$work/seen"
grep -q "^0.10.2" "$work/seen"
grep -q "^mask: row 3 is the mean: True, NaN in row 3: False, NaN in gradient: False" "$work/seen"
grep -q "^-inf: row 3 is the mean: False, NaN in row 3: True, NaN in gradient: True" "$work/seen"
grep -q "^-1e10: row 3 is the mean: True, NaN in row 3: False, NaN in gradient: False" "$work/seen"
echo "as found: fold a finite number into the bias, or use mask="
