"""A tiny archive in the layout of the original's datasets.zip; every fact in it is invented.

Each file holds the same questions in another number, so that tests can tell rows apart: question i
is about the zorn number i. One training completion per dataset cannot be read (`UNREADABLE_ROW`),
and one names a wrong answer (`WRONG_ROW`).
"""

import json
import pathlib
import zipfile

TRAIN, VALIDATION, TEST = 22, 4, 6
SHARD = 2  # completions per file: eleven files for train, so that 10 must sort behind 9
UNREADABLE_ROW, WRONG_ROW = 3, 5

_NLI = ("entailment", "neutral", "contradiction")
_SIZES = {"train": TRAIN, "valid": VALIDATION, "test": TEST}


def _svamp(i: int) -> tuple[dict, str]:
    row = {
        "input": f"A zorn has {i} horns and grows 2 more.\nHow many then?",
        "label": f"( {i}.0 + 2.0 )",
    }
    said = f"({i} + 3)" if i == WRONG_ROW else f"({i} + 2)"
    return row, f"It has {i} horns. Then 2 more grow. The answer is {said}.\n\nQ: There are"


def _cqa(i: int) -> tuple[dict, str]:
    choices = [f"{place} {i}" for place in ("mire", "dune", "reef", "cave", "moor")]
    row = {
        "id": f"made-{i}",
        "question": f"Where does zorn {i} sleep?",
        "choices": choices,
        "answer": choices[2],
        "abstractive_explanation": "",
        "extractive_explanation": "",
    }
    said = f"(a) {choices[0]}" if i == WRONG_ROW else f"(c) {choices[2]}"
    return row, f"Zorns {i} like corals. So the answer is {said}.\n\nQ: What is the name"


def _pair(i: int) -> tuple[dict, str]:
    row = {"premise": f"Zorn {i} swims.", "hypothesis": f"Zorn {i} is wet.", "label": i % 3}
    return row, _NLI[(i + 1) % 3 if i == WRONG_ROW else i % 3]


def _esnli(i: int) -> tuple[dict, str]:
    row, said = _pair(i)
    return row, f"Swimming zorns {i} are in water.\nAnswer: {said}\n\nPremise: A zorn"


def _anli1(i: int) -> tuple[dict, str]:
    row, said = _pair(i)
    return {
        "uid": str(i),
        **row,
    }, f"Zorn {i} is in water. So the answer is {said}.\n\nPremise: A zorn"


_QUESTIONS = {"svamp": _svamp, "cqa": _cqa, "esnli": _esnli, "anli1": _anli1}


def write_release(root: pathlib.Path, *datasets: str) -> pathlib.Path:
    """Writes ``root/datasets/...`` with the named datasets (default: all); returns `root`."""
    for name in datasets or _QUESTIONS:
        folder = root / "datasets" / name
        (folder / "llm").mkdir(parents=True)
        for split, size in _SIZES.items():
            if split != "valid" or name in ("esnli", "anli1"):
                _write_split(folder, name, split, size)
    return root


def _write_split(folder: pathlib.Path, name: str, split: str, size: int) -> None:
    rows, said = zip(*map(_QUESTIONS[name], range(size)), strict=True)
    said = list(said)
    if split == "train":
        said[UNREADABLE_ROW] = "Zorns are a mystery to me."
    lines = [json.dumps(row) + "\n" for row in rows]
    (folder / f"{name}_{split}.json").write_text("".join(lines), encoding="utf-8")
    for shard, start in enumerate(range(0, size, SHARD)):
        path = folder / "llm" / f"{split}_CoT_{shard}.json"
        path.write_text(json.dumps(said[start : start + SHARD]), encoding="utf-8")


def zip_folder(folder: pathlib.Path, path: pathlib.Path) -> pathlib.Path:
    """Zips the content of `folder` into `path`."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, file.relative_to(folder).as_posix())
    return path
