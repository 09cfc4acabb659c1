#!/usr/bin/env bash
# optax.global_norm adds the squares of all leaves in the leaves' own dtype: in bfloat16 the sum stands
# still at 256 times a leaf's, so clip_by_global_norm leaves gradients of many leaves too long.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install -q --disable-pip-version-check optax==0.2.8 jax==0.10.2 jaxlib==0.10.2 2>/dev/null
cat > "$work/try.py" <<'PY'
import jax, jax.numpy as jnp, numpy as np, optax
def length(tree): return float(np.sqrt(sum(np.sum(np.float64(x) ** 2) for x in jax.tree.leaves(tree))))
print(optax.__version__, jax.__version__)
clip = optax.clip_by_global_norm(1.0)
for leaves in (100, 300, 600):  # a T5 of 24 + 24 layers has 558
    for dtype in (jnp.float32, jnp.bfloat16):
        # every leaf has length 1; 2**-5 is exact in both dtypes
        gradients = {str(i): jnp.full((1024,), 2**-5, dtype) for i in range(leaves)}
        clipped, _ = clip.update(gradients, clip.init(gradients))
        print(f"{leaves} leaves {dtype.dtype.name}: true {length(gradients):.3f} "
              f"global_norm {float(optax.global_norm(gradients)):.3f} clipped to 1.0 is {length(clipped):.2f}")
PY
JAX_PLATFORMS=cpu "$work/env/bin/python" "$work/try.py" | tee "$work/seen"
grep -q "^0.2.8 0.10.2" "$work/seen"
grep -q "^600 leaves float32: true 24.495 global_norm 24.495 clipped to 1.0 is 1.00" "$work/seen"
grep -q "^300 leaves bfloat16: true 17.321 global_norm 16.000 clipped to 1.0 is 1.08" "$work/seen"
grep -q "^600 leaves bfloat16: true 24.495 global_norm 16.000 clipped to 1.0 is 1.53" "$work/seen"
echo "as found: widen gradients to float32 before optax takes their norm"
