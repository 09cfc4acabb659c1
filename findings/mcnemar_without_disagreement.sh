#!/usr/bin/env bash
# McNemar's chi-squared test with the continuity correction, for two models that answer every question alike:
# statsmodels and mlxtend (whose default it is) put the number of disagreements, 0, into (|0 - 0| - 1)^2 / 0,
# give an infinite statistic and p = 0. A loop over seeds or early checkpoints that counts p < 0.05 counts every
# pair of equal models as different: students that still answer one label, a run scored twice. The same square
# turns |b - c| - 1 = -1 into evidence: 1 against 1 has p = 0.48, 1 against 0 has p = 1. The exact test gives 1 for
# all three; pingouin refuses a table without disagreement.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install -q --disable-pip-version-check \
  statsmodels==0.15.0 mlxtend==0.25.0 numpy==2.4.6 scipy==1.17.1 pandas==3.1.1 scikit-learn==1.9.1 2>/dev/null
cat > "$work/try.py" <<'PY'
import warnings
from importlib.metadata import version
import numpy as np
from mlxtend.evaluate import mcnemar as mlxtend, mcnemar_table
from statsmodels.stats.contingency_tables import mcnemar as statsmodels
warnings.simplefilter("ignore", RuntimeWarning)  # of a division by zero
print("statsmodels", version("statsmodels"), "mlxtend", version("mlxtend"))
gold = np.tile([0, 1], 150)
constant = np.zeros(300, int)  # a student that has learned one label so far
wrong_once, wrong_elsewhere = gold.copy(), gold.copy()
wrong_once[0], wrong_elsewhere[1] = 1, 0
for name, one, two in (
    ("the same answers", constant, constant.copy()),
    ("1 against 1", wrong_once, wrong_elsewhere),
    ("1 against 0", wrong_once, gold),
):
    table = mcnemar_table(gold, one, two)
    print(name, *(f"{library} {p:.2g}" for library, p in (
        ("mlxtend", mlxtend(table)[1]),
        ("statsmodels", statsmodels(table, exact=False).pvalue),
        ("exact", mlxtend(table, exact=True)[1]),
        ("exact", statsmodels(table, exact=True).pvalue),
    )))
draws = np.random.default_rng(0)
tables = []
for pair in range(1000):  # two seeds of one model, 100 questions, which rarely differ
    differs = draws.random(100) < 0.01
    first = draws.random(100) < 0.9
    tables.append(mcnemar_table(np.ones(100, int), first.astype(int), (first ^ differs).astype(int)))
for name, exact in (("corrected", False), ("exact", True)):
    found = sum(mlxtend(table, exact=exact)[1] < 0.05 for table in tables)
    print(f"pairs of 1000 that do not differ, {name}: {found} with p < 0.05")
PY
"$work/env/bin/python" "$work/try.py" 2>&1 | tee "$work/seen"
grep -q "^statsmodels 0.15.0 mlxtend 0.25.0" "$work/seen"
grep -q "^the same answers mlxtend 0 statsmodels 0 exact 1 exact 1" "$work/seen"
grep -q "^1 against 1 mlxtend 0.48 statsmodels 0.48 exact 1 exact 1" "$work/seen"
grep -q "^1 against 0 mlxtend 1 statsmodels 1 exact 1 exact 1" "$work/seen"
grep -qE "^pairs of 1000 that do not differ, corrected: [3-4][0-9][0-9] with" "$work/seen"
grep -q "^pairs of 1000 that do not differ, exact: 0 with" "$work/seen"
echo "as found: take the exact test"
