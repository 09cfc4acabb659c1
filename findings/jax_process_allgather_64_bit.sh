#!/usr/bin/env bash
# multihost_utils.process_allgather, broadcast_one_to_all and assert_equal give numpy arrays of 64 bits
# back as they are where there is one process. Between two they go through jax's 32 bits without a
# warning: a count of 3,000,000,000 tokens becomes a negative number, hashes that differ in their upper
# half are equal for assert_equal, and 0.1 is not equal to 0.1.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
cat > "$work/try.py" <<'PY'
import sys
import jax, numpy as np
from jax.experimental import multihost_utils

part, parts, port = map(int, sys.argv[1:])
if parts > 1:
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"127.0.0.1:{port}", parts, part)

def equal(values):
    try:
        multihost_utils.assert_equal(values)
    except AssertionError:
        return "not equal"
    return "equal"

tokens = multihost_utils.process_allgather(np.int64(3_000_000_000))
loss = multihost_utils.process_allgather(np.float64(16_777_217))
first = multihost_utils.broadcast_one_to_all(np.int64(3_000_000_000))
hashes = equal(np.int64(7 + (part << 40)))
tenth = equal(np.float64(0.1))
if part == 0:
    print(f"jax {jax.__version__}, processes {jax.process_count()}")
    print("gathered tokens", *tokens.flat, tokens.dtype)
    print("gathered losses", *(f"{value:.0f}" for value in loss.flat), loss.dtype)
    print("broadcast tokens", first, first.dtype)
    print("hashes of different upper halves:", hashes)
    print("0.1 and 0.1 in float64:", tenth)
PY
for version in 0.10.2 0.9.2; do
  python3 -m venv --clear "$work/env"
  "$work/env/bin/pip" install -q --disable-pip-version-check "jax==$version" "jaxlib==$version" 2>/dev/null
  export JAX_PLATFORMS=cpu
  "$work/env/bin/python" "$work/try.py" 0 1 0 | tee "$work/one"
  port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
  "$work/env/bin/python" "$work/try.py" 1 2 "$port" > /dev/null 2>&1 &
  "$work/env/bin/python" "$work/try.py" 0 2 "$port" 2> /dev/null | tee "$work/two"
  wait $!
  grep -q "^jax $version, processes 1" "$work/one"
  grep -q "^gathered tokens 3000000000 int64" "$work/one"
  grep -q "^gathered losses 16777217 float64" "$work/one"
  grep -q "^broadcast tokens 3000000000 int64" "$work/one"
  grep -q "^0.1 and 0.1 in float64: equal" "$work/one"
  grep -q "^jax $version, processes 2" "$work/two"
  grep -q "^gathered tokens -1294967296 -1294967296 int32" "$work/two"
  grep -q "^gathered losses 16777216 16777216 float32" "$work/two"
  grep -q "^broadcast tokens -1294967296 int32" "$work/two"
  grep -q "^hashes of different upper halves: equal" "$work/two"
  grep -q "^0.1 and 0.1 in float64: not equal" "$work/two"
done
echo "as found: between processes 64 bits become 32 without a word, in one process they stay"
