"""Maps the settings of T5X's run files to ours.

A setting with a counterpart is honoured under its own name (`translate`), one that this package has
no counterpart for is accepted at the value that has no effect and refused at any other. Both are
decided line by line, before gin reads the text, so that a file needs no T5X to be read.
"""

import ast
import dataclasses
import re
from collections.abc import Iterable
from typing import Any

from sbs_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Counterpart:
    """What to do with a setting of T5X.

    Attributes:
        ours: the macro or ``CLASS.FIELD`` that is the same setting here; None for none.
        neutral: values at which the setting changes nothing, which are accepted.
        advice: what to do instead of any other value.
    """

    ours: str | None = None
    neutral: tuple[Any, ...] = ()
    advice: str = ""


def _same(ours: str, *neutral: Any) -> Counterpart:
    return Counterpart(ours, neutral)


def _only(*neutral: Any, advice: str) -> Counterpart:
    return Counterpart(None, neutral, advice)


_PRESETS = 'OPTIMIZER = "adafactor", "adamw" or "adamw_hf" chooses a preset with its constants'
_LOSS = "the loss of a task is its plain mean over tokens, as in the paper"
_ALL_EVALUATED = "whole splits are evaluated; EVALUATOR_NUM_EXAMPLES limits them"
_OWN_DATA = "splits, shuffling and caching follow from MIXTURE_OR_TASK_NAME and RANDOM_SEED"
_EVALUATION = "validation is evaluated every EVAL_PERIOD steps, test at the end"
_CHECKPOINTS = "CHECKPOINT_PERIOD, TrainConfig.keep_latest and TrainConfig.keep_best say it all"

# {class or function: {parameter: counterpart}}; "*" is every parameter that is not listed.
_SETTINGS: dict[str, dict[str, Counterpart]] = {
    "train": {
        "model_dir": _same("MODEL_DIR"),
        "total_steps": _same("TRAIN_STEPS"),
        "relative_steps": _same("TRAIN_STEPS", None),
        "eval_period": _same("EVAL_PERIOD"),
        "stats_period": _same("TrainConfig.log_period", None),
        "random_seed": _same("RANDOM_SEED", None),
        "eval_steps": _only(None, advice=_ALL_EVALUATED),
        "use_orbax": _only(True, advice="checkpoints are always written by Orbax"),
        "use_hardware_rng": _only(False, advice="the random numbers are jax's"),
        "run_eval_before_training": _only(False, advice=_EVALUATION),
        "*": _only(advice="configs.TrainConfig holds the settings of a run"),
    },
    "SaveCheckpointConfig": {
        "period": _same("CHECKPOINT_PERIOD"),
        "keep": _same("TrainConfig.keep_latest"),
        "save_dataset": _only(True, False, advice="the state of the data is part of a run"),
        "dtype": _only("float32", advice="checkpoints hold PARAM_DTYPE"),
        "*": _only(advice=_CHECKPOINTS),
    },
    "RestoreCheckpointConfig": {
        "path": _same("INITIAL_CHECKPOINT_PATH"),
        "mode": _only("specific", advice="INITIAL_CHECKPOINT_PATH names one checkpoint"),
        "dtype": _only("float32", advice="parameters are read as float32"),
        "*": _only(advice="INITIAL_CHECKPOINT_PATH is the one setting of a start"),
    },
    "CheckpointConfig": {"*": _only(advice=_CHECKPOINTS)},
    "train/DatasetConfig": {
        "mixture_or_task_name": _same("MIXTURE_OR_TASK_NAME"),
        "task_feature_lengths": _same("TASK_FEATURE_LENGTHS"),
        "batch_size": _same("BATCH_SIZE"),
        "pack": _same("PACK"),
        "seed": _same("RANDOM_SEED", None),
        "use_cached": _same("USE_CACHED_TASKS"),
        "split": _only("train", advice=_OWN_DATA),
        "shuffle": _only(True, advice=_OWN_DATA),
        "module": _only(None, advice="write `import MODULE` in the gin file"),
        "*": _only(advice=_OWN_DATA),
    },
    "/DatasetConfig": {  # of no scope: T5X then means training and both evaluations
        "mixture_or_task_name": _same("MIXTURE_OR_TASK_NAME"),
        "task_feature_lengths": _same("TASK_FEATURE_LENGTHS"),
        "batch_size": _same("BATCH_SIZE"),
        "pack": _same("PACK"),
        "seed": _same("RANDOM_SEED", None),
        "use_cached": _same("USE_CACHED_TASKS"),
        "module": _only(None, advice="write `import MODULE` in the gin file"),
        "*": _only(advice=f"write train/ or train_eval/ before it; {_OWN_DATA}"),
    },
    "DatasetConfig": {  # of train_eval and infer_eval
        "batch_size": _same("TrainConfig.eval_batch_size"),
        "split": _only("validation", advice=_EVALUATION),
        "shuffle": _only(False, advice=_OWN_DATA),
        "pack": _only(False, advice="evaluations are not packed"),
        "seed": _only(None, 42, advice=_OWN_DATA),
        "module": _only(None, advice="write `import MODULE` in the gin file"),
        "*": _only(advice="evaluations use the run's MIXTURE_OR_TASK_NAME and lengths"),
    },
    "Trainer": {
        "num_microbatches": _same("PartitionerConfig.num_microbatches", None),
        "*": _only(advice="LEARNING_RATE, LEARNING_RATE_FACTORS and WARMUP_STEPS are the schedule"),
    },
    "PjitPartitioner": {
        "num_partitions": _same("PartitionerConfig.num_partitions"),
        "model_parallel_submesh": _only(None, advice="PartitionerConfig.num_partitions splits"),
        "*": _only(advice="PartitionerConfig.logical_axis_rules adds rules"),
    },
    "create_learning_rate_scheduler": {
        "base_learning_rate": _same("LEARNING_RATE"),
        "factors": _same("LEARNING_RATE_FACTORS"),
        "warmup_steps": _same("WARMUP_STEPS"),
        "step_offset": _only(0, advice="steps count from the start of fine-tuning"),
        "*": _only(advice="LEARNING_RATE_FACTORS names the factors that there are"),
    },
    "EncoderDecoderModel": {
        "label_smoothing": _only(0, 0.0, None, advice=_LOSS),
        "z_loss": _only(0, 0.0, None, advice=_LOSS),
        "loss_normalizing_factor": _only(None, advice=_LOSS),
        "*": _only(advice="MODEL and VOCABULARY choose the model"),
    },
    "Adafactor": {"*": _only(advice=_PRESETS)},
    "AdamWConfig": {"*": _only(advice=_PRESETS)},
    "Evaluator": {
        "num_examples": _same("EVALUATOR_NUM_EXAMPLES"),
        "use_memory_cache": _only(True, False, advice=_EVALUATION),
        "*": _only(advice="metrics.jsonl and TensorBoard are always written"),
    },
    "JSONLogger": {
        "write_n_results": _only(None, advice="all predictions are written"),
        "*": _only(advice="predictions are written to MODEL_DIR"),
    },
    "T5Config": {"*": Counterpart("T5Config.*")},  # of T5X's network: the same fields
}
# Last part of the module that a setting's class or function is in; "" for T5X's launchers.
_MODULES = {
    "train": {"", "train_script", "train"},
    "T5Config": {"network"},
    "Evaluator": {"", "seqio", "evaluation"},
    "JSONLogger": {"", "seqio", "loggers"},
    "Adafactor": {"", "adafactor", "t5x"},
}
_ANY_MODULE = {"", "utils", "partitioning", "trainer", "models", "t5x", "optimizers"}

# Macros of T5X's run files that nothing here uses.
MACROS = {
    "TRAIN_STEPS_RELATIVE": _same("TRAIN_STEPS", None),
    "SEED": _same("RANDOM_SEED", None),
    "INFER_EVAL_BATCH_SIZE": _same("TrainConfig.eval_batch_size"),
    "EVAL_BATCH_SIZE": _same("TrainConfig.eval_batch_size"),
    "NUM_MODEL_PARTITIONS": _same("PartitionerConfig.num_partitions"),
    "USE_CACHED_TASKS": _only(True, False, advice="tokens are always prepared once"),
    "EVAL_STEPS": _only(None, advice=_ALL_EVALUATED),
    "LOSS_NORMALIZING_FACTOR": _only(None, advice=_LOSS),
    "LABEL_SMOOTHING": _only(0, 0.0, None, advice=_LOSS),
    "Z_LOSS": _only(0, 0.0, None, advice=_LOSS),
    "SHUFFLE_TRAIN_EXAMPLES": _only(True, advice=_OWN_DATA),
    "JSON_WRITE_N_RESULTS": _only(None, advice="all predictions are written"),
    "USE_HARDWARE_RNG": _only(False, advice="the random numbers are jax's"),
    "EVALUATOR_USE_MEMORY_CACHE": _only(True, False, advice=_EVALUATION),
    "MIXTURE_OR_TASK_MODULE": _only(None, advice="write `import MODULE` in the gin file"),
    "CHECKPOINT_PATH": _only(advice="INITIAL_CHECKPOINT_PATH is where training starts"),
}

_SETTING = re.compile(r"^(?:([\w/]+)/)?([A-Za-z_][\w.]*)\.(\w+)\s*=\s*(.*?)\s*$")
_BLOCK = re.compile(r"^(?:([\w/]+)/)?([A-Za-z_][\w.]*)\s*:\s*(?:#.*)?$")
_FIELD = re.compile(r"^\s+(\w+)\s*=\s*(.*?)\s*$")
_IMPORT = re.compile(r"^(?:from t5x\b|import t5x\b|import __main__\b)")
_INCLUDE = re.compile(r"""^include\s+['"](t5x/[^'"]*)['"]""")


def steps_notice(train_steps: int, initial_checkpoint_path: str | None) -> str:
    """A notice for TRAIN_STEPS that seem to include the pretraining's steps; "" otherwise."""
    match = re.search(r"checkpoint_(\d+)/?$", initial_checkpoint_path or "")
    before = int(match[1]) if match else 0
    if not 0 < before < train_steps:
        return ""
    return (
        f"TRAIN_STEPS = {train_steps:,} counts from the start of fine-tuning; T5X adds the "
        f"checkpoint's {before:,} steps to it: for the same run give "
        f"TRAIN_STEPS = {train_steps - before}"
    )


def is_known(selector: str) -> bool:
    """Whether a class or function, as a gin file names it, is one that T5X's run files bind."""
    return _of("", selector) is not None


def advice(scope: str, selector: str, parameter: str, value: str) -> tuple[str, str]:
    """(ours, error) of a setting: the name here, or what to do; both empty for a neutral value."""
    parameters = _of(scope, selector) or {}
    return _decide(parameters.get(parameter, parameters.get("*", Counterpart())), parameter, value)


def macro(name: str, value: str) -> tuple[str, str]:
    """As `advice`, for a macro that nothing uses."""
    return _decide(MACROS[name], name, value)


def translate_binding(text: str) -> str:
    """A binding of the command line with T5X's name replaced by ours; empty where it is neutral.

    Raises:
        UserError: the setting to use instead, for one without a counterpart.
    """
    setting = _SETTING.match(text)
    if not setting or not is_known(setting[2]):
        return text
    deferred: list[tuple[str, str]] = []
    scope, selector, parameter, value = setting.groups(default="")
    line = _replaced(scope, selector, parameter, value, "--gin", deferred)
    return deferred[0][0] if deferred else line.strip()


def translate(lines: Iterable[str], where: str) -> tuple[list[str], list[tuple[str, str]]]:
    """Gin text with T5X's names replaced by ours, line for line.

    Args:
        where: the file, for errors.

    Returns:
        The lines, and (binding, its place) of those to apply after all files: their class may not
        be imported in this one.

    Raises:
        UserError: FILE:LINE and the setting to use instead, for one without a counterpart.
    """
    translated: list[str] = []
    deferred: list[tuple[str, str]] = []
    block: tuple[str, str] | None = None
    for number, line in enumerate(lines, start=1):
        place = f"{where}:{number}"
        if match := _INCLUDE.match(line):
            raise UserError(
                f"{place}: {match[1]} is a run or model file of T5X; sbs train reads "
                "'sbs_runs/finetune.gin' and 'sbs_models/NAME.gin' instead"
            )
        header = _BLOCK.match(line)
        if header or (line.strip() and not line[0].isspace() and line[0] != "#"):
            block = (header[1] or "", header[2]) if header and is_known(header[2]) else None
        field = _FIELD.match(line) if block else None
        setting = _SETTING.match(line)
        if _IMPORT.match(line) or (header and block):
            line = "\n"
        elif block and field:
            line = _replaced(*block, field[1], field[2], place, deferred)
        elif setting and is_known(setting[2]):
            scope, selector, parameter, value = setting.groups(default="")
            line = _replaced(scope, selector, parameter, value, place, deferred)
        translated.append(line)
    return translated, deferred


def _replaced(
    scope: str,
    selector: str,
    parameter: str,
    value: str,
    place: str,
    deferred: list[tuple[str, str]],
) -> str:
    ours, problem = advice(scope, selector, parameter, value)
    if problem:
        name = "/".join(filter(None, (scope, f"{selector}.{parameter}")))
        raise UserError(f"{place}{'.' if place == '--gin' else ': '}{name}: {problem}")
    if not ours or value == f"%{ours}":
        return "\n"
    if "." in ours:
        deferred.append((f"{ours} = {value}", place))
        return "\n"
    return f"{ours} = {value}\n"


def _of(scope: str, selector: str) -> dict[str, Counterpart] | None:
    module, _, name = selector.rpartition(".")
    if module.rpartition(".")[2] not in _MODULES.get(name, _ANY_MODULE):
        return None
    return _SETTINGS.get(f"{scope}/{name}", _SETTINGS.get(name))


def _decide(counterpart: Counterpart, name: str, value: str) -> tuple[str, str]:
    text = value.partition(" #")[0].strip()
    try:
        literal = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        literal = ...
    # 0 == False in Python, and neither is the other here.
    if any(literal == one and type(literal) is type(one) for one in counterpart.neutral):
        return "", ""
    if counterpart.ours:
        ours = counterpart.ours.replace("*", name)
        if literal is ... and "." in ours and not text.startswith("%"):
            return "", f"give {ours}, a value on one line, instead"
        return ours, ""
    return "", f"sbs train has no such setting; {counterpart.advice}"
