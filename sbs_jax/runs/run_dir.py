"""The identity of a run: run.json, and refusing a MODEL_DIR that belongs to another run."""

import contextlib
import dataclasses
import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sbs_jax.configs import OptimizerConfig, PartitionerConfig, T5Config, TrainConfig
from sbs_jax.distributed import multihost
from sbs_jax.errors import UserError
from sbs_jax.runs import layout
from sbs_jax.utils import buckets, console
from sbs_jax.utils.buckets import place
from sbs_jax.utils.console import say
from sbs_jax.utils.files import locked, write_lines

_FINGERPRINTS = "fingerprints"

# NFS caches a missing file for up to 60 s by default (acdirmax), gcsfuse for 5 s.
_SHARED_SECONDS = 90.0
_RETRY_SECONDS = 0.5

# Paths may differ between starts; what they hold may not.
_PATHS = ("model_dir", "initial_checkpoint_path", "vocabulary")

# Settings that may differ between the starts of one run, as they enter no update.
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

# What may differ too (see `score_identity.of_dataset`), and what earlier scores are then of.
_SCORED = {
    f"{_FINGERPRINTS}.validation_fingerprint": ("the validation data", "other questions"),
    f"{_FINGERPRINTS}.test_fingerprint": ("the test data", "other questions"),
    f"{_FINGERPRINTS}.metric_fingerprint": ("the metric", "another metric"),
}


def exists(model_dir: str | os.PathLike[str]) -> bool:
    """Whether the folder holds a run of ours."""
    return (place(model_dir) / layout.RUN).is_file()


def load(model_dir: str | os.PathLike[str]) -> TrainConfig:
    """The configuration of the run in a folder.

    Raises:
        UserError: the folder holds no run.
    """
    buckets.reach(os.fspath(model_dir), "MODEL_DIR")
    path = place(model_dir) / layout.RUN
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


def fingerprints_of(model_dir: str | os.PathLike[str]) -> dict[str, str]:
    """The fingerprints of vocabulary, data and metric in run.json; call after `load`."""
    path = place(model_dir) / layout.RUN
    return json.loads(path.read_text(encoding="utf-8")).get(_FINGERPRINTS, {})


def has_vocabulary(model_dir: str | os.PathLike[str], fingerprint: str) -> bool:
    """Whether a folder's run was trained with this vocabulary; True where no run is there."""
    if not exists(model_dir):
        return True
    return fingerprints_of(model_dir).get("vocabulary_fingerprint", fingerprint) == fingerprint


def refuse_another(config: TrainConfig, fingerprints: Mapping[str, str]) -> None:
    """Refuses a MODEL_DIR that holds another run, or is in a bucket that cannot be used.

    TRAIN_STEPS may change: the run then continues under the schedule of the new number. So may
    what it is scored on. Both are said.

    Raises:
        UserError: naming the first field that differs.
    """
    buckets.reach(config.model_dir, "MODEL_DIR")
    path = place(config.model_dir) / layout.RUN
    if not path.exists():
        if any(path.parent.glob("checkpoint*")):
            raise UserError(
                f"{config.model_dir}: holds checkpoints of something else; choose another MODEL_DIR"
            )
        return
    # Read as a configuration: what an earlier version did not know has its default.
    before = dict(_flat(_identity(load(config.model_dir), fingerprints_of(config.model_dir))))
    now = dict(_flat(_identity(config, fingerprints)))
    for name in sorted(now.keys() | before.keys()):
        if name.partition(".")[0] in FREE_FIELDS or before.get(name) == now.get(name):
            continue
        if name in _SCORED:
            _say_scored_changed(config.model_dir, name, before.get(name))
            continue
        if name == "train_steps":
            say(
                f"TRAIN_STEPS was {before[name]}, now {now[name]}: the learning rate follows the "
                "schedule of the new number from here on"
            )
            continue
        raise UserError(
            f"{config.model_dir}: holds another run: {_difference(name, before, now)}; choose "
            "another MODEL_DIR or the settings it had"
        )


def _say_scored_changed(model_dir: str, name: str, before: str | None) -> None:
    if before is None:  # an earlier version did not note it
        return
    changed, of = _SCORED[name]
    say(
        f"warning: {model_dir}: {changed} changed since the last start; scores in "
        f"{layout.METRICS} and {layout.RESULTS} from before are of {of}"
    )


def _flat(fields: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted name, value) of every setting."""
    for name, value in fields.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _difference(name: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    changed = {
        f"{_FINGERPRINTS}.data_fingerprint": "the training data changed",
        f"{_FINGERPRINTS}.vocabulary_fingerprint": "the vocabulary changed",
    }
    return changed.get(name, f"{name} was {before.get(name)!r}, now {now.get(name)!r}")


@contextlib.contextmanager
def claimed(
    config: TrainConfig, fingerprints: Mapping[str, str], operative_config: str
) -> Iterator[None]:
    """Inside, MODEL_DIR is this run's; process 0 writes run.json and config.gin there first.

    Raises:
        UserError: the folder cannot be made, another run works in it, or another process does
            not see it.
    """
    with contextlib.ExitStack() as stack:
        with multihost.all_or_none("MODEL_DIR"):
            if console.is_primary():
                _make(place(config.model_dir))
                stack.enter_context(locked(place(config.model_dir), "MODEL_DIR"))
                _write(config, fingerprints, operative_config)
        with multihost.all_or_none("MODEL_DIR"):
            _wait_until_seen(place(config.model_dir) / layout.RUN, _SHARED_SECONDS)
        yield


def _wait_until_seen(path: Path, seconds: float) -> None:
    """Waits for a file that process 0 wrote in a shared folder.

    Network file systems remember for a while that a file was missing.

    Raises:
        UserError: it is still missing after `seconds`.
    """
    deadline = time.monotonic() + seconds
    while not path.is_file():
        if time.monotonic() > deadline:
            raise UserError(
                f"MODEL_DIR {path.parent}: this process does not see what process 0 wrote there "
                f"{seconds:g} s ago; choose a folder that all processes share"
            )
        time.sleep(_RETRY_SECONDS)
        with contextlib.suppress(OSError):
            os.listdir(path.parent)  # has some file systems look again


def _make(model_dir: Path) -> None:
    try:
        buckets.make_folder(model_dir)
    except OSError as error:
        raise UserError(
            f"MODEL_DIR {model_dir}: cannot be made ({error.strerror}); choose another folder"
        ) from None


def _write(config: TrainConfig, fingerprints: Mapping[str, str], operative_config: str) -> None:
    model_dir = place(config.model_dir)
    identity = _identity(config, fingerprints)
    write_lines(model_dir / layout.RUN, [json.dumps(identity, indent=2) + "\n"])
    if operative_config:
        write_lines(model_dir / layout.CONFIG_GIN, [operative_config])


def check_same(config: TrainConfig, fingerprints: Mapping[str, str]) -> None:
    """Refuses processes of one run that were started with different settings.

    Raises:
        UserError: on every process, naming the first field that differs.
    """
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
