#!/usr/bin/env bash
# datasets 5 reads a JSONL column of texts as texts, until one record holds a number: then the column gets
# the feature Json, and every text that happens to be JSON comes back as what it would be there. "1.50"
# becomes 1.5, "007" 7, "1e5" 100000.0, "true" True, and "null" and "NaN" None; "none" and "1,200" stay.
# What map and from_generator return fares the same, and to_json writes the new values. The numbers are not
# always the nearest either: "0.35" is 0.35000000000000003. If the feature is stated as string it is the
# other way round: "1.50" stays and "yes" gets quotes, '"yes"'. There is no warning. datasets 4.5.0 refused
# such a column.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
cat > "$work/try.py" <<'PY'
import json, pathlib, sys, datasets
from datasets import Dataset, Features, Value, load_dataset
datasets.disable_progress_bars(); datasets.logging.set_verbosity_error()
version, work = datasets.__version__, pathlib.Path(sys.argv[1])
texts = ["1.50", "007", "1e5", "true", "yes", "null", "none", "NaN", "[1, 2]", "1,200", ""]
def read(name, labels, **options):
    file = work / f"{name}.jsonl"
    file.write_text("".join(json.dumps({"label": label}) + "\n" for label in labels))
    return load_dataset("json", data_files=str(file), split="train", cache_dir=str(work), **options)
print(version, "texts alone:", "as written" if list(read("texts", texts)["label"]) == texts else "changed")
try:
    found = read("mixed", [*texts, 3])
except Exception as error:
    print(version, "with one number:", type(error).__name__)
    sys.exit()
print(version, "with one number:", found.features["label"], list(found["label"]))
prices = [f"{cents / 100:.2f}" for cents in range(2000)]
read_prices = list(read("prices", [*prices, 3])["label"])
kept = sum(a == str(b) for a, b in zip(prices, read_prices))
print(version, f"of {len(prices)} prices from 0.00 to 19.99 are the same text: {kept};",
      f"{prices[35]} is {read_prices[35]}")
rows = Dataset.from_dict({"text": texts})
print(version, "map:", list(rows.map(lambda row: {"label": row["text"] or 3})["label"]))
made = Dataset.from_generator(lambda: ({"label": text or 3} for text in texts), cache_dir=str(work))
print(version, "from_generator:", list(made["label"]))
found.to_json(work / "out.jsonl")
print(version, "to_json:", [json.loads(line)["label"] for line in (work / "out.jsonl").open()])
stated = read("mixed", [*texts, 3], features=Features({"label": Value("string")}))
print(version, "stated as string:", list(stated["label"]))
PY
for version in 5.2.0 4.5.0; do
  "$work/env/bin/pip" install -q --disable-pip-version-check \
    "datasets==$version" pandas==3.1.1 2>/dev/null
  HF_HOME="$work/$version" "$work/env/bin/python" "$work/try.py" "$work" 2>/dev/null | tee -a "$work/seen"
done
values="\[1.5, 7, 100000.0, True, 'yes', None, 'none', None, \[1, 2\], '1,200'"
grep -q "^5.2.0 texts alone: as written" "$work/seen"
grep -q "^5.2.0 with one number: Json(decode=True) $values, '', 3\]" "$work/seen"
grep -q "^5.2.0 of 2000 prices from 0.00 to 19.99 are the same text: 1754; 0.35 is 0.35000000000000003" "$work/seen"
grep -q "^5.2.0 map: $values, 3\]" "$work/seen"
grep -q "^5.2.0 from_generator: $values, 3\]" "$work/seen"
grep -q "^5.2.0 to_json: $values, '', 3\]" "$work/seen"
grep -q "^5.2.0 stated as string: \['1.50', '007', '1e5', 'true', '\"yes\"', 'null', '\"none\"'" "$work/seen"
grep -q "^4.5.0 texts alone: as written" "$work/seen"
grep -q "^4.5.0 with one number: .*Error" "$work/seen"
echo "as found: read the lines with json, make every label a text, and hand those to Dataset.from_list"
