"""MODEL_DIR as the home of one run: what it was told, and the refusal of another one."""

import contextlib
import dataclasses
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sbs_jax.configs import OptimizerConfig, PartitionerConfig, T5Config, TrainConfig
from sbs_jax.distributed import multihost
from sbs_jax.errors import UserError
from sbs_jax.utils import console
from sbs_jax.utils.console import say
from sbs_jax.utils.files import locked, write_lines

_FILE = "run.json"
_FINGERPRINTS = "fingerprints"

# Where things are may differ; what they hold may not.
_PATHS = ("model_dir", "initial_checkpoint_path", "vocabulary")

# What may differ between the starts of one run: nothing of it enters an update.
FREE_FIELDS = (
    *_PATHS,
    "partitioner",
    "pack",
    "row_lengths",
    "eval_period",
    "eval_batch_size",
    "eval_num_examples",
    "max_decode_length",
    "output_rationale",
    "max_unknown",
    "log_period",
    "keep_latest",
    "keep_best",
    "checkpoint_period",
    "on_nonfinite",
)


def exists(model_dir: str | os.PathLike[str]) -> bool:
    """Whether the folder holds a run of ours."""
    return (Path(model_dir) / _FILE).is_file()


def load(model_dir: str | os.PathLike[str]) -> TrainConfig:
    """The configuration of the run in a folder. Raises UserError if there is none."""
    path = Path(model_dir) / _FILE
    try:
        fields = _tuples(json.loads(path.read_text(encoding="utf-8")))
        del fields[_FINGERPRINTS]
        nested = {
            "model": T5Config(**fields["model"]),
            "optimizer": OptimizerConfig(**fields["optimizer"]),
            "partitioner": PartitionerConfig(**fields["partitioner"]),
        }
        return TrainConfig(**{**fields, **nested, "model_dir": str(model_dir)})
    except FileNotFoundError:
        raise UserError(f"{model_dir}: no run.json; give the MODEL_DIR of sbs train") from None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not a run of this version ({error})") from None


def fingerprints(model_dir: str | os.PathLike[str]) -> dict[str, str]:
    """What the run was trained on, as `inputs.Source.fingerprints` had it; after `load`."""
    path = Path(model_dir) / _FILE
    return json.loads(path.read_text(encoding="utf-8"))[_FINGERPRINTS]


def refuse_another(config: TrainConfig, fingerprints: Mapping[str, str]) -> None:
    """Raises UserError, naming the first difference, if MODEL_DIR is or holds something else.

    TRAIN_STEPS may change: the run then goes on under the schedule of the new number.
    """
    if "://" in config.model_dir:
        raise UserError(f"MODEL_DIR {config.model_dir}: give a folder; mount a bucket (gcsfuse)")
    path = Path(config.model_dir) / _FILE
    if not path.exists():
        if any(path.parent.glob("checkpoint*")):
            raise UserError(
                f"{config.model_dir}: holds checkpoints of something else; choose another MODEL_DIR"
            )
        return
    before = json.loads(path.read_text(encoding="utf-8"))
    now = _identity(config, fingerprints)
    for name in sorted((now.keys() | before.keys()) - set(FREE_FIELDS)):
        if before.get(name) == now.get(name):
            continue
        if name == "train_steps":
            say(
                f"TRAIN_STEPS was {before[name]}, now {now[name]}: the learning rate follows the "
                "schedule of the new number from here on"
            )
            continue
        raise UserError(
            f"{config.model_dir}: holds another run: {name} was {before.get(name)!r}, now "
            f"{now.get(name)!r}; choose another MODEL_DIR or the settings it had"
        )


@contextlib.contextmanager
def claimed(
    config: TrainConfig, fingerprints: Mapping[str, str], operative_config: str
) -> Iterator[None]:
    """Inside, MODEL_DIR is this run's: run.json and config.gin are the first files written there.

    Of several processes the first writes. Raises UserError where the folder cannot be made, where
    another run is working in it, and where another process does not see it.
    """
    with contextlib.ExitStack() as stack:
        with multihost.together("MODEL_DIR"):
            if console.is_primary():
                _make(Path(config.model_dir))
                stack.enter_context(locked(Path(config.model_dir), "MODEL_DIR"))
                _write(config, fingerprints, operative_config)
        with multihost.together("MODEL_DIR"):
            if not exists(config.model_dir):
                raise UserError(
                    f"MODEL_DIR {config.model_dir}: this process does not see what process 0 "
                    "wrote there; choose a folder that all processes share"
                )
        yield


def _make(model_dir: Path) -> None:
    try:
        model_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"MODEL_DIR {model_dir}: cannot be made ({error.strerror}); choose another folder"
        ) from None


def _write(config: TrainConfig, fingerprints: Mapping[str, str], operative_config: str) -> None:
    model_dir = Path(config.model_dir)
    identity = _identity(config, fingerprints)
    write_lines(model_dir / _FILE, [json.dumps(identity, indent=2) + "\n"])
    if operative_config:
        write_lines(model_dir / "config.gin", [operative_config])


def check_same(config: TrainConfig, fingerprints: Mapping[str, str]) -> None:
    """Raises UserError, naming a field, if the processes of a run were told different things."""
    fields = _identity(config, fingerprints)
    for name in _PATHS:
        del fields[name]
    multihost.check_same(fields)


def _identity(config: TrainConfig, fingerprints: Mapping[str, str]) -> dict:
    fields = {**dataclasses.asdict(config), _FINGERPRINTS: dict(fingerprints)}
    return json.loads(json.dumps(fields))  # as it reads back: lists for tuples


def _tuples(value: Any) -> Any:
    """JSON values with tuples for lists, as the configuration has them."""
    if isinstance(value, list):
        return tuple(map(_tuples, value))
    if isinstance(value, dict):
        return {name: _tuples(item) for name, item in value.items()}
    return value
