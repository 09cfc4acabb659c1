#!/usr/bin/env bash
# StandardCheckpointer.restore casts to its target's dtype, and warns of nothing: integers are rounded to
# bfloat16 or overflow float16, weights are cut to int32 and wrap around in int8. So a whole state that is
# restored "in bfloat16" has another step and another random key. A target of another shape is an error
# where it is a jax array; where it is a numpy array the shape is ignored and the stored one comes back.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install -q --disable-pip-version-check \
  orbax-checkpoint==0.12.8 tensorstore==0.1.86 jax==0.10.2 jaxlib==0.10.2 2>/dev/null
cat > "$work/try.py" <<'PY'
import importlib.metadata, logging, pathlib, sys, warnings
import numpy as np, jax, jax.numpy as jnp, orbax.checkpoint as ocp
print(*(importlib.metadata.version(name) for name in ("orbax-checkpoint", "jax")))
folder = pathlib.Path(sys.argv[1]) / "checkpoint"
state = {
    "key": jax.random.key_data(jax.random.key(12345678)),
    "step": jnp.int32(100_001),
    "w": jnp.array([0.75, -0.5, 300.7], jnp.float32),
}
checkpointer = ocp.StandardCheckpointer()
checkpointer.save(folder, state); checkpointer.wait_until_finished()
logged = []
handler = logging.Handler(logging.WARNING); handler.emit = logged.append
for name in ("", "absl"): logging.getLogger(name).addHandler(handler)
with warnings.catch_warnings(record=True) as warned:
    warnings.simplefilter("always")
    for dtype in ("bfloat16", "float16", "int32", "int8"):
        found = checkpointer.restore(
            folder, jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, dtype), state)
        )
        print(f"all in {dtype}:", {name: np.asarray(x).tolist() for name, x in found.items()})
print(len(warned), "warnings,", len(logged), "lines logged as warnings")
for kind, make in (("jax", jnp.zeros), ("numpy", np.zeros)):
    for shape in ((2,), (3, 5)):
        try:
            target = {**state, "w": make(shape, np.float32)}
            found = f"the shape of what is restored is {checkpointer.restore(folder, target)['w'].shape}"
        except ValueError as error:
            found = f"ValueError: {str(error)[:68]}"
        print(f"{kind} target of shape {shape}: {found}")
PY
JAX_PLATFORMS=cpu "$work/env/bin/python" "$work/try.py" "$work" 2>/dev/null | tee "$work/seen"
grep -q "^0.12.8 0.10.2" "$work/seen"
grep -q "^all in bfloat16: {'key': \[0.0, 12320768.0\], 'step': 99840.0, " "$work/seen"
grep -q "^all in float16: {'key': \[0.0, inf\], 'step': inf, " "$work/seen"
grep -q "^all in int32: .* 'w': \[0, 0, 300\]}" "$work/seen"
grep -q "^all in int8: .* 'step': -95, 'w': \[0, 0, 44\]}" "$work/seen"
grep -q "^0 warnings, 0 lines logged" "$work/seen"
grep -q "^jax target of shape (2,): ValueError" "$work/seen"
grep -q "^numpy target of shape (3, 5): the shape of what is restored is (3,)" "$work/seen"
echo "as found: compare shapes and dtypes with the checkpoint's metadata before restoring"
