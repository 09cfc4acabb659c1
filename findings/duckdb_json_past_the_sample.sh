#!/usr/bin/env bash
# DuckDB takes the types of a JSONL file from its first 20,480 records. A number further down is cast to the
# type found there without an error: 2.5 becomes 2, 0.75 becomes 1, and a text under a key that was null so
# far becomes null, in 2.0.1. A text among numbers and a key that is new are
# refused with the number of the line. DuckDB 1.5.0 reads the same files right.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
cat > "$work/try.py" <<'PY'
import json, duckdb
print("duckdb", duckdb.__version__)
first, rest = 20_480, 5_000
def lines(early, late):
    yield from ({"id": number, **early} for number in range(first))
    yield from ({"id": number, **late} for number in range(first, first + rest))
def read(name, early, late, question):
    with open("rows.jsonl", "w") as file:
        file.writelines(json.dumps(row) + "\n" for row in lines(early, late))
    try:
        found = duckdb.sql(f"SELECT {question} FROM 'rows.jsonl' WHERE id >= {first}").fetchall()[0]
        print(f"{name}: {', '.join(map(str, found))}")
    except duckdb.Error as error:
        print(f"{name}: refused, {str(error).splitlines()[0][:100]}")
read("2.5 after 3", {"answer": 3}, {"answer": 2.5}, "min(answer), max(answer), count(*)")
read("0.75 after 1", {"score": 1}, {"score": 0.75}, "min(score), max(score), count(*)")
read("text after null", {"rationale": None}, {"rationale": "so"}, "count(rationale), count(*)")
read("text after 3", {"answer": 3}, {"answer": "neutral"}, "min(answer), count(*)")
read("a new key", {}, {"rationale": "so"}, "*")
with open("rows.csv", "w") as file:
    file.write("id,score\n")
    file.writelines(f"{row['id']},{row['score']}\n" for row in lines({"score": 1}, {"score": 0.75}))
whole = "read_json('rows.jsonl', sample_size = -1)"
print("CSV, 0.75 after 1:", *duckdb.sql(f"SELECT max(score) FROM 'rows.csv' WHERE id >= {first}").fetchall()[0])
with open("rows.jsonl", "w") as file:
    file.writelines(json.dumps(row) + "\n" for row in lines({"score": 1}, {"score": 0.75}))
print("sample_size = -1:", *duckdb.sql(f"SELECT max(score) FROM {whole} WHERE id >= {first}").fetchall()[0])
PY
cd "$work"
for version in 1.5.0 2.0.1; do
  env/bin/pip install -q --disable-pip-version-check "duckdb==$version" 2>/dev/null
  env/bin/python try.py | sed "s/^/$version: /" | tee -a seen
done
grep -q "^1.5.0: 2.5 after 3: 2.5, 2.5, 5000" seen
grep -q "^1.5.0: text after null: 5000, 5000" seen
grep -q "^2.0.1: 2.5 after 3: 2, 2, 5000" seen
grep -q "^2.0.1: 0.75 after 1: 1, 1, 5000" seen
grep -q "^2.0.1: text after null: 0, 5000" seen
grep -q "^2.0.1: text after 3: refused" seen
grep -q "^2.0.1: a new key: refused" seen
grep -q "^2.0.1: CSV, 0.75 after 1: 1$" seen
grep -q "^2.0.1: sample_size = -1: 0.75" seen
echo "as found: give sample_size = -1 or columns = {...}, or read JSONL line by line"
