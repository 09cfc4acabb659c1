#!/usr/bin/env bash
# polars makes a table of dicts by the types of its first 100 rows and forces the rest into them, though
# "strict" is True, which is to raise an error where a value does not match: 2.5 becomes 2, a score of 0.75
# becomes 0, a text where an object was becomes null, and a key that begins later is gone. The same values given
# by column are an error, and so they are in JSONL since 2.1.0 (1.30.0 cut them there too), all but the key: of
# rationales that begin in row 101 none is left. infer_schema_length=None, which scans all rows, is right.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
cat > "$work/try.py" <<'PY'
import json, polars
print("polars", polars.__version__)
def told(name, make):
    try:
        table = make()
        late = table["value"][-1] if "value" in table.columns else "no such column"
        print(f"  {name}: {late}, {table.height} rows")
    except Exception as error:
        print(f"  {name}: {type(error).__name__}")
def report(title, early, late):
    print(title)
    rows = [{"id": i, **(early if i < 100 else late)} for i in range(1000)]
    told(f"{title}, DataFrame(strict=True)", lambda: polars.DataFrame(rows, strict=True))
    told(f"{title}, from_dicts", lambda: polars.from_dicts(rows))
    told(f"{title}, all rows scanned", lambda: polars.DataFrame(rows, infer_schema_length=None))
    by_column = {key: [row.get(key) for row in rows] for key in ("id", "value")}
    told(f"{title}, by column", lambda: polars.DataFrame(by_column))
    with open("rows.jsonl", "w") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    told(f"{title}, read_ndjson", lambda: polars.read_ndjson("rows.jsonl"))
report("2.5 after 3", {"value": 3}, {"value": 2.5})
report("0.75 after 1", {"value": 1}, {"value": 0.75})
report("7 after true", {"value": True}, {"value": 7})
report("text after object", {"value": {"x": 1}}, {"value": "so"})
report("new key", {}, {"value": "so"})
PY
cd "$work"
for version in 1.30.0 2.1.0; do
  env/bin/pip install -q --disable-pip-version-check "polars==$version" 2>/dev/null
  env/bin/python try.py | sed "s/^/$version: /" | tee -a seen
done
grep -q "^1.30.0:   2.5 after 3, read_ndjson: 2, 1000 rows" seen
grep -q "^2.1.0:   2.5 after 3, DataFrame(strict=True): 2, 1000 rows" seen
grep -q "^2.1.0:   2.5 after 3, all rows scanned: 2.5, 1000 rows" seen
grep -q "^2.1.0:   2.5 after 3, by column: TypeError" seen
grep -q "^2.1.0:   2.5 after 3, read_ndjson: ComputeError" seen
grep -q "^2.1.0:   0.75 after 1, from_dicts: 0, 1000 rows" seen
grep -q "^2.1.0:   text after object, DataFrame(strict=True): None, 1000 rows" seen
grep -q "^2.1.0:   new key, DataFrame(strict=True): no such column, 1000 rows" seen
grep -q "^2.1.0:   new key, read_ndjson: no such column, 1000 rows" seen
echo "as found: state the schema, or give infer_schema_length=None"
