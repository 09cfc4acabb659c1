#!/usr/bin/env bash
# torchmetrics' binary metrics take scores for logits, and put them through a sigmoid, if one of them is outside
# 0..1. They decide so at each call of update: a batch whose scores all lie in 0..1 stays as it is, its neighbour
# is squeezed, and both are ranked together. With a confidence that may exceed 1 (the log-probability of the answer
# minus that of the next one) the area under the curve is .860 in batches of 8 and .903 in batches of 64 or in one
# call, and which of two models is better depends on the batch size.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install -q --disable-pip-version-check \
  torchmetrics==1.9.0 torch==2.13.0 numpy==2.4.6 scikit-learn==1.9.1 2>/dev/null
cat > "$work/try.py" <<'PY'
import numpy as np, sklearn, torch, torchmetrics
from sklearn.metrics import average_precision_score, roc_auc_score
from torchmetrics.classification import BinaryAUROC, BinaryAveragePrecision
print("torchmetrics", torchmetrics.__version__, "scikit-learn", sklearn.__version__)
draws = np.random.default_rng(0)
n = 3000
right = draws.random(n) < 0.75
SCORES = {  # margins in nats: whether an answer is right, by two models
    "model one": np.exp(draws.normal(np.where(right, -0.4, -1.3), 0.5)),
    "model two": np.exp(draws.normal(np.where(right, -0.2, -1.0), 0.5)) + 0.35,
}
def by(batch, metric, scores):
    metric = metric()
    for start in range(0, n, batch):
        rows = slice(start, start + batch)
        metric.update(torch.tensor(scores[rows]), torch.tensor(right[rows]).int())
    return float(metric.compute())
for metric, truth in ((BinaryAUROC, roc_auc_score), (BinaryAveragePrecision, average_precision_score)):
    for name, scores in SCORES.items():
        print(metric.__name__, name, f"outside 0..1 {np.mean(scores > 1):.0%},",
              *(f"batches of {batch}: {by(batch, metric, scores):.3f}," for batch in (4, 8, 64)),
              f"one call {by(n, metric, scores):.3f}, scikit-learn {truth(right, scores):.3f}")
PY
"$work/env/bin/python" "$work/try.py" 2>&1 | tee "$work/seen"
grep -q "^torchmetrics 1.9.0 scikit-learn 1.9.1" "$work/seen"
one="BinaryAUROC model one .* batches of 4: 0.84[0-9], batches of 8: 0.8[56][0-9], batches of 64: 0.903, one call 0.903,"
two="BinaryAUROC model two .* batches of 4: 0.85[0-9], batches of 8: 0.87[0-9], batches of 64: 0.871, one call 0.871,"
grep -qE "^$one scikit-learn 0.903" "$work/seen"
grep -qE "^$two scikit-learn 0.871" "$work/seen"
grep -qE "^BinaryAveragePrecision model one .* batches of 4: 0.94[0-9], .* scikit-learn 0.962" "$work/seen"
echo "as found: collect such scores and call the metric once, or map them into 0..1 yourself"
