#!/usr/bin/env bash
# DatasetDict.class_encode_column numbers the labels of every split for itself. Where the test split has no
# "contradiction", "entailment" is 1 in the training split and 0 in the test split: a model without a single
# error has 0 of 300 answers right. Integer labels are sorted as texts and renumbered: with 0 to 11 a 2
# becomes 4 and a 10 becomes 2, also in a single Dataset, where train_test_split(stratify_by_column=) asks
# for the call. Only concatenate_datasets tells, by an error. Columns of the same labels agree.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install -q --disable-pip-version-check \
  datasets==5.2.0 scikit-learn==1.9.1 2>/dev/null
cat > "$work/try.py" <<'PY'
import datasets, sklearn
from datasets import Dataset, DatasetDict
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score
datasets.disable_progress_bars()
print("datasets", datasets.__version__, "scikit-learn", sklearn.__version__)
words = {"contradiction": "never", "entailment": "so", "neutral": "perhaps"}
def split(labels, count):
    rows = [(f"{words[label]} {number}", label) for number in range(count) for label in labels]
    return Dataset.from_dict({"text": [text for text, _ in rows], "label": [label for _, label in rows]})
def score(name, test):
    both = DatasetDict(train=split(list(words), 100), test=test).class_encode_column("label")
    for part, rows in both.items():
        print(f"{name}, {part}: {rows.features['label'].names}")
    features = CountVectorizer(vocabulary=sorted(words.values()))
    model = LogisticRegression().fit(features.transform(both["train"]["text"]), both["train"]["label"])
    found = model.predict(features.transform(both["test"]["text"])).tolist()
    right = round(accuracy_score(both["test"]["label"], found) * len(found))
    texts = sum(both["train"].features["label"].int2str(a) == b for a, b in zip(found, test["label"]))
    print(f"{name}: {right} of {len(found)} ids are right, {texts} of {len(found)} texts")
score("all labels in the test split", split(list(words), 100))
score("two labels in the test split", split(["entailment", "neutral"], 150))
numbers = Dataset.from_dict({"label": list(range(12)) * 10})
try:
    numbers.train_test_split(0.2, stratify_by_column="label", seed=0)
except ValueError as error:
    print("stratify_by_column:", error)
encoded = numbers.class_encode_column("label")
print("0 to 11 become", list(encoded["label"])[:12])
parts = encoded.train_test_split(0.2, stratify_by_column="label", seed=0)
print("after a split, ids of the label 2:", sorted({
    id for id in parts["train"]["label"] if parts["train"].features["label"].int2str(id) == "2"}))
PY
HF_HOME="$work" "$work/env/bin/python" "$work/try.py" 2>&1 | tee "$work/seen"
grep -q "^datasets 5.2.0 scikit-learn 1.9.1" "$work/seen"
grep -q "^all labels in the test split: 300 of 300 ids are right, 300 of 300 texts" "$work/seen"
grep -q "^two labels in the test split, train: \['contradiction', 'entailment', 'neutral'\]" "$work/seen"
grep -q "^two labels in the test split, test: \['entailment', 'neutral'\]" "$work/seen"
grep -q "^two labels in the test split: 0 of 300 ids are right, 300 of 300 texts" "$work/seen"
grep -q "^0 to 11 become \[0, 1, 4, 5, 6, 7, 8, 9, 10, 11, 2, 3\]" "$work/seen"
grep -q "^after a split, ids of the label 2: \[4\]" "$work/seen"
echo "as found: cast every split to one ClassLabel(names=[...]) and compare labels as texts"
