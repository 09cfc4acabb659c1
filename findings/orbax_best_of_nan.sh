#!/usr/bin/env bash
# Orbax CheckpointManager with best_fn: one NaN metric makes it delete better checkpoints.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install -q --disable-pip-version-check orbax-checkpoint==0.12.8 jax==0.10.2 jaxlib==0.10.2 2>/dev/null
cat > "$work/try.py" <<'PY'
import importlib.metadata, logging, sys, numpy as np, orbax.checkpoint as ocp
logging.disable(logging.WARNING)
def kept(folder, metrics):
    options = ocp.CheckpointManagerOptions(max_to_keep=2, best_fn=lambda m: m["accuracy"], best_mode="max")
    with ocp.CheckpointManager(folder, options=options) as manager:
        for step, value in enumerate(metrics, 1):
            manager.save(step, args=ocp.args.StandardSave({"x": np.ones(2)}), metrics={"accuracy": value})
        manager.wait_until_finished()
        return manager.all_steps(), manager.best_step()
print(importlib.metadata.version("orbax-checkpoint"))
print("numbers", kept(sys.argv[1] + "/a", [0.5, 0.9, 0.3, 0.1, 0.2]))
print("one NaN", kept(sys.argv[1] + "/b", [0.5, 0.9, float("nan"), 0.1, 0.2]))
PY
JAX_PLATFORMS=cpu "$work/env/bin/python" "$work/try.py" "$work" 2>/dev/null | tee "$work/seen"
grep -q "^0.12.8" "$work/seen"
grep -q "^numbers (\[1, 2\], 2)" "$work/seen"
grep -q "^one NaN (\[4, 5\], 5)" "$work/seen"
echo "as found: with .5 .9 NaN .1 .2 the checkpoints of .1 and .2 are kept, those of .5 and .9 deleted"
