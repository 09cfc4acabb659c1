#!/usr/bin/env bash
# Dataset.map of datasets keeps its results in files that are named after a hash of the function. A function
# of an imported module is hashed by its name alone: after the parser in answers.py has been corrected, the
# next process gets the labels of the old one, with no message. A lambda that calls it is no help, nor is
# Dataset.from_generator. A function in the script itself is hashed by its code, and done again.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install -q --disable-pip-version-check datasets==5.2.0 2>/dev/null
cd "$work"
for i in $(seq 100); do
  printf '{"answer": "it is not (a) but (b), question %d"}\n' "$i"
done > teacher.jsonl
cat > try.py <<'PY'
import sys, answers, datasets
from datasets import Dataset, load_dataset
datasets.disable_progress_bars()
rows = load_dataset("json", data_files="teacher.jsonl", split="train", cache_dir="cache")
def here(row):
    return {"label": row["answer"].split(")")[OWN][-1]}
def count(name, found):
    print(f"{name}: {sum(label == 'b' for label in found['label'])} of {len(found)} labels are b")
print("datasets", datasets.__version__, "- in a plain call:", answers.parse(rows[0])["label"])
count("map, imported", rows.map(answers.parse))
count("map, lambda", rows.map(lambda row: answers.parse(row)))
count("filter, imported", Dataset.from_dict({"label": ["b"] * len(rows.filter(answers.kept))}))
count("from_generator, imported", Dataset.from_generator(answers.labels, cache_dir="cache"))
count("map, here", rows.map(here))
count("map, load_from_cache_file=False", rows.map(answers.parse, load_from_cache_file=False))
PY
write() {  # which of the choices named is the answer
  cat > answers.py <<PY
def parse(row):
    return {"label": row["answer"].split(")")[$1][-1]}
def kept(row):
    return $2
def labels():
    for number in range(100):
        yield {"label": "ab"[$1]}
PY
  sed "s/OWN/$1/" try.py > run.py
}
export HF_HOME="$work" PYTHONDONTWRITEBYTECODE=1
write 0 "len(row['answer']) > 1000"; env/bin/python run.py 2>&1 | sed "s/^/before: /" | tee seen
write 1 "True"; env/bin/python run.py 2>&1 | sed "s/^/after: /" | tee -a seen
grep -q "^before: datasets 5.2.0 - in a plain call: a" seen
grep -q "^after: datasets 5.2.0 - in a plain call: b" seen
grep -q "^after: map, imported: 0 of 100 labels are b" seen
grep -q "^after: map, lambda: 0 of 100 labels are b" seen
grep -q "^after: filter, imported: 0 of 0 labels are b" seen
grep -q "^after: from_generator, imported: 0 of 100 labels are b" seen
grep -q "^after: map, here: 100 of 100 labels are b" seen
grep -q "^after: map, load_from_cache_file=False: 100 of 100 labels are b" seen
echo "as found: load_from_cache_file=False, or new_fingerprint= with a hash of the module's text"
