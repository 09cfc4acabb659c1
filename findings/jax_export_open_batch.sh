#!/usr/bin/env bash
# A program that jax.export of 0.12.0.1 wrote for an open number of rows is refused by jax 0.10.2; for a
# fixed number it is read. Both name the same calling convention, which 0.10.2 knows. deserialize takes
# both: the error comes at the first call, and its reason goes to stderr alone. What is too new is the
# check that there is a row; none of export's disabled_checks leaves it out, nor an older convention.
# jax 0.12 needs Python 3.12 or newer: PYTHON=python3.12 bash jax_export_open_batch.sh
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
cd "$work"
"${PYTHON:-python3}" -c 'import sys; assert sys.version_info >= (3, 12), "set PYTHON: jax 0.12 needs 3.12"'
cat > write.py <<'PY'
import jax, jax.numpy as jnp, pathlib
from jax import export
for convention in (9, 10):  # what 0.12.0.1 can write
    jax.config.update("jax_export_calling_convention_version", convention)
    for name, rows in (("fixed", 4), ("open", export.symbolic_shape("rows")[0])):
        program = export.export(jax.jit(lambda x: x + 1))(jax.ShapeDtypeStruct((rows, 8), jnp.float32))
        pathlib.Path(f"{name}, convention {convention}").write_bytes(program.serialize())
PY
cat > read.py <<'PY'
import jax, numpy as np, pathlib
from jax import export
for file in sorted(pathlib.Path().glob("*convention*")):
    program = export.deserialize(file.read_bytes())
    try:
        result = program.call(np.ones((4, 8), np.float32)).shape
    except Exception as error:
        result = f"{type(error).__name__}: {str(error)[:60]}"
    newest = export.maximum_supported_calling_convention_version
    print(f"jax {jax.__version__} (conventions to {newest}): {file}: deserialized, then {result}")
PY
for version in 0.12.0.1 0.10.2; do
  "${PYTHON:-python3}" -m venv --clear env
  env/bin/pip install -q --disable-pip-version-check \
    "jax==$version" "jaxlib==$version" flatbuffers==25.12.19 2>/dev/null
  [[ $version == 0.10.2 ]] || JAX_PLATFORMS=cpu env/bin/python write.py
  JAX_PLATFORMS=cpu env/bin/python read.py 2>> reasons | tee -a seen
done
grep -ho "unregistered operation '[a-z_0-9.]*'" reasons | sort | uniq -c | tee -a seen
for convention in 9 10; do
  grep -q "^jax 0.12.0.1 (.*): open, convention $convention: deserialized, then (4, 8)" seen
  grep -q "^jax 0.10.2 (.* to 10): fixed, convention $convention: deserialized, then (4, 8)" seen
  grep -q "^jax 0.10.2 (.* to 10): open, convention $convention: deserialized, then JaxRuntimeError" seen
done
grep -q "unregistered operation 'vhlo.custom_call_v2'" seen
echo "as found: export for a fixed number of rows too, and call a program before you trust it"
