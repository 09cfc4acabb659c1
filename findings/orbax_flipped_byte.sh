#!/usr/bin/env bash
# Orbax stores arrays through TensorStore's zstd without a checksum: most single bytes that a disk or a
# copy changes come back as other numbers, not as an error.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install -q --disable-pip-version-check orbax-checkpoint==0.12.8 tensorstore==0.1.86 jax==0.10.2 jaxlib==0.10.2 2>/dev/null
cat > "$work/try.py" <<'PY'
import importlib.metadata, logging, pathlib, sys, numpy as np, orbax.checkpoint as ocp
logging.disable(logging.CRITICAL)
print(*(importlib.metadata.version(name) for name in ("orbax-checkpoint", "tensorstore")))
folder = pathlib.Path(sys.argv[1]) / "checkpoint"
array = np.random.default_rng(0).normal(size=(256, 256)).astype(np.float32)
checkpointer = ocp.StandardCheckpointer()
checkpointer.save(folder, {"w": array}); checkpointer.wait_until_finished()
data = max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
whole = data.read_bytes()
seen = {"other numbers": 0, "error": 0, "the same": 0}
for place in np.random.default_rng(1).integers(0, len(whole), 40):
    data.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    try:
        found = ocp.StandardCheckpointer().restore(folder, {"w": array})["w"]
        seen["the same" if np.array_equal(found, array) else "other numbers"] += 1
    except Exception:
        seen["error"] += 1
print(f"{data.stat().st_size} bytes, 40 of them changed one at a time: {seen}")
PY
JAX_PLATFORMS=cpu "$work/env/bin/python" "$work/try.py" "$work" 2>/dev/null | tee "$work/seen"
grep -q "^0.12.8 0.1.86" "$work/seen"
grep -qE "'other numbers': (3[0-9]|40)" "$work/seen"
echo "as found: keep checksums of your own beside a checkpoint"
