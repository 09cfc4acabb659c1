#!/usr/bin/env bash
# Orbax joins a nested tree's keys with dots, so that a key with a dot meets a path of two keys: of the
# arrays at ("layer.0", "w") and ("layer", "0", "w") one is lost when both are saved, and the other is
# restored in both places; which one may differ from run to run. Names of PyTorch hold dots. Neither
# saving nor restoring says a word, the shapes being equal.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
cat > "$work/try.py" <<'PY'
import importlib.metadata, sys
import numpy as np, orbax.checkpoint as ocp
print("orbax-checkpoint", importlib.metadata.version("orbax-checkpoint"))
tree = {"layer.0": {"w": np.full(4, 1.0)}, "layer": {"0": {"w": np.full(4, 2.0)}}}
checkpointers = {
    "StandardCheckpointer": ocp.StandardCheckpointer(),
    "PyTreeCheckpointer": ocp.PyTreeCheckpointer(),
    "PyTreeCheckpointer, a file per array": ocp.PyTreeCheckpointer(use_ocdbt=False),
}
for name, checkpointer in checkpointers.items():
    folder = f"{sys.argv[1]}/{name}"
    checkpointer.save(folder, tree)
    if name == "StandardCheckpointer":
        checkpointer.wait_until_finished()
    back = checkpointer.restore(folder)
    one, two = back["layer.0"]["w"], back["layer"]["0"]["w"]
    print(f"{name}: layer.0/w was 1 and is {one[0]:.0f}, layer/0/w was 2 and is {two[0]:.0f}:",
          "one is lost" if np.array_equal(one, two) else "both are there")
PY
python3 -m venv "$work/env"
"$work/env/bin/pip" install -q --disable-pip-version-check \
  orbax-checkpoint==0.12.8 jax==0.10.2 jaxlib==0.10.2 2>/dev/null
JAX_PLATFORMS=cpu "$work/env/bin/python" "$work/try.py" "$work" 2>/dev/null | tee "$work/seen"
grep -q "^orbax-checkpoint 0.12.8" "$work/seen"
[[ $(grep -c ": one is lost" "$work/seen") == 3 ]]
echo "as found: replace the dots of foreign names before they are keys of a tree that Orbax saves"
