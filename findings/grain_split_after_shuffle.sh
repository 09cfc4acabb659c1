#!/usr/bin/env bash
# grain 0.2.18: a slice of a shuffled MapDataset is no fixed set. shuffled[100:].repeat() takes the slice
# of another shuffle in each epoch, so examples that were put aside as shuffled[:100] are trained on from
# the second epoch on. Until 0.2.12 the same lines kept the two apart; 0.2.13 changed it.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
cat > "$work/try.py" <<'PY'
import importlib.metadata, sys, grain
print("grain", importlib.metadata.version("grain"))
shuffled = grain.MapDataset.source(range(1000)).shuffle(seed=0)
held_out, training = shuffled[:100], shuffled[100:]
aside = set(held_out)
for epochs in (1, 2, 3, 5):
    seen = list(training.repeat(epochs))
    print(f"{epochs} epochs of 900: {len(set(seen))} examples, {len(aside & set(seen))} of 100 held out")
seen = set(training.shuffle(seed=1).repeat(5))
print(f"5 epochs, the slice shuffled once more: {len(aside & seen)} of 100 held out")
if "fixed" in sys.argv:
    seen = set(training.repeat(5, reseed_each_epoch=False))
    print(f"5 epochs, reseed_each_epoch=False: {len(aside & seen)} of 100 held out")
PY
python3 -m venv "$work/env"
"$work/env/bin/pip" install -q --disable-pip-version-check grain==0.2.12 2>/dev/null
"$work/env/bin/python" "$work/try.py" 2>/dev/null | tee "$work/before"
"$work/env/bin/pip" install -q --disable-pip-version-check grain==0.2.18 2>/dev/null
"$work/env/bin/python" "$work/try.py" fixed 2>/dev/null | tee "$work/seen"
grep -q "^grain 0.2.12" "$work/before"
grep -q "^5 epochs of 900: 900 examples, 0 of 100 held out" "$work/before"
grep -q "^grain 0.2.18" "$work/seen"
grep -q "^1 epochs of 900: 900 examples, 0 of 100 held out" "$work/seen"
grep -q "^2 epochs of 900: 988 examples, 88 of 100 held out" "$work/seen"
grep -q "^5 epochs of 900: 1000 examples, 100 of 100 held out" "$work/seen"
grep -q "^5 epochs, the slice shuffled once more: 100 of 100 held out" "$work/seen"
grep -q "^5 epochs, reseed_each_epoch=False: 0 of 100 held out" "$work/seen"
echo "as found: split the records before they are a MapDataset, or slice first and shuffle the slice"
