"""Refuses settings that T5X would record and ignore, naming the one that has an effect.

Everything is made from one TrainConfig, so bindings of T5X's own trainer, partitioner, schedule,
model and network would end up in config.gin and change nothing.
"""

import functools
import os
from pathlib import Path

import t5x
from absl import flags

from sbs_jax.configs import TrainConfig, gin_scanner, t5x_names
from sbs_jax.configs.gin_scanner import REQUIRED, Scan
from sbs_jax.errors import UserError, nearest
from sbs_jax.utils import paths
from sbs_jax.utils.console import say

# T5X's classes and functions that ours replace.
_REPLACED = (
    *("Trainer", "PjitPartitioner", "create_learning_rate_scheduler", "EncoderDecoderModel"),
    *("Adafactor", "AdamWConfig", "T5Config"),
)
_OUR_MODULES = ("sbs_jax", "configs", "t5x_training", "t5x_model", "t5x_data")


@functools.cache
def check_command_line() -> None:
    """Reads and checks the gin files and bindings of this process's command line.

    Raises:
        UserError: FILE:LINE or flag of a macro that nothing uses, or of a binding without effect.
    """
    if not flags.FLAGS.is_parsed() or "gin_file" not in flags.FLAGS:
        return
    files, bindings, folders = (
        flags.FLAGS[name].value or [] for name in ("gin_file", "gin_bindings", "gin_search_paths")
    )
    check(gin_scanner.scan(files, bindings, [*folders, paths.gin_dir()]))


def check(scan: Scan) -> None:
    """`check_command_line`, for what was read."""
    for name, macro in scan.macros.items():
        if name not in scan.uses and not _is_packaged(scan.in_files.get(name, set())):
            known = scan.uses.keys() - {REQUIRED}
            raise UserError(f"{macro.place}: nothing uses the macro {name}{nearest(name, known)}")
    for name, binding in scan.bindings.items():
        scoped, _, parameter = name.rpartition(".")
        scope, _, selector = scoped.rpartition("/")
        module, _, last = selector.rpartition(".")
        ours = module.rpartition(".")[2] in _OUR_MODULES
        if last not in _REPLACED or ours or _is_packaged({binding.place.file}):
            continue
        counterpart, problem = t5x_names.advice(scope, selector, parameter, repr(binding.value))
        if counterpart or problem:
            instead = f"set {counterpart} instead" if counterpart else problem
            raise UserError(f"{binding.place}: {name} has no effect in this wiring; {instead}")


def notice(config: TrainConfig) -> None:
    """Prints what a T5X user may expect to differ."""
    if line := t5x_names.steps_notice(config.train_steps, config.initial_checkpoint_path):
        say(line)


def _is_packaged(files: set[str]) -> bool:
    """Whether one of these files belongs to this package or to T5X."""
    folders = (os.fspath(paths.gin_dir()), os.fspath(Path(t5x.__file__).parent))
    return any(file.startswith(tuple(folder + os.sep for folder in folders)) for file in files)
