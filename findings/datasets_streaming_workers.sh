#!/usr/bin/env bash
# An IterableDataset of datasets 5.2.0 that is read by workers numbers and counts its rows anew in each of
# them. map(with_indices=True) then names 1,000 rows with 250 numbers (4 workers), so what is joined by them is
# another row's; filter(with_indices=True) leaves out the first 100 of every worker. take(100) and skip(100),
# the documented way to "split your dataset", divide by shards: skip read by 4 workers gives 75 of the 100 rows
# that take, read without workers, put aside, and 75 rows are in neither. split_dataset_by_node numbers anew, too.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install -q --disable-pip-version-check datasets==5.2.0 torch==2.13.0 2>/dev/null
cat > "$work/try.py" <<'PY'
import datasets
from datasets import Dataset
from datasets.distributed import split_dataset_by_node
from torch.utils.data import DataLoader
print("datasets", datasets.__version__)
stream = Dataset.from_dict({"question": [f"question {i}" for i in range(1000)]}).to_iterable_dataset(num_shards=8)
read = lambda rows, workers: list(DataLoader(rows, batch_size=None, num_workers=workers))
named = stream.map(lambda row, number: {"number": number}, with_indices=True)
def told(name, rows):
    right = sum(row["question"] == f"question {row['number']}" for row in rows)
    print(f"{name}: {len(rows)} rows, {len({row['number'] for row in rows})} numbers, {right} right")
shuffled = stream.shuffle(seed=0, buffer_size=200)
for workers in (0, 2, 4):
    told(f"map, {workers} workers", read(named, workers))
    print(f"filter, {workers} workers: {len(read(stream.filter(lambda row, n: n >= 100, with_indices=True), workers))}")
    for name, rows in (("split", stream), ("shuffled split", shuffled)):
        aside = {row["question"] for row in read(rows.take(100), 0)}
        train = {row["question"] for row in read(rows.skip(100), workers)}
        print(f"{name}, {workers} workers: {len(train)} to train on, {len(train & aside)} of {len(aside)} put aside"
              f" among them, {1000 - len(train | aside)} in neither")
told("map, 2 nodes", [row for node in (0, 1) for row in split_dataset_by_node(named, node, 2)])
PY
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" "$work/env/bin/python" "$work/try.py" 2>/dev/null | tee "$work/seen"
seen() { grep -q "^$1" "$work/seen" || { echo "changed: no line '$1'"; exit 1; }; }
seen "datasets 5.2.0"
seen "map, 0 workers: 1000 rows, 1000 numbers, 1000 right"
seen "map, 2 workers: 1000 rows, 500 numbers, 125 right"
seen "map, 4 workers: 1000 rows, 250 numbers, 125 right"
seen "filter, 0 workers: 900"
seen "filter, 4 workers: 600"
seen "split, 0 workers: 900 to train on, 0 of 100"
seen "split, 2 workers: 900 to train on, 50 of 100 put aside among them, 50 in neither"
seen "split, 4 workers: 900 to train on, 75 of 100 put aside among them, 75 in neither"
seen "shuffled split, 4 workers: 900 to train on, [789]. of 100"
seen "map, 2 nodes: 1000 rows, 500 numbers"
echo "as found: number and divide rows before they are streamed, never by their place in a stream"
