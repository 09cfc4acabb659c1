"""Imports point one way; frameworks stay where they belong; gin/ never hides the gin library."""

import ast
import pathlib
import subprocess
import sys
from collections.abc import Iterator

ROOT = pathlib.Path(__file__).resolve().parents[2]

# Top to bottom: a package (or a module of the top level) imports only from rows below its own.
ROWS = [
    ["train", "__main__"],
    ["cli"],
    ["tasks"],
    ["export", "integrations", "studies"],
    ["inference"],
    ["training"],
    ["evaluation"],
    ["checkpoints", "reporting"],
    ["models"],
    ["runs"],
    ["input_pipeline", "teacher"],
    ["distributed"],
    ["datasets"],
    ["metrics"],
    ["configs"],
    ["utils"],
    ["errors", "moved"],
]

# TensorFlow has one room: nothing from JSONL to a trained student needs it.
TENSORFLOW = {"tensorflow", "tensorflow_datasets", "tensorflow_text", "seqio", "t5x"}
TENSORFLOW_ROOM = "integrations"

# jax begins with the numerical core: whatever prepares, asks or reports runs without it.
JAX = {"jax", "jaxlib", "flax", "optax", "orbax", "grain"}
WITHOUT_JAX = {"configs", "datasets", "metrics", "reporting", "runs", "teacher", "utils", "errors"}

# Stage 1 works on any JSONL file, so it knows records but no registry.
TEACHER_NEEDS = {"errors", "utils", "metrics", "datasets.records", "datasets.completions"}


def _modules() -> dict[str, pathlib.Path]:
    """Module names without ``sbs_jax.`` -> file."""
    modules = {}
    for folder, prefix in ((ROOT / "sbs_jax", ()), (ROOT / "tasks", ("tasks",))):
        for path in sorted(folder.rglob("*.py")):
            parts = (*prefix, *path.relative_to(folder).with_suffix("").parts)
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            if name:
                modules[name] = path
    return modules


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
    package = module.split(".")[0]
    for number, row in enumerate(ROWS):
        if package in row:
            return number
    raise LookupError(f"sbs_jax.{package} is new: give it a row in {__file__}")


MODULES = _modules()


IMPORTS = {name: list(_imports(path)) for name, path in MODULES.items()}


def _own_imports(module: str) -> Iterator[str]:
    return filter(None, map(_own, IMPORTS[module]))


def test_imports_point_down() -> None:
    upward = [
        f"sbs_jax.{module} must not import sbs_jax.{imported}"
        for module in MODULES
        for imported in _own_imports(module)
        if imported.split(".")[0] != module.split(".")[0] and _row(imported) <= _row(module)
    ]
    assert not upward


def test_no_module_imports_itself_in_a_circle() -> None:
    graph = {
        name: set(_own_imports(name)) - {name}
        for name, path in MODULES.items()
        if path.name != "__init__.py"
    }
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, f"circle: {' -> '.join((*path, module))}"
        if module not in done:
            for imported in graph.get(module, ()):
                visit(imported, (*path, module))
            done.add(module)

    for module in graph:
        visit(module, ())


def test_no_module_is_imported_by_a_string() -> None:
    for module, path in MODULES.items():
        # `sbs VERB` imports the verb's module alone, and users name their own task modules.
        if module not in {"cli.main", "configs.gin_loader", "datasets.registry", "moved"}:
            assert "import_module(" not in path.read_text(encoding="utf-8"), f"sbs_jax.{module}"


def test_tensorflow_has_one_room() -> None:
    elsewhere = [
        f"sbs_jax.{module} imports {imported}"
        for module in MODULES
        if not module.startswith(TENSORFLOW_ROOM)
        for imported in IMPORTS[module]
        if imported.split(".")[0] in TENSORFLOW
    ]
    assert not elsewhere


def test_data_modules_import_no_jax() -> None:
    heavy = [
        f"sbs_jax.{module} imports {imported}"
        for module in MODULES
        if module.split(".")[0] in WITHOUT_JAX
        for imported in IMPORTS[module]
        if imported.split(".")[0] in JAX
    ]
    assert not heavy


def test_stage_1_works_alone() -> None:
    foreign = [
        f"sbs_jax.{module} imports sbs_jax.{imported}"
        for module in MODULES
        if module.startswith("teacher.")
        for imported in _own_imports(module)
        if not {imported, imported.split(".")[0]} & {*TEACHER_NEEDS, "teacher"}
    ]
    assert not foreign


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
