#!/usr/bin/env bash
# safetensors' numpy writer and views: 0.8.0 stores another matrix without an error, 0.7.0 the right one.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
cat > "$work/try.py" <<'PY'
import numpy as np, safetensors
from safetensors.numpy import load, save

a = np.arange(6, dtype=np.float32).reshape(2, 3)
views = {"transposed": a.T, "every second column": a[:, ::2], "Fortran order": np.asfortranarray(a)}
right = {name: bool(np.array_equal(load(save({"x": v}))["x"], v)) for name, v in views.items()}
copies = all(np.array_equal(load(save({"x": c}))["x"], c) for c in map(np.ascontiguousarray, views.values()))
print(safetensors.__version__, right, "contiguous copies right:", copies)
PY
for version in 0.7.0 0.8.0; do
  python3 -m venv "$work/$version"
  "$work/$version/bin/pip" install -q --disable-pip-version-check "safetensors==$version" numpy==2.4.6 2>/dev/null
  "$work/$version/bin/python" "$work/try.py" | tee -a "$work/seen"
done
grep -q "^0.7.0 {'transposed': True, 'every second column': True, 'Fortran order': True} contiguous copies right: True" "$work/seen"
grep -q "^0.8.0 {'transposed': False, 'every second column': False, 'Fortran order': False} contiguous copies right: True" "$work/seen"
echo "as found: 0.8.0 reads back another matrix than was saved, without an error"
