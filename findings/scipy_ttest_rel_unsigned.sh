#!/usr/bin/env bash
# polars counts in UInt32: a text's characters, a list's tokens, the rows of a group. scipy.stats.ttest_rel
# subtracts two such columns as they are, so that 3 - 5 is 4,294,967,294: lengths of a student's and a
# teacher's rationales that do not differ (p = 0.81) differ at p = 1e-27, for whichever stands first.
# Answers that are right or wrong as uint8 fare the same. There is no warning. ttest_ind, wilcoxon, pearsonr
# and mannwhitneyu are right for the same columns; ttest_rel refuses booleans.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install -q --disable-pip-version-check \
  scipy==1.17.1 numpy==2.4.6 polars==2.1.0 2>/dev/null
cat > "$work/try.py" <<'PY'
import numpy as np, polars as pl, scipy
from scipy import stats
print("scipy", scipy.__version__, "numpy", np.__version__, "polars", pl.__version__)
draws = np.random.default_rng(0)
teacher = ["x" * n for n in draws.integers(80, 120, 200)]
student = ["x" * (len(text) + d) for text, d in zip(teacher, draws.integers(-20, 20, 200))]
table = pl.DataFrame({"student": student, "teacher": teacher}).select(pl.all().str.len_chars())
print("lengths:", table.schema["student"], "means",
      *(f"{name} {table[name].mean():.2f}" for name in table.columns))
one, two = table["student"].to_numpy(), table["teacher"].to_numpy()
def show(name, what, one, two):
    for how in ("counted", "as float"):
        if how == "as float":
            one, two = one.astype(float), two.astype(float)
        result = getattr(stats, name)(one, two)
        print(f"{what}, {name}, {how}: statistic {result.statistic:.2f}, p {result.pvalue:.2g}")
for name in ("ttest_rel", "ttest_ind", "wilcoxon", "mannwhitneyu", "pearsonr"):
    show(name, "lengths", one, two)
show("ttest_rel", "lengths, teacher first", two, one)
both, teacher_only, student_only, neither = 40, 12, 10, 38
one = np.repeat([1, 0, 1, 0], [both, teacher_only, student_only, neither]).astype(np.uint8)
two = np.repeat([1, 1, 0, 0], [both, teacher_only, student_only, neither]).astype(np.uint8)
show("ttest_rel", "accuracies .50 and .52", one, two)
PY
"$work/env/bin/python" "$work/try.py" 2>&1 | tee "$work/seen"
grep -q "^scipy 1.17.1 numpy 2.4.6 polars 2.1.0" "$work/seen"
grep -q "^lengths: UInt32 means" "$work/seen"
grep -q "^lengths, ttest_rel, counted: statistic 12.76, p 1.2e-27" "$work/seen"
grep -q "^lengths, ttest_rel, as float: statistic 0.24, p 0.81" "$work/seen"
grep -qE "^lengths, teacher first, ttest_rel, counted: statistic 1[0-9][.]" "$work/seen"
grep -q "^accuracies .50 and .52, ttest_rel, counted: statistic 3" "$work/seen"
grep -q "^accuracies .50 and .52, ttest_rel, as float: statistic -0" "$work/seen"
for name in ttest_ind wilcoxon mannwhitneyu pearsonr; do
  counted=$(sed -n "s/^lengths, $name, counted: //p" "$work/seen")
  [[ -n $counted && $counted == "$(sed -n "s/^lengths, $name, as float: //p" "$work/seen")" ]]
done
echo "as found: give ttest_rel columns cast to float64"
