"""Print the command and the gin file that equal a run of the original code's run.py.

Everything after the verb is the old command; words before its first flag are skipped:

  sbs from_original python run.py --from_pretrained google/t5-v1_1-base --dataset cqa \\
      --model_type task_prefix --label_type llm --alpha 0.5 --batch_size 16 --grad_steps 4

Every flag of google-research/distilling-step-by-step's run.py is translated, or refused with the
reason. Lines that begin with # say what differs.
"""

import argparse
import dataclasses
import json
import os
import re
import shlex
from typing import Any, NoReturn

from absl import flags

from sbs_jax.errors import UserError, nearest

FLAGS = flags.FlagValues()
ARGUMENTS = "COMMAND..."
RAW_ARGUMENTS = True  # flags among them are the old command's

_DATASETS = ("cqa", "svamp", "esnli", "anli1", "asdiv")
# (model_type, label_type) of run.py -> method.
_METHODS = {
    ("task_prefix", "gt"): "step_by_step",
    ("task_prefix", "llm"): "step_by_step_llm",
    ("standard", "gt"): "finetune",
    ("standard", "llm"): "distill",
}
_SIZES = {"3b": "xl", "11b": "xxl"}
# Names on the Hugging Face hub -> the gin file of their sizes.
_MODELS = (
    (r"google/t5-v1_1-(small|base|large|xl|xxl)", "t5_1_1"),
    (r"google/flan-t5-(small|base|large|xl|xxl)", "flan_t5"),
    (r"(?:google-t5/)?t5-(small|base|large|3b|11b)", "t5_1_0"),
    (r"google/mt5-(small|base|large|xl|xxl)", "mt5"),
    (r"google/byt5-(small|base|large|xl|xxl)", "byt5"),
)
_TARGETS = 256  # tokens, fixed in run.py


@dataclasses.dataclass
class Equivalent:
    """The equivalent of a command of the original.

    Attributes:
        files: gin files, the experiment first.
        settings: macro or ``CLASS.FIELD`` -> value, where it differs from the experiment.
        notes: what the user should know.
    """

    files: list[str]
    settings: dict[str, Any]
    notes: list[str]

    def command(self) -> str:
        """The equivalent ``sbs train``."""
        words = [f"--gin_file={file}" for file in self.files]
        words += ["--data_dir=data"]
        words += [shlex.quote(f"--gin.{name}={_gin(value)}") for name, value in self._all()]
        return " \\\n    ".join(["sbs train", *words])

    def gin(self) -> str:
        """The same as a gin file."""
        lines = [f"include '{file}'" for file in self.files]
        names = {name: name if name.isupper() else f"configs.{name}" for name, _ in self._all()}
        return "\n".join([*lines, *(f"{names[n]} = {_gin(value)}" for n, value in self._all())])

    def _all(self) -> list[tuple[str, Any]]:
        name = os.path.basename(self.files[0]).removesuffix(".gin")
        return [("MODEL_DIR", f"runs/{name}"), *self.settings.items()]


def main(argv: list[str]) -> None:
    """Prints."""
    equivalent = translate(argv)
    print("\n".join(f"# {note}" for note in equivalent.notes))
    print("\n# once:\nsbs data --release=datasets --data_dir=data\n")
    print(f"{equivalent.command()}\n\n# the same as a gin file:\n{equivalent.gin()}")


def translate(argv: list[str]) -> Equivalent:
    """Translates the flags of run.py; ignores the words before the first flag.

    Raises:
        UserError: an unknown flag, or a value with which run.py fails or has no counterpart.
    """
    first = next((i for i, word in enumerate(argv) if word.startswith("--")), len(argv))
    old = _parser().parse_args(argv[first:])
    _refuse(old)
    method = _METHODS[old.model_type, old.label_type]
    dataset = "svamp_asdiv" if old.dataset == "asdiv" else old.dataset
    result = Equivalent([f"experiments/{dataset}_{method}.gin"], {}, [])
    if dataset == "svamp_asdiv":
        result.files = ["experiments/svamp_asdiv_step_by_step.gin"]
        if method != "step_by_step":
            result.settings["MIXTURE_OR_TASK_NAME"] = f"{dataset}_{method}"
        result.notes.append(
            "The annotations of ASDiv were not released: docs/annotate.md makes them."
        )
    _model(old, result)
    _training(old, result)
    _evaluation(old, result)
    return result


def _refuse(old: argparse.Namespace) -> None:
    if old.llm == "gpt":
        raise UserError(
            "--llm gpt: the GPT-NeoX outputs were never released; `sbs annotate` asks any model"
        )
    if old.llm != "palm":
        raise UserError(
            f"--llm {old.llm}: run.py fails with it; leave it out (--model_type standard "
            "--label_type gt needs no teacher)"
        )
    if old.optimizer_name.lower() != "adamw":
        raise UserError(
            f"--optimizer_name {old.optimizer_name}: run.py names folders with it and trains with "
            'AdamW; leave it out, OPTIMIZER = "adamw_hf" is that optimizer'
        )
    if old.local_rank != -1:
        raise UserError(
            f"--local_rank {old.local_rank}: one process uses all devices of a machine; leave it "
            "out, several machines need --multiprocess_gpu (sbs train --help)"
        )


def _model(old: argparse.Namespace, result: Equivalent) -> None:
    name = old.from_pretrained
    for pattern, family in _MODELS:
        if match := re.fullmatch(pattern, name):
            size = _SIZES.get(match[1], match[1])
            if f"{family}_{size}" != "t5_1_1_base":  # the experiments' own
                result.files.append(f"sbs_models/{family}_{size}.gin")
            result.settings["INITIAL_CHECKPOINT_PATH"] = f"hf://{name}"
            return
    folder = name.startswith((".", "/", "~")) or os.path.isdir(name)
    result.settings["INITIAL_CHECKPOINT_PATH"] = name if folder else f"hf://{name}"
    result.notes.append(
        f"{name}: add the gin file of its sizes, --gin_file=sbs_models/NAME.gin (base assumed)."
    )


def _training(old: argparse.Namespace, result: Equivalent) -> None:
    changed = {
        "TRAIN_STEPS": (old.max_steps, 10000),
        "BATCH_SIZE": (old.batch_size * old.grad_steps, 64),
        "LEARNING_RATE": (old.lr, 5e-5),
        "DATA_FRACTION": (old.subsample, 1.0),
        "RANDOM_SEED": (old.run, 0),
        "PartitionerConfig.num_microbatches": (old.grad_steps, 1),
    }
    result.settings |= {name: value for name, (value, usual) in changed.items() if value != usual}
    if old.model_type == "task_prefix":
        if old.alpha != 0.5:
            result.settings["ALPHA"] = old.alpha
        result.settings |= {"LABEL_PREFIX": "predict: ", "RATIONALE_PREFIX": "explain: "}
    elif old.alpha != 0.5:
        result.notes.append("--alpha has no effect with --model_type standard.")
    if old.max_input_length != 1024:
        lengths = {"inputs": old.max_input_length, "targets": _TARGETS}
        result.settings["TASK_FEATURE_LENGTHS"] = lengths
    result.settings["DTYPE"] = "bfloat16" if old.bf16 else "float32"
    result.notes.append(
        f"BATCH_SIZE {old.batch_size * old.grad_steps} is of one device of the original; multiply "
        "it by the number of devices that the old command used."
    )
    if old.grad_steps > 1:
        result.notes.append(
            "Micro-batches are normalised together; the original normalised each on its own."
        )
    if old.parallelize:
        result.notes.append(
            "--parallelize: all devices are used; PartitionerConfig.fsdp or .num_partitions splits "
            "the model over them."
        )


def _evaluation(old: argparse.Namespace, result: Equivalent) -> None:
    if old.eval_steps != 250:
        result.settings["EVAL_PERIOD"] = old.eval_steps
    if old.gen_max_len != 64:
        result.settings["TrainConfig.max_decode_length"] = old.gen_max_len - 1
    if old.output_rationale and old.model_type == "task_prefix":
        result.settings["OUTPUT_RATIONALE"] = True
    elif old.output_rationale:
        result.notes.append("--output_rationale has no effect with --model_type standard.")
    if old.no_log:
        result.notes.append("--no_log: metrics are always written to MODEL_DIR.")
    result.notes.append(
        "Checkpoints are kept, and the best on validation is tested once at the end; the original "
        "scored the test split during training and kept none."
    )


class _Parser(argparse.ArgumentParser):
    """run.py's flags; its mistakes become one line."""

    def error(self, message: str) -> NoReturn:
        unknown = re.search(r"unrecognized arguments: (\S+)", message)
        names = [option for action in self._actions for option in action.option_strings]
        hint = nearest(unknown[1].partition("=")[0], names) if unknown else ""
        raise UserError(f"run.py: {message}{hint}")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="run.py", add_help=False)
    parser.add_argument("--dataset", choices=_DATASETS, required=True)
    parser.add_argument("--model_type", choices=("task_prefix", "standard"), default="task_prefix")
    parser.add_argument("--label_type", choices=("gt", "llm"), default="gt")
    texts = {"llm": "palm", "optimizer_name": "AdamW", "from_pretrained": "google/t5-v1_1-base"}
    counts = {"max_steps": 10000, "eval_steps": 250, "batch_size": 64, "grad_steps": 1}
    counts |= {"run": 0, "max_input_length": 1024, "gen_max_len": 64, "local_rank": -1}
    for name, default in (*texts.items(), *counts.items()):
        parser.add_argument(f"--{name}", type=type(default), default=default)
    for name, default in {"subsample": 1.0, "alpha": 0.5, "lr": 5e-5}.items():
        parser.add_argument(f"--{name}", type=float, default=default)
    for name in ("parallelize", "bf16", "no_log", "output_rationale"):
        parser.add_argument(f"--{name}", action="store_true")
    return parser


def _gin(value: Any) -> str:
    """A value as gin text, strings in double quotes; the shell's are single."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)
