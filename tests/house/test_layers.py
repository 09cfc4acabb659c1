"""Imports point one way; frameworks stay where they belong; gin/ never hides the gin library."""

import ast
import pathlib
import subprocess
import sys
from collections.abc import Iterator

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]

# Bottom to top: a module imports only from rows above its own in this list. A new module gets a
# place here; "X.*" stands for every module of the package X that has no place of its own.
DATA = [
    ["errors", "suggest"],
    [
        "archive",
        "completions",
        "configs",
        "download",
        "equations",
        "gin_scan",
        "locks",
        "paths",
        "records",
    ],
    ["gin_launch", "gin_text", "metrics", "predict_files", "sources", "splits"],
    ["views", "vocabularies"],
    ["asdiv", "demo_data", "release", "summaries"],
    ["figures", "prepared", "run_files", "tables"],
    ["teacher.answers", "teacher.journal", "teacher.limits", "teacher.progress"],
    ["teacher.prompts", "teacher.settings"],
    ["teacher.ladder", "teacher.requests"],
    ["teacher.client", "teacher.imports", "teacher.voting"],
    ["teacher.asking", "teacher.reportcard"],
    ["teacher.batch_api", "teacher.outputs", "teacher.planning"],
    ["teacher.annotate"],
    ["datasets", "report"],
    ["seqio_tasks", "tasks.*", "tfds_builder", "tokens"],
    ["tasks"],
]
NUMERICS = [
    ["hosts", "layers", "rounding"],
    ["logs", "model", "objective", "optimizers", "packing", "partitioning", "stopping"],
    ["checkpoints.hf_tokenizer", "checkpoints.hub", "checkpoints.integrity"],
    ["checkpoints.manager", "checkpoints.params", "checkpoints.trees"],
    ["checkpoints.orbax_arrays", "checkpoints.torch_file"],
    ["batches", "checkpoints.hf", "checkpoints.store", "checkpoints.zarr", "decoding", "gradients"],
    ["checkpoints.hf_write", "checkpoints.sbs", "checkpoints.t5x", "evaluate", "step"],
    ["checkpoints.initial"],
    ["checkpoints.convert", "inputs", "runs"],
    ["scoring", "updates"],
    ["restored", "trainer"],
    ["exports.student", "planning", "predict", "workers"],
    ["exports.cards"],
    ["exports.hugging_face", "exports.stablehlo"],
    ["study"],
    ["demo", "grids"],
]
# Other trainers launch our experiments through these; test_nothing_imports_an_engine.
ENGINES = [["engines.t5x_data"], ["engines.t5x_model"], ["engines.t5x_training"]]
FRONT = [["commands.*"], ["cli"], ["train", "__main__"]]
ROWS = DATA + NUMERICS + ENGINES + FRONT

# These alone may touch TensorFlow: nothing from JSONL to a trained student needs it.
TENSORFLOW = {"tensorflow", "tensorflow_datasets", "tensorflow_text", "seqio", "t5x"}
TENSORFLOW_MODULES = {"seqio_tasks", "tfds_builder", *(row[0] for row in ENGINES)}

# jax begins with the numerical core: everything that prepares or reports runs without it.
JAX = {"jax", "jaxlib", "flax", "optax", "orbax", "grain"}

# Stage 1 knows nothing of datasets, so that it can be used on any JSONL file.
TEACHER_NEEDS = {"errors", "records", "completions", "metrics"}


def _modules() -> dict[str, pathlib.Path]:
    """Module names without ``sbs_jax.`` -> file; packages that import nothing are left out."""
    found = {}
    for folder, prefix in ((ROOT / "sbs_jax", ()), (ROOT / "tasks", ("tasks",))):
        for path in sorted(folder.rglob("*.py")):
            parts = (*prefix, *path.relative_to(folder).with_suffix("").parts)
            if parts[-1] == "__init__":
                parts = parts[:-1]
                if not parts or not list(_imports(path)):
                    continue
            found[".".join(parts)] = path
    return found


def _imports(path: pathlib.Path) -> Iterator[str]:
    """Every module a file imports, inside functions too; ``from a import b`` gives ``a.b``."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _own(imported: str) -> str | None:
    """The module of this package that an import names, or None for another package."""
    package, *parts = imported.split(".")
    if package != "sbs_jax":
        return None
    while parts and ".".join(parts) not in MODULES:
        parts.pop()  # a name inside a module
    return ".".join(parts) or None


def _row(module: str) -> int:
    for name in (module, module.rpartition(".")[0] + ".*"):
        for number, row in enumerate(ROWS):
            if name in row:
                return number
    raise LookupError(f"sbs_jax.{module} is new: give it a row in {__file__}")


MODULES = _modules()


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down(module: str) -> None:
    row = _row(module)
    for imported in filter(None, map(_own, _imports(MODULES[module]))):
        assert _row(imported) < row, f"sbs_jax.{module} must not import sbs_jax.{imported}"


@pytest.mark.parametrize("module", [m for m in MODULES if m not in TENSORFLOW_MODULES])
def test_tensorflow_is_not_needed(module: str) -> None:
    for imported in _imports(MODULES[module]):
        assert imported.split(".")[0] not in TENSORFLOW, f"sbs_jax.{module} imports {imported}"
        assert _own(imported) not in TENSORFLOW_MODULES, f"sbs_jax.{module} imports {imported}"


@pytest.mark.parametrize("module", [m for m in MODULES if not m.startswith("engines.")])
def test_nothing_imports_an_engine(module: str) -> None:
    for imported in _imports(MODULES[module]):
        assert not (_own(imported) or "").startswith("engines"), f"sbs_jax.{module}: {imported}"
        assert imported.split(".")[0] != "t5x", f"sbs_jax.{module} imports {imported}"


@pytest.mark.parametrize("module", MODULES)
def test_data_modules_import_no_jax(module: str) -> None:
    if _row(module) >= len(DATA):
        return
    for imported in _imports(MODULES[module]):
        assert imported.split(".")[0] not in JAX, f"sbs_jax.{module} imports {imported}"


@pytest.mark.parametrize("module", [m for m in MODULES if m.startswith("teacher.")])
def test_stage_1_stands_alone(module: str) -> None:
    for imported in filter(None, map(_own, _imports(MODULES[module]))):
        own = imported.startswith("teacher.") or imported in TEACHER_NEEDS
        assert own, f"sbs_jax.{module} imports sbs_jax.{imported}"


def test_importing_the_trainer_loads_no_tensorflow() -> None:
    code = f"import sys, sbs_jax.training.trainer; print(sorted({TENSORFLOW} & set(sys.modules)))"
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert answer.stdout.strip() == "[]"


def test_gin_is_the_library_and_our_folder_holds_no_python() -> None:
    import gin

    assert hasattr(gin, "configurable"), f"`import gin` found {gin}: is gin-config installed?"
    assert not list((ROOT / "gin").rglob("*.py")), "a .py file in gin/ would hide the gin library"
