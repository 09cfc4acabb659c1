#!/usr/bin/env bash
# jnp.max and jnp.min on a CPU lose a NaN: in float32 arrays (of 4,096 numbers and more in jax 0.10.2,
# of some tens of thousands in 0.9.2), where XLA hands reductions to YNNPACK; and in arrays of any size
# that are sharded over devices, in 0.8.2 too. A guard such as isfinite(max(abs(params))) passes; sums
# keep the NaN.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
cat > "$work/try.py" <<'PY'
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

mesh = Mesh(jax.devices(), "data")

def lost(size, put=jnp.asarray, dtype=np.float32, of=lambda x: jnp.max(jnp.abs(x))):
    """Of 20 arrays with one NaN, how many have a number for their maximum."""
    rng = np.random.default_rng(0)
    count = 0
    for _ in range(20):
        array = rng.normal(size=size).astype(dtype)
        array[rng.integers(size)] = np.nan
        count += bool(jnp.isfinite(of(put(array))))
    return count

sharded = lambda x: jax.device_put(x, NamedSharding(mesh, PartitionSpec("data")))
print("jax", jax.__version__)
print("1,000 numbers:", lost(1_000))
print("100,000 numbers:", lost(100_000))
print("100,000 numbers, min:", lost(100_000, of=jnp.min))
print("100,000 numbers, bfloat16:", lost(100_000, dtype=jnp.bfloat16))
print("100,000 numbers, sum:", lost(100_000, of=jnp.sum))
print("1,000 numbers over 4 devices:", lost(1_000, sharded))
print("1,000 numbers over 4 devices, sum:", lost(1_000, sharded, of=jnp.sum))
PY
export JAX_PLATFORMS=cpu
devices=--xla_force_host_platform_device_count=4
for version in 0.8.2 0.10.2; do
  python3 -m venv --clear "$work/env"
  "$work/env/bin/pip" install -q --disable-pip-version-check "jax==$version" "jaxlib==$version" 2>/dev/null
  XLA_FLAGS=$devices "$work/env/bin/python" "$work/try.py" | tee "$work/$version"
  grep -q "^jax $version" "$work/$version"
  grep -q "^1,000 numbers: 0" "$work/$version"
  grep -q "^100,000 numbers, bfloat16: 0" "$work/$version"
  grep -q "^100,000 numbers, sum: 0" "$work/$version"
  grep -q "^1,000 numbers over 4 devices: 20" "$work/$version"
  grep -q "^1,000 numbers over 4 devices, sum: 0" "$work/$version"
done
grep -q "^100,000 numbers: 0" "$work/0.8.2"
grep -q "^100,000 numbers: 20" "$work/0.10.2"
grep -q "^100,000 numbers, min: 20" "$work/0.10.2"
XLA_FLAGS="$devices --xla_cpu_experimental_ynn_fusion_type=" "$work/env/bin/python" "$work/try.py" > "$work/without"
echo "without YNNPACK: $(grep "^100,000 numbers:" "$work/without")"
grep -q "^100,000 numbers: 0" "$work/without"
grep -q "^1,000 numbers over 4 devices: 20" "$work/without"
echo "as found: whether a maximum keeps a NaN depends on size and shards"
