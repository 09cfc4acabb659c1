"""The command line: help without frameworks, one line for every mistake, gin files and bindings."""

import contextlib
import os
import pathlib
import re
import resource
import signal
import subprocess
import sys

import pytest
from helpers.schedulers import free_address

from sbs_jax.cli import main, processes, train
from sbs_jax.cli.main import VERBS
from sbs_jax.configs import gin_loader, t5x_names
from sbs_jax.utils import paths

FRAMEWORKS = {"jax", "flax", "tensorflow", "seqio", "grain", "matplotlib", "scipy"}
EXPERIMENT = """
include "sbs_models/demo.gin"
include "sbs_runs/finetune.gin"
import sbs_jax.tasks
MIXTURE_OR_TASK_NAME = "demo_step_by_step"
TASK_FEATURE_LENGTHS = {"inputs": 32, "targets": 16}
TRAIN_STEPS = 10
INITIAL_CHECKPOINT_PATH = None
"""
GIVEN = ["--gin_file=x.gin", '--gin.MODEL_DIR="run"']


@pytest.fixture
def here(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """An empty working directory with one experiment, x.gin."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.gin").write_text(EXPERIMENT)
    return tmp_path


def sbs(*args: str, **kwargs) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sbs_jax", *args]
    return subprocess.run(command, capture_output=True, text=True, **kwargs)


def refused(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    """Runs ``sbs`` in this process; returns the one line it must print before it exits with 2."""
    status = main(list(args))
    printed = capsys.readouterr()
    assert (status, printed.out) == (2, "")
    assert re.fullmatch(r"sbs: error: .+\n", printed.err), printed.err
    return printed.err


def dry_run(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    status = main(["train", *GIVEN, "--dry_run", *args])
    printed = capsys.readouterr()
    assert status == 0, printed.err
    return printed.out


WRONG_KINDS = {
    "MIXTURE_OR_TASK_NAME=3": "a string",
    "LABEL_PREFIX=3": "a string",
    "INITIAL_CHECKPOINT_PATH=3": "a string or None",
    "LEARNING_RATE='x'": "a number",
    "ALPHA='x'": "a number",
    "DATA_FRACTION='x'": "a number",
    "DROPOUT_RATE='x'": "a number",
    "ADAM_B2='x'": "a number",
    "OptimizerConfig.clip_norm='x'": "a number or None",
    "WARMUP_STEPS='x'": "a whole number",
    "RANDOM_SEED='x'": "a whole number",
    "RANDOM_SEED=1.5": "a whole number",
    "TRAIN_STEPS=True": "a whole number",
    "CHECKPOINT_PERIOD='x'": "a whole number or None",
    "LEARNING_RATE_FACTORS=3": "a string",
    "PACK='no'": "True or False",
    "TASK_FEATURE_LENGTHS=3": '{"inputs": tokens, "targets": tokens} alone, both above 1',
    "TrainConfig.row_lengths=5": "(inputs, targets), both above 0 or None",
    "TrainConfig.optimizer=3": "an OptimizerConfig",
    "MODEL=3": "a T5Config",
    "T5Config.mlp_activations=3": "a tuple of one or two of gelu, relu, linear",
    "T5Config.mlp_activations='gelu'": "a tuple of one or two of gelu, relu, linear",
    "PartitionerConfig.logical_axis_rules=3": 'pairs ("LOGICAL_AXIS", AXIS), ',
}
WRONG_STUDIES = {
    "seeds=5": "values, each once, such as (0, 1, 2)",
    "seeds=(0.5,)": "values, each once, such as (0, 1, 2)",
    "fractions=0.5": "values, each once, such as (0.25, 1.0)",
    "fractions=([1],)": "values, each once, such as (0.25, 1.0)",
    "fractions=('x',)": "values, each once, such as (0.25, 1.0)",
    "arms={'a': 3}": '{"NAME": "experiments/FILE.gin", ...}',
    "arms={'../a': 'x.gin'}": "named with letters, digits, _ and -",
    "bindings=3": "a list of strings, 'NAME = VALUE'",
    "bindings=[3]": "a list of strings, 'NAME = VALUE'",
    "bindings='TRAIN_STEPS = 4'": "a list of strings, 'NAME = VALUE'",
    "bindings=['RANDOM_SEED = 4']": "without MODEL_DIR, DATA_FRACTION, RANDOM_SEED, which",
    "arm_bindings=3": "{ARM: a list of strings, 'NAME = VALUE'}",
    "arm_bindings={'a': ['MODEL_DIR = 4']}": "without MODEL_DIR, DATA_FRACTION, RANDOM_SEED, which",
    "workers=True": "a whole number",
}
STUDY = """
from __gin__ import dynamic_registration
from sbs_jax import configs
configs.StudyConfig:
  study_dir = "made"
  arms = {"a": "x.gin"}
"""


@pytest.mark.parametrize(
    ("verb", "file", "prefix", "wrong"),
    [("train", "x.gin", "", WRONG_KINDS), ("study", "study.gin", "StudyConfig.", WRONG_STUDIES)],
)
def test_a_value_of_the_wrong_kind_is_one_line(here, verb, file, prefix, wrong):
    """In a process of its own: under pytest the types of a dataclass are checked before."""
    (here / "study.gin").write_text(STUDY)
    code = (
        "import sys; from sbs_jax import cli\n"
        "for given in sys.argv[4:]: cli.main([*sys.argv[1:4], '--gin.' + given, '--dry_run'])"
    )
    macro = "--gin_bindings=MODEL_DIR='run'" if verb == "train" else "--gin_bindings="
    command = [verb, f"--gin_file={file}", macro, *(prefix + given for given in wrong)]
    answer = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True)
    assert (answer.returncode, answer.stdout) == (0, ""), answer.stderr
    lines = answer.stderr.splitlines()
    assert len(lines) == len(wrong)
    for line, (given, rule) in zip(lines, wrong.items(), strict=True):
        name = re.escape(prefix + given.partition("=")[0])
        assert re.match(rf"sbs: error: .*{name} = .*: must be ", line), line
        assert f": must be {rule}" in line, line


@pytest.mark.parametrize("args", [[], *([verb] for verb in VERBS)], ids=str)
def test_help_is_fast_and_imports_no_framework(args: list[str]) -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-X", "importtime", "-m", "sbs_jax", *args, "--help"]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.5
    assert "Usage: sbs" in answer.stdout
    imported = {line.rpartition("|")[2].strip() for line in answer.stderr.splitlines()}
    assert not imported & {*FRAMEWORKS, "numpy"}


def test_help_of_a_verb_shows_examples_and_flags(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--help"]) == 0
    text = capsys.readouterr().out
    assert "\n  sbs train --gin_file=" in text
    assert all(f"--{name}: " in text for name in ("gin_file", "[no]dry_run", "data_dir"))


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["trian"], "trian: no such verb; did you mean train?"),
        (
            ["train", "--gin_fil=x"],
            "no such flag; did you mean --gin_file?",
        ),
        (["train", "--process_count=two"], "--process_count=two: invalid literal"),
        (["train", "--process_count=0"], "process_count=0"),
        (["train", "--process_index=-1"], "process_index=-1"),
        (["train", "--heartbeat_timeout=0"], "heartbeat_timeout=0"),
        (["train", "--progress_timeout=0"], "progress_timeout=0"),
        (["train", "--initialization_timeout=0"], "initialization_timeout=0"),
        (["train", *GIVEN, "--process_index=0"], "need --coordinator_address"),
        (["train", *GIVEN, "--plan_devices=2", "--dry_run"], "--plan_devices: needs --dry_run"),
        (["train", *GIVEN, "--plan_shape=1,2,3"], "--plan_shape: needs --dry_run --plan"),
        (["train", *GIVEN, "--plan_compile", "--dry_run"], "--plan_compile: needs --dry_run"),
        (["train", *GIVEN, "--plan"], "--plan needs --dry_run"),
        (["train", "x.gin"], "'x.gin': unexpected argument"),
        (["train"], "--gin_file is required"),
        (["annotate"], "--task is required (sbs annotate --help)"),
        (["tasks", "cqa", "svamp"], "'svamp': unexpected argument"),
        (["train", "--gin_file=x.gin", "--gin.MODEL_DIR"], "--gin.MODEL_DIR: needs a value"),
        (["train", "--gin_file=x.gin", "--run_mode=eval"], "--run_mode=eval: use sbs evaluate"),
        (["train", "--gin_file=x.gin", "--run_mode=infer"], "use sbs predict"),
        (["train", "--gin_file=x.gin", "--noalsologtostderr"], "progress always goes to stderr"),
        (["train", "--gin_file=x.gin", "--logtostderr"], "leave the flag out"),
        (["train", "--gin_file=x.gin", "-v=1"], "there are no log levels"),
        (["train", "--gin_file=x.gin", "--seqio_additional_cache_dirs=c"], "reads no SeqIO cache"),
        (["tasks", "--module_import=no_such_module"], "--module_import=no_such_module: no such"),
        (["data", "--data_dir=gs://bucket/x"], "flag --data_dir=gs://bucket/x: gs://bucket/x: not"),
        (["train", "--gin_search_paths=a,$NOT_SET"], "the variable $NOT_SET is not set"),
        (["export", "--to=hf", "run", "gs:/bucket/x"], "gs:/bucket/x: not a local path"),
        (
            ["export", "--to=hf", "--platforms=tpu", "a", "b"],
            "--platforms: has an effect only with",
        ),
        (["export", "--to=hf", "--input_lengths=5", "a", "b"], "--input_lengths: has an effect"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_command_line(
    here: pathlib.Path, capsys: pytest.CaptureFixture[str], args: list[str], message: str
) -> None:
    assert message in refused(capsys, *args)


def test_flags_keep_nothing_from_an_earlier_call(
    here: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dry_run(capsys)
    assert "--gin_file is required" in refused(capsys, "train")


def test_train_takes_the_flags_of_t5x() -> None:
    t5x = """gin_file gin_bindings gin_search_paths tfds_data_dir seqio_additional_cache_dirs
        multiprocess_gpu coordinator_address process_count process_index initialization_timeout"""
    assert set(t5x.split()) <= set(train.FLAGS)


@pytest.mark.parametrize(
    ("arg", "message"),
    [
        ("--gin.TRAIN_STEP=3", "no gin file sets or uses this macro; did you mean TRAIN_STEPS?"),
        ("--gin.TrainConfig.log_perod=3", "named 'log_perod'; did you mean log_period?"),
        ("--gin.TrainConfg.log_period=3", "matching 'TrainConfg'; did you mean TrainConfig?"),
        ("--gin.TRAIN_STEPS=%TRAIN_STEP", "macro %TRAIN_STEP is set nowhere; did you mean TRAIN_S"),
        ("--gin.MIXTURE_OR_TASK_NAME=cqa", """'"cqa"'"""),
        ("--gin.OPTIMIZER='adamw", """'"adamw"'"""),
        ("--gin.TASK_FEATURE_LENGTHS={'inputs': 3", "not closed"),
    ],
)
def test_wrong_binding_on_the_command_line(
    here: pathlib.Path, capsys: pytest.CaptureFixture[str], arg: str, message: str
) -> None:
    error = refused(capsys, "train", *GIVEN, arg, "--dry_run")
    assert message in error
    assert error.startswith(f"sbs: error: {arg.partition('=')[0]}: ")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            'include "sbs_runs/finetun.gin"',
            "no gin file 'sbs_runs/finetun.gin' in .*; did you mean sbs_runs/finetune.gin?",
        ),
        ('include "experiments/nope.gin"', "'experiments/nope.gin' in [^;]*$"),
        ('include "cqa_finetune.gin"', "; did you mean experiments/cqa_finetune.gin?"),
        ('include "x.gin"', "'x.gin' includes itself"),
        ("ALPHA = 0.5 0.7", "Expected newline in 'ALPHA = 0.5 0.7'"),
        ("ALPHA = half", "cannot read 'half' as a value in 'ALPHA = half'; a string needs plain"),
        ("METRIC = \u201ctext\u201d", 'a string needs plain quotes: METRIC = "text"'),
        ("METRIC = \u2018text\u2019", 'a string needs plain quotes: METRIC = "text"'),
        ("PACK = true", "cannot read 'true' as a value in 'PACK = true'; write True"),
        ("MAX_DECODE_LENGTH = null", "; write None"),
        ("METRIC = runs/a", 'a string needs plain quotes: METRIC = "runs/a"'),
        ("ALPHA = %ALPA", "the macro %ALPA is set nowhere; did you mean ALPHA?"),
        ("ALPHA", "expected ':' or '='"),
        ("import no_such_module", "No module named 'no_such_module'"),
        ("TrainConfig.log_perod = 3", "named 'log_perod'; did you mean log_period?"),
        ("ALPHA = @TrainConfg()", "'@TrainConfg[()]+'; did you mean TrainConfig?"),
    ],
)
def test_wrong_line_in_a_file(
    here: pathlib.Path, capsys: pytest.CaptureFixture[str], line: str, message: str
) -> None:
    (here / "x.gin").write_text(f"{EXPERIMENT}\n{line}\n")
    number = EXPERIMENT.count("\n") + 2
    error = refused(capsys, "train", *GIVEN, "--dry_run")
    assert re.search(message, error), error
    assert error.startswith(f"sbs: error: x.gin:{number}: ")


@pytest.mark.parametrize("verb", ["train", "study"])
def test_a_file_that_is_not_utf_8(
    here: pathlib.Path, capsys: pytest.CaptureFixture[str], verb: str
) -> None:
    (here / "x.gin").write_bytes(b"# plain\r\n# caf\xe9\r\nALPHA = 0.5\r\n")
    error = refused(capsys, verb, "--gin_file=x.gin", "--dry_run")
    assert error == "sbs: error: x.gin:2: not UTF-8 text; save the file as UTF-8\n"


def test_wrong_name_under_dynamic_registration(
    here: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "y.gin").write_text(
        "from __gin__ import dynamic_registration\n"
        "from sbs_jax import configs\n"
        "configs.TrainConfg.log_period = 3\n"
    )
    error = refused(capsys, "train", *GIVEN, "--gin_file=y.gin", "--dry_run")
    assert error.startswith("sbs: error: y.gin:3: ")
    assert "did you mean TrainConfig?" in error


def test_a_dry_run_knows_the_mixtures(
    here: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    error = refused(capsys, "train", *GIVEN, '--gin.MIXTURE_OR_TASK_NAME="demo_step"', "--dry_run")
    assert error.startswith("sbs: error: demo_step: no such task or mixture")


def test_everything_that_is_missing_is_named_at_once(
    here: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "x.gin").write_text(EXPERIMENT.replace("TRAIN_STEPS = 10", ""))
    error = refused(capsys, "train", "--gin_file=x.gin", "--dry_run")
    assert re.search(r"--gin.MODEL_DIR \(\S*finetune.gin:\d+\), --gin.TRAIN_STEPS \(", error), error


def test_a_file_that_binds_no_run(here: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "x.gin").write_text("ALPHA = 0.5\n")
    error = refused(capsys, "train", "--gin_file=x.gin", "--dry_run")
    assert "configs.TrainConfig: no gin file binds " in error


def test_a_missing_file_names_the_nearest(
    here: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "sbs_models").mkdir()  # a folder of that name in the working directory hides nothing
    error = refused(capsys, "train", "--gin_file=sbs_models/demos.gin", "--dry_run")
    assert "did you mean sbs_models/demo.gin?" in error


def test_a_bug_in_an_imported_module_keeps_its_traceback(
    here: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "buggy_tasks.py").write_text("1 / 0\n")
    (here / "x.gin").write_text(f"{EXPERIMENT}\nimport buggy_tasks\n")
    monkeypatch.syspath_prepend(here)
    with pytest.raises(ZeroDivisionError):
        main(["train", *GIVEN, "--dry_run"])


def test_dry_run_prints_every_value_and_imports_no_framework(here: pathlib.Path) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "sbs_jax", "train"]
    answer = subprocess.run(
        [*command, *GIVEN, "--gin.ALPHA=0.25", "--gin.TrainConfig.log_period=7", "--dry_run"],
        capture_output=True,
        text=True,
        check=True,
    )
    imported = {line.rpartition("|")[2].strip() for line in answer.stderr.splitlines()}
    assert not imported & FRAMEWORKS
    lines = answer.stdout.splitlines()
    assert "ALPHA = 0.25" in lines
    assert "configs.TrainConfig.alpha = %ALPHA  # 0.25" in lines
    assert "configs.TrainConfig.log_period = 7" in lines
    assert "configs.TrainConfig.eval_batch_size = 64" in lines  # a default nobody set
    assert "# USE_CACHED_TASKS = False" in lines  # set for the other engine only
    assert os.listdir(here) == ["x.gin"]


def test_the_printed_configuration_can_be_loaded_again(
    here: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    printed = dry_run(capsys, "--gin.ALPHA=0.25")
    expected = gin_loader.build("TrainConfig", gin_loader.load(["x.gin"], _bindings("ALPHA=0.25")))
    (here / "printed.gin").write_text(printed)
    again = gin_loader.build("TrainConfig", gin_loader.load(["printed.gin"], []))
    assert again == expected
    assert again.alpha == 0.25


def _bindings(*given: str) -> list[str]:
    return ['MODEL_DIR = "run"', *given]


def test_later_files_and_bindings_win(
    here: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "y.gin").write_text("ALPHA = 0.1\nBATCH_SIZE = 8\n")
    printed = dry_run(capsys, "--gin_file=y.gin", "--gin_bindings=ALPHA = 0.2", "--gin.ALPHA=0.3")
    assert "\nALPHA = 0.3\n" in printed
    assert "\nBATCH_SIZE = 8\n" in printed


def test_search_order(here: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The working directory, then --gin_search_paths in order, then the packaged files."""
    packaged = (paths.gin_dir() / "engines/sbs/sbs_runs/finetune.gin").read_text()
    for number, folder in ((1, "b/sbs_runs"), (2, "a/sbs_runs"), (3, "sbs_runs")):
        assert f"\nBATCH_SIZE = {63 + number}\n" in dry_run(capsys, "--gin_search_paths=a,b")
        (here / folder).mkdir(parents=True)
        text = re.sub(r"\nBATCH_SIZE = \d+", f"\nBATCH_SIZE = {64 + number}", packaged)
        (here / folder / "finetune.gin").write_text(text)
    assert "\nBATCH_SIZE = 67\n" in dry_run(capsys, "--gin_search_paths=a,b")


@pytest.mark.parametrize(
    "name", sorted(path.name for path in paths.gin_dir().glob("experiments/*.gin"))
)
def test_packaged_experiments_resolve_from_any_directory(
    here: pathlib.Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    given = [f"--gin_file=experiments/{name}", '--gin.MODEL_DIR="run"', "--dry_run"]
    required = ['--gin.VOCABULARY="t5"', "--gin.INITIAL_CHECKPOINT_PATH=None"]
    status = main(["train", *given, *required])
    assert status == 0, capsys.readouterr().err


def test_train_module_is_sbs_train(here: pathlib.Path) -> None:
    command = [sys.executable, "-m", "sbs_jax.train", *GIVEN, "--dry_run"]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    assert answer.stdout == sbs("train", *GIVEN, "--dry_run", check=True).stdout


def test_processes_of_one_run_find_each_other() -> None:
    together = [f"--coordinator_address={free_address()}", "--process_count=2"]
    with contextlib.ExitStack() as stack:
        children = []
        for index in range(2):
            command = [sys.executable, "-m", "sbs_jax", "devices", *together]
            child = subprocess.Popen(
                [*command, f"--process_index={index}"], stdout=subprocess.PIPE, text=True
            )
            stack.callback(child.communicate)
            stack.callback(child.kill)
            children.append(child)
        for index, child in enumerate(children):
            printed, _ = child.communicate(timeout=120)  # Gloo writes between, even into a line
            assert printed.count("process ") == printed.count(f"process {index} of 2: ") == 1
            assert child.returncode == 0


def test_interrupt_is_one_line(here: pathlib.Path) -> None:
    (here / "slow_tasks.py").write_text("import time\nprint('up', flush=True)\ntime.sleep(60)\n")
    (here / "x.gin").write_text("import slow_tasks\n")
    command = [sys.executable, "-m", "sbs_jax", "train", "--gin_file=x.gin"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        try:
            assert child.stdout.readline() == "up\n"
            child.send_signal(signal.SIGINT)
            _, stderr = child.communicate(timeout=30)
        finally:
            child.kill()
    assert (child.returncode, stderr) == (130, "sbs: interrupted\n")


def test_a_reader_that_leaves_is_no_error() -> None:
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "sbs_jax", "--help"]
    answer = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert (answer.returncode, answer.stderr) == (141, "")


def test_another_pipe_that_breaks_is_an_error(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    read, write = os.pipe()
    os.close(read)
    monkeypatch.setattr(sys.modules[main.__module__], "_run", lambda _: os.write(write, b"x"))
    assert main([]) == 2
    os.close(write)
    assert capfd.readouterr().err == "sbs: error: input or output: Broken pipe\n"


def test_data_dir_precedence(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in (paths.DATA_DIR_VARIABLE, paths.CACHE_DIR_VARIABLE, "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert paths.data_dir() == tmp_path / ".cache/sbs_jax/data"
    monkeypatch.setenv(paths.DATA_DIR_VARIABLE, "from-environment")
    assert paths.data_dir() == pathlib.Path("from-environment")
    assert paths.data_dir("~/flag") == tmp_path / "flag"
    paths.set_data_dir(tmp_path / "set")
    assert paths.data_dir() == tmp_path / "set"


def test_the_script_finds_task_modules_in_the_working_directory(
    here: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p not in ("", str(here))])
    (here / "own_tasks.py").write_text("LOADED = True\n")
    (here / "x.gin").write_text(f"{EXPERIMENT}\nimport own_tasks\n")
    before = list(sys.path)
    gin_loader.load(["x.gin"], [])
    assert sys.modules.pop("own_tasks").LOADED
    assert sys.path == before


@pytest.mark.parametrize("args", [["--dry_run"], ["--dry_run", "--plan"], []], ids=str)
def test_a_store_that_cannot_hold_a_run_is_refused_before_anything_is_written(
    here: pathlib.Path, capsys: pytest.CaptureFixture[str], args: list[str]
) -> None:
    (here / "x.gin").write_text(EXPERIMENT)
    bucket = "--gin.MODEL_DIR='s3://bucket/run'"
    error = refused(capsys, "train", "--gin_file=x.gin", bucket, *args)
    assert "MODEL_DIR s3://bucket/run: only local folders and gs:// work here" in error
    assert [path.name for path in here.iterdir()] == ["x.gin"]


@pytest.mark.parametrize(
    ("steps", "path", "notice"),
    [
        (1_010_000, "t5/checkpoint_1000000", "give TRAIN_STEPS = 10000"),
        (1_010_000, "t5/checkpoint_1000000/", "give TRAIN_STEPS = 10000"),
        (10_000, "t5/checkpoint_1000000", ""),
        (10_000, "t5/checkpoint_0", ""),
        (10_000, "hf://google/t5-v1_1-small", ""),
        (10_000, None, ""),
    ],
)
def test_absolute_train_steps_are_noticed(steps: int, path: str | None, notice: str) -> None:
    said = t5x_names.steps_notice(steps, path)
    assert notice in said and bool(said) == bool(notice)


@pytest.mark.parametrize(
    ("variables", "warned"),
    [
        ({"SLURM_STEP_NUM_TASKS": "2"}, "SLURM started 2 tasks"),
        ({"OMPI_COMM_WORLD_SIZE": "4"}, "MPI started 4 tasks"),
        ({"SLURM_STEP_NUM_TASKS": "1"}, ""),
        ({"SLURM_NTASKS": "8"}, ""),  # of an allocation; this may be its one shell
        ({}, ""),
    ],
    ids=str,
)
def test_a_forgotten_multiprocess_flag_is_noticed(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    variables: dict[str, str],
    warned: str,
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    processes.warn_of_forgotten_flag()
    said = capsys.readouterr().err
    assert warned in said and bool(said) == bool(warned)
    assert not warned or "--multiprocess_gpu" in said
