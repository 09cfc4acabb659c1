"""How many small faults do the tests notice?

Changes one operator or constant of a module at a time and runs that module's tests.

    python benchmarks/mutate.py                      # all targets
    python benchmarks/mutate.py losses packing       # some
    python benchmarks/mutate.py --sample=40          # 40 of each, drawn with seed 0

Prints every mutant that survives, then a table; --json=FILE writes both. A process that has
imported the libraries is forked for every mutant and imports the changed source, so a mutant
takes about as long as the tests. An own script, because mutation testers instrument functions, and
jaxtyping's import hook, under which the tests run, would check the instruments instead.
"""

import argparse
import ast
import copy
import dataclasses
import importlib.machinery
import json
import os
import pathlib
import random
import signal
import sys
import time
from collections.abc import Iterator

ROOT = pathlib.Path(__file__).resolve().parents[1]
TIMEOUT_SECONDS = 120

# name -> (module, its tests)
TARGETS = {
    "losses": ("training/losses.py", ["tests/training/test_losses.py"]),
    "packing": ("input_pipeline/packing.py", ["tests/input_pipeline/test_packing.py"]),
    "batch_plan": (
        "input_pipeline/batch_plan.py",
        ["tests/input_pipeline/test_batch_plan.py", "tests/input_pipeline/test_batches.py"],
    ),
    "batches": ("input_pipeline/batches.py", ["tests/input_pipeline/test_batches.py"]),
    "accuracy": ("metrics/accuracy.py", ["tests/metrics"]),
    "equations": ("metrics/equations.py", ["tests/metrics/test_equations.py"]),
    "completions": ("datasets/completions.py", ["tests/datasets/test_completions.py"]),
    "answer_parser": ("teacher/answer_parser.py", ["tests/teacher/test_answer_parser.py"]),
    "labels": (
        "teacher/labels.py",
        ["tests/teacher/test_labels.py", "tests/teacher/test_answer_parser.py"],
    ),
    "integrity": ("checkpoints/integrity.py", ["tests/checkpoints/test_integrity.py"]),
}

_SWAPS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.And: ast.Or,
    ast.Or: ast.And,
}

_NOT_EXPRESSIONS = (ast.stmt, ast.JoinedStr, ast.arg, ast.excepthandler, ast.match_case)


@dataclasses.dataclass(frozen=True)
class Mutant:
    """One changed source.

    Attributes:
        line: of the change, from 1.
        change: the code around it, before and after.
        source: of the whole module.
    """

    line: int
    change: str
    source: str


def mutants(source: str) -> list[Mutant]:
    """Every mutant of a module, in order of its lines."""
    tree = ast.parse(source)
    count = sum(1 for _ in _changes(tree))
    return [_mutant(tree, index) for index in range(count)]


def _mutant(tree: ast.Module, index: int) -> Mutant:
    changed = copy.deepcopy(tree)
    for number, (statement, apply) in enumerate(_changes(changed)):
        if number == index:
            before = ast.unparse(statement)
            apply()
            after = ast.unparse(statement)
            change = f"{before.splitlines()[0]}  ->  {after.splitlines()[0]}"
            if before.splitlines()[0] == after.splitlines()[0]:
                pairs = zip(before.splitlines(), after.splitlines(), strict=False)
                change = next((f"{a.strip()}  ->  {b.strip()}" for a, b in pairs if a != b), change)
            return Mutant(statement.lineno, change, ast.unparse(ast.fix_missing_locations(changed)))
    raise IndexError(index)


def _changes(tree: ast.Module) -> Iterator[tuple[ast.stmt, object]]:
    """(statement, function that changes it) for every place worth changing."""
    for statement in ast.walk(tree):
        if not isinstance(statement, ast.stmt) or isinstance(statement, ast.Raise | ast.Import):
            continue
        for node in _own_nodes(statement):
            yield from ((statement, change) for change in _of_node(node))


def _own_nodes(statement: ast.stmt) -> Iterator[ast.AST]:
    """The expressions of a statement: without the statements in it, annotations and docstrings."""
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
        return
    if isinstance(statement, ast.Break | ast.AugAssign | ast.If | ast.While):
        yield statement
    skipped = {"annotation", "returns", "decorator_list", "msg"}
    stack = [
        child
        for name, value in ast.iter_fields(statement)
        if name not in skipped
        for child in (value if isinstance(value, list) else [value])
        if isinstance(child, ast.AST)
    ]
    while stack:
        node = stack.pop(0)
        if isinstance(
            node, ast.stmt | ast.JoinedStr | ast.arg | ast.excepthandler | ast.match_case
        ):
            continue
        yield node
        stack = [*ast.iter_child_nodes(node), *stack]


def _of_node(node: ast.AST) -> Iterator[object]:
    if isinstance(node, ast.BinOp | ast.AugAssign | ast.BoolOp) and type(node.op) in _SWAPS:
        yield lambda: setattr(node, "op", _SWAPS[type(node.op)]())
    if isinstance(node, ast.Compare):
        for index, op in enumerate(node.ops):
            if type(op) in _SWAPS:
                yield lambda index=index, op=op: node.ops.__setitem__(index, _SWAPS[type(op)]())
    if isinstance(node, ast.Constant) and type(node.value) in (int, bool, float):
        value = not node.value if isinstance(node.value, bool) else node.value + 1
        yield lambda: setattr(node, "value", value)
    if isinstance(node, ast.If | ast.While | ast.IfExp):
        yield lambda: setattr(node, "test", ast.UnaryOp(ast.Not(), node.test))


def survives(path: pathlib.Path, mutant: Mutant, tests: list[str]) -> bool:
    """Whether the tests pass with the mutant in place of the module."""
    child = os.fork()
    if child == 0:
        _run_tests(path, mutant, tests)
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while time.monotonic() < deadline:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status) == 0
        time.sleep(0.05)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


def _run_tests(path: pathlib.Path, mutant: Mutant, tests: list[str]) -> None:
    import pytest

    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(1, 2)
    sys.dont_write_bytecode = True
    original = importlib.machinery.SourceFileLoader.get_data

    def get_data(self: importlib.machinery.SourceFileLoader, name: str) -> bytes:
        if pathlib.Path(name) == path:
            return mutant.source.encode()
        if name.endswith(".pyc") and pathlib.Path(name).name.split(".")[0] == path.stem:
            raise FileNotFoundError(name)
        return original(self, name)

    importlib.machinery.SourceFileLoader.get_data = get_data  # type: ignore[method-assign]
    options = ["-x", "-q", "-p", "no:cacheprovider", "--hypothesis-seed=0", "-m", "not slow"]
    os._exit(int(pytest.main([*options, *tests])))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("targets", nargs="*", default=[], help=f"of {', '.join(TARGETS)}")
    parser.add_argument("--sample", type=int, default=0, help="maximum mutants of a module")
    parser.add_argument("--json", help="write survivors and scores to this file")
    arguments = parser.parse_args()
    os.chdir(ROOT)
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    import jax  # noqa: F401  (imported once, before the forks)
    import numpy  # noqa: F401
    import optax  # noqa: F401
    import pytest  # noqa: F401

    rows = {}
    for name in arguments.targets or TARGETS:
        module, tests = TARGETS[name]
        path = ROOT / "sbs_jax" / module
        every = mutants(path.read_text(encoding="utf-8"))
        chosen = every
        if 0 < arguments.sample < len(every):
            chosen = random.Random(0).sample(every, arguments.sample)
        unchanged = Mutant(0, "", path.read_text(encoding="utf-8"))
        if not survives(path, unchanged, tests):
            raise SystemExit(f"{name}: the tests fail without any change")
        alive = []
        for number, mutant in enumerate(sorted(chosen, key=lambda m: m.line), start=1):
            print(f"\r{name} {number}/{len(chosen)}", end="", file=sys.stderr, flush=True)
            if survives(path, mutant, tests):
                alive.append(f"{module}:{mutant.line}: {mutant.change}")
                print(f"\r{alive[-1]}", flush=True)
        rows[name] = {"mutants": len(chosen), "of": len(every), "survivors": alive}
    print("\nmodule            caught")
    for name, row in rows.items():
        caught = row["mutants"] - len(row["survivors"])
        print(f"{name:<16}  {caught}/{row['mutants']} ({caught / max(row['mutants'], 1):.0%})")
    if arguments.json:
        pathlib.Path(arguments.json).write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
