"""Every experiment, unchanged, under our engine's gin files and under those for upstream T5X."""

import dataclasses
import importlib.util
import pathlib
import re
import subprocess
import sys
import warnings

import gin
import pytest

from sbs_jax.cli import main
from sbs_jax.configs import gin_loader, gin_scanner, training
from sbs_jax.utils import paths

SCRIPTS = {}
if importlib.util.find_spec("t5x"):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of T5X's own imports
        import t5x.eval
        import t5x.infer
        import t5x.train
    SCRIPTS = {"train": t5x.train.train, "eval": t5x.eval.evaluate, "infer": t5x.infer.infer}

GIN = paths.gin_dir()
EXPERIMENTS = sorted(path.name for path in GIN.glob("experiments/*.gin"))
MODELS = sorted(path.name for path in GIN.glob("sbs_models/*.gin"))
RUNS = {"train": "t5x", "eval": "t5x_eval", "infer": "t5x_infer"}
GIVEN = ["MODEL_DIR = 'run'", "VOCABULARY = 'demo'"]
CHECKPOINT = ["CHECKPOINT_PATH = 'run/checkpoint_1'"]
# T5X sees questions only through sequences: packing more of them into a row changes an update.
DIFFERENT = {"PACK"}


def search_path(run: str) -> list[str]:
    return [str(GIN / "engines" / RUNS[run]), str(GIN)]


@pytest.mark.parametrize("run", RUNS)
def test_the_verb_prints_the_search_path(run: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["t5x_path", run]) == 0
    assert capsys.readouterr().out == ",".join(search_path(run)) + "\n"


def test_the_verb_knows_the_runs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["t5x_path"]) == 0
    assert capsys.readouterr().out == ",".join(search_path("train")) + "\n"
    assert main(["t5x_path", "export"]) == 2
    assert "export: T5X has no such run; use train, eval, infer" in capsys.readouterr().err


@pytest.fixture
def upstream(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A search path with empty files in the places of T5X's own, where it is not installed."""
    monkeypatch.chdir(tmp_path)
    for run in ("finetune", "eval", "infer"):
        path = tmp_path / "upstream" / "t5x" / "configs" / "runs" / f"{run}.gin"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return [str(tmp_path / "upstream")]


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_macros_of_an_experiment_mean_the_same(
    name: str, run: str, upstream: list[str]
) -> None:
    files, ours = [f"experiments/{name}"], [str(GIN), str(GIN / "engines" / "sbs")]
    sbs = gin_scanner.scan(files, GIVEN, ours)
    t5x = gin_scanner.scan(files, GIVEN, [*search_path(run), *upstream])
    different = {m for m in sbs.macros if sbs.value(m) != t5x.value(m)}
    assert different == (DIFFERENT if run == "train" else {"MODEL_DIR"} & different)
    read = {pathlib.Path(file).name for file in t5x.files}
    wiring = {"train": "finetune", "eval": "eval", "infer": "infer"}[run]
    assert {f"{wiring}.gin", "bridge.gin"} <= read


def test_an_experiment_of_t5x_sets_every_macro_it_uses(upstream: list[str]) -> None:
    found = gin_scanner.scan(
        ["experiments/demo_step_by_step.gin"], GIVEN, [*search_path("train"), *upstream]
    )
    assert found.uses.keys() - found.macros.keys() <= {gin_scanner.REQUIRED}


@pytest.fixture
def bound(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path):
    """(files, run) -> (TrainConfig, what T5X's program is called with)."""
    if not SCRIPTS:
        pytest.skip("needs upstream T5X (docs/t5x.md)")
    monkeypatch.chdir(tmp_path)

    def resolve(files: list[str], run: str, *bindings: str) -> tuple[training.TrainConfig, dict]:
        function = SCRIPTS[run]
        monkeypatch.setattr(sys.modules["__main__"], function.__name__, function, raising=False)
        root = pathlib.Path(t5x.__file__).parent.parent
        gin_loader.load(files, [*GIVEN, *bindings], [*search_path(run), str(root)], False)
        return gin.get_configurable("configs.TrainConfig")(), gin.get_bindings(function.__name__)

    yield resolve
    gin.clear_config()


def ours(files: list[str]) -> training.TrainConfig:
    return gin_loader.build("configs.TrainConfig", gin_loader.load(files, GIVEN))


def sizes_of(arguments: dict) -> dict:
    return dataclasses.asdict(arguments["model"].module.config)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_t5x_trains_what_our_engine_trains(name: str, bound) -> None:
    wanted = ours([f"experiments/{name}"])
    config, arguments = bound([f"experiments/{name}"], "train")
    assert config == dataclasses.replace(wanted, pack=False)
    sizes = sizes_of(arguments)
    assert {k: sizes[k] for k in sizes if hasattr(wanted.model, k)} == {
        k: v for k, v in dataclasses.asdict(wanted.model).items() if k in sizes
    }
    cut = wanted.task_feature_lengths
    train = arguments["train_dataset_cfg"]
    views = 2 if "step_by_step" in name else 1
    assert train.mixture_or_task_name == wanted.mixture_or_task_name
    assert train.task_feature_lengths == {**cut, "targets_task": cut["targets"]}
    assert (train.batch_size, train.pack) == (wanted.batch_size * views, False)
    assert (train.split, train.seed, train.use_cached) == ("train", wanted.random_seed, False)
    scored = arguments["infer_eval_dataset_cfg"]
    most = min(cut["targets"], wanted.max_decode_length or cut["targets"])
    assert scored.task_feature_lengths == {**cut, "targets": most, "targets_task": most}
    assert scored.split == arguments["train_eval_dataset_cfg"].split == "validation"
    times = (arguments["total_steps"], arguments["eval_period"], arguments["random_seed"])
    assert times == (wanted.train_steps, wanted.eval_period, wanted.random_seed)
    save, restore = arguments["checkpoint_cfg"].save, arguments["checkpoint_cfg"].restore
    assert (save.period, save.save_dataset) == (wanted.eval_period, True)
    assert (restore.path, restore.dtype) == (wanted.initial_checkpoint_path, "float32")


@pytest.mark.parametrize("name", MODELS)
def test_a_model_has_the_same_sizes_in_t5x(name: str, bound) -> None:
    files = ["experiments/demo_finetune.gin", f"sbs_models/{name}"]
    wanted = dataclasses.asdict(ours(files).model)
    _, arguments = bound(files, "train")
    sizes = sizes_of(arguments)
    assert {k: sizes[k] for k in wanted if k in sizes} == {
        k: v for k, v in wanted.items() if k in sizes
    }
    assert wanted.keys() - sizes.keys() <= {"param_dtype", "remat", "remat_policy", "scan_layers"}


@pytest.mark.parametrize("run", ["eval", "infer"])
def test_t5x_scores_and_infers_an_experiment(run: str, bound, tmp_path: pathlib.Path) -> None:
    output = f"{run.upper()}_OUTPUT_DIR = 'out'"
    files = ["experiments/cqa_step_by_step.gin"]
    _, arguments = bound(files, run, output, *CHECKPOINT)
    data = arguments["dataset_cfg"]
    assert (data.mixture_or_task_name, data.split) == ("cqa_step_by_step", "test")
    assert data.task_feature_lengths == {"inputs": 1024, "targets": 63, "targets_task": 63}
    restore = arguments["restore_checkpoint_cfg"]
    assert restore.path == str(tmp_path / "run" / "checkpoint_1")
    assert restore.dtype == "float32"
    assert arguments["model"].decode_fn.__name__ == "temperature_sample"


def test_checkpoint_period(bound) -> None:
    files = ["experiments/demo_finetune.gin"]
    _, arguments = bound(files, "train", "CHECKPOINT_PERIOD = 50")
    assert arguments["checkpoint_cfg"].save.period == 50


@pytest.mark.skipif(bool(SCRIPTS), reason="T5X is installed")
def test_the_comparison_says_that_t5x_is_missing() -> None:
    script = pathlib.Path(__file__).parents[2] / "benchmarks" / "compare_t5x.py"
    command = [sys.executable, str(script), "--gin_file=experiments/demo_finetune.gin"]
    answer = subprocess.run(command, capture_output=True, text=True)
    assert answer.returncode == 1
    assert re.fullmatch(r"compare_t5x: t5x is not installed here; .*\n", answer.stderr)
