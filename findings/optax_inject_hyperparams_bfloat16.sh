#!/usr/bin/env bash
# optax.inject_hyperparams keeps every number of an optimizer in the gradients' dtype: in bfloat16 Adam's
# b2 = 0.999 becomes 1.0, the bias correction divides by 1 - 1, and the first update is NaN.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install -q --disable-pip-version-check optax==0.2.8 jax==0.10.2 jaxlib==0.10.2 2>/dev/null
cat > "$work/try.py" <<'PY'
import jax, jax.numpy as jnp, optax
print(optax.__version__, jax.__version__)
for dtype in (jnp.float32, jnp.bfloat16):
    for name, wrap in (("plain", lambda make: make), ("injected", optax.inject_hyperparams)):
        params, gradients = {"w": jnp.ones(4, dtype)}, {"w": jnp.full(4, 0.5, dtype)}
        optimizer = wrap(optax.adamw)(1e-3)
        updates, state = optimizer.update(gradients, optimizer.init(params), params)
        b2 = state.hyperparams["b2"] if name == "injected" else 0.999
        print(f"{dtype.dtype.name} {name}: b2 {float(b2):.6g} first update {float(updates['w'][0]):.3g}")
PY
JAX_PLATFORMS=cpu "$work/env/bin/python" "$work/try.py" | tee "$work/seen"
grep -q "^0.2.8 0.10.2" "$work/seen"
grep -q "^float32 injected: b2 0.999 first update -0.001" "$work/seen"
grep -q "^bfloat16 plain: b2 0.999 first update -0.00099" "$work/seen"
grep -q "^bfloat16 injected: b2 1 first update nan" "$work/seen"
echo "as found: pass hyperparam_dtype=jnp.float32, or keep the numbers out of the state"
