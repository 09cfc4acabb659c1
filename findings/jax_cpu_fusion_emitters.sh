#!/usr/bin/env bash
# On a CPU, jax 0.10.2 compiles a draw of jax.random.normal 1.6 times as fast once XLA's fusion emitters are
# switched off by jax.jit's compiler_options, with the same values, and a chain of matrix products half as fast.
# 0.12.0.1 compiles the draw 1.4 times as fast by itself, and there the option is an error of the first compilation.
# jax 0.12 needs Python 3.12 or newer: PYTHON=python3.12 bash jax_cpu_fusion_emitters.sh
set -euo pipefail
"${PYTHON:-python3}" -c 'import sys; assert sys.version_info >= (3, 12), "set PYTHON: jax 0.12 needs 3.12"'
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
cat > "$work/try.py" <<'PY'
import time, jax, jax.numpy as jnp, numpy as np
print("jax", jax.__version__)
def compile_seconds(function, argument, options):
    lowered = [jax.jit(lambda x, n=n: function(x, n), compiler_options=options).lower(argument) for n in range(6)]
    began = time.process_time()
    programs = [each.compile() for each in lowered]
    return time.process_time() - began, np.asarray(programs[0](argument))
def draw(key, n):
    return jax.random.normal(jax.random.wrap_key_data(key), (500 + n, 300))
def products(x, n):
    for _ in range(10 + n):
        x = jnp.dot(x, x) * 0.1
    return x
for name, function, argument in (
    ("normal", draw, np.array([0, 1], np.uint32)), ("products", products, np.eye(64, dtype=np.float32))
):
    compile_seconds(function, argument, {})
    plain, values = compile_seconds(function, argument, {"xla_backend_optimization_level": 1})
    try:
        quick, same = compile_seconds(function, argument, {"xla_backend_optimization_level": 1, "xla_cpu_use_fusion_emitters": False})
        faster = plain / quick
        print(f"{name}: {plain:.2f} and {quick:.2f} CPU-seconds, {faster:.1f}x; equal values: {bool((values == same).all())}; "
              f"{'quicker' if faster >= 1.3 else 'slower' if faster <= 0.8 else 'as quick'} without")
    except jax.errors.JaxRuntimeError as error:
        print(f"{name}: {plain:.2f} CPU-seconds; {str(error).splitlines()[0]}")
PY
for version in 0.10.2 0.12.0.1; do
  "${PYTHON:-python3}" -m venv --clear "$work/env"
  "$work/env/bin/pip" install -q --disable-pip-version-check "jax[cpu]==$version" 2>/dev/null
  JAX_PLATFORMS=cpu "$work/env/bin/python" "$work/try.py" | tee "$work/seen-$version"
  grep -q "^jax $version" "$work/seen-$version"
done
grep -q "^normal: .* equal values: True; quicker without" "$work/seen-0.10.2"
grep -q "^products: .* slower without" "$work/seen-0.10.2"
grep -q "^normal: .* No such compile option: 'xla_cpu_use_fusion_emitters'" "$work/seen-0.12.0.1"
echo "as found: a draw compiles faster without in 0.10.2, products slower; refused in 0.12.0.1"
