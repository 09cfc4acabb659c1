#!/usr/bin/env bash
# jax.device_put(array, may_alias=False) says that it copies; on a CPU it keeps a numpy array's memory
# where that is aligned to 64 bytes, so that a later write to the array changes the jax.Array, and a
# jitted function that is given it (donate_argnums) cannot reuse its memory. jnp.array(copy=True) copies.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
cat > "$work/try.py" <<'PY'
import jax, jax.numpy as jnp, numpy as np
print("jax", jax.__version__)
size = 2**18
room = np.zeros(size + 16, np.float32)
for name, shift in (("aligned to 64 bytes", 0), ("aligned to 4 bytes", 1)):
    first = (-room.ctypes.data % 64) // 4 + shift
    array = room[first : first + size]
    for call, put in (
        ("device_put", jax.device_put),
        ("device_put, may_alias=False", lambda x: jax.device_put(x, may_alias=False)),
        ("device_put twice, may_alias=False", lambda x: jax.device_put(jax.device_put(x), may_alias=False)),
        ("jnp.array, copy=True", lambda x: jnp.array(x, copy=True)),
    ):
        array[:] = 0
        result = put(array).block_until_ready()
        array[0] = 5
        print(f"{name}: {call}: {float(result[0])}")
PY
for version in 0.10.2 0.9.2; do
  python3 -m venv --clear "$work/env"
  "$work/env/bin/pip" install -q --disable-pip-version-check "jax==$version" "jaxlib==$version" 2>/dev/null
  JAX_PLATFORMS=cpu "$work/env/bin/python" "$work/try.py" | tee "$work/seen"
  grep -q "^jax $version" "$work/seen"
  grep -q "^aligned to 64 bytes: device_put, may_alias=False: 5.0" "$work/seen"
  grep -q "^aligned to 4 bytes: device_put, may_alias=False: 0.0" "$work/seen"
  grep -q "^aligned to 64 bytes: device_put twice, may_alias=False: 0.0" "$work/seen"
  grep -q "^aligned to 64 bytes: jnp.array, copy=True: 0.0" "$work/seen"
done
echo "as found: whether may_alias=False copies depends on where numpy put the array"
