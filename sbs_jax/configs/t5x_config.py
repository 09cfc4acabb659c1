"""Reads the config.gin of a run of upstream T5X: our settings in it, and what its dataset needs.

T5X writes down all that gin has bound, its launcher's settings included, which gin can read again
in that launcher alone. `read` takes the values without gin and imports nothing; `without_t5x` is
what gin can read here.
"""

import re
from typing import Any

from sbs_jax.configs import gin_scanner
from sbs_jax.configs.gin_scanner import Macro, MacroUse, Place, Reference, Scan
from sbs_jax.configs.model import T5Config
from sbs_jax.configs.training import OptimizerConfig, PartitionerConfig, TrainConfig
from sbs_jax.errors import UserError

_MODULE = "configs"
_CLASSES = {
    kind.__name__: kind for kind in (TrainConfig, T5Config, OptimizerConfig, PartitionerConfig)
}
# (scope, function or class, parameter) -> what our gin files for T5X bind to it. With anything else
# bound, TrainConfig does not describe what was trained.
_WIRING = {
    ("", "train", "model"): "t5x_model.Student",
    ("train", "DatasetConfig", "mixture_or_task_name"): "t5x_data.mixture",
    ("train", "DatasetConfig", "task_feature_lengths"): "t5x_data.train_lengths",
}
_INSTEAD = (
    "make it a run of sbs train with INITIAL_CHECKPOINT_PATH, as docs/t5x.md says under Checkpoints"
)

_IMPORT = re.compile(r"^(?:from ([\w.]+) )?import ([\w.]+)(?: as (\w+))?\s*$")
_OF_T5X = re.compile(r"(?:__main__|t5x|seqio)\b|sbs_jax\.integrations\.t5x_")


def read(path: str) -> TrainConfig:
    """The settings of the run, as T5X had them.

    Raises:
        UserError: the file and line of what is no setting of ours, or that the run was not made by
            our gin files.
    """
    scan = gin_scanner.scan([path], [], [])
    where = gin_scanner.shown(path)
    if not any(_is_of(name, TrainConfig.__name__) for name in scan.bindings):
        raise UserError(
            f"{where}: binds no configs.TrainConfig: this run of T5X was not made by the gin files "
            f"of sbs, so nothing says how its student is asked; {_INSTEAD}"
        )
    _check_wiring(scan, where)
    return _Reader(scan, where).build(TrainConfig.__name__, ())


def _check_wiring(scan: Scan, where: str) -> None:
    """Refuses a run whose model or training data were made by something else than TrainConfig."""
    bound = {_parts(name): macro for name, macro in scan.bindings.items()}
    for (scope, name, parameter), ours in _WIRING.items():
        setting = "/".join(filter(None, (scope, f"{name}.{parameter}")))
        macro = bound.get((scope, name, parameter))
        if macro is None:
            raise UserError(
                f"{where}: binds no {setting}, as a run of t5x.train does; give its MODEL_DIR"
            )
        made_by = macro.value.name if isinstance(macro.value, Reference) else ""
        if not f".{made_by}".endswith(f".{ours}"):
            raise UserError(
                f"{macro.place}: {setting} = {macro.value!r}, where the gin files of sbs have "
                f"@{ours}(), so nothing says what was trained; {_INSTEAD}"
            )


def _parts(name: str) -> tuple[str, str, str]:
    """(scope, function or class without its module, parameter) of a binding's name."""
    scoped, _, parameter = name.rpartition(".")
    scope, _, selector = scoped.rpartition("/")
    return scope, selector.rpartition(".")[2], parameter


def _is_of(name: str, kind: str) -> bool:
    """Whether a binding sets a field of ``configs.KIND``."""
    return name.split(".")[-3:-1] == [_MODULE, kind]


class _Reader:
    """Makes objects of `configs` from the bindings of a file."""

    def __init__(self, scan: Scan, where: str) -> None:
        self._scan, self._where = scan, where

    def build(self, kind: str, inside: tuple[str, ...]) -> Any:
        """The object that the bindings of ``configs.KIND`` describe.

        Args:
            inside: the macros and references that lead here.
        """
        bound = {n: macro for n, macro in self._scan.bindings.items() if _is_of(n, kind)}
        fields = {
            name.rpartition(".")[2]: self._value(macro.value, macro.place, inside)
            for name, macro in bound.items()
        }
        try:
            return _CLASSES[kind](**fields)
        except UserError as error:
            raise UserError(f"{self._where}: {error}") from None
        except TypeError as error:  # a field that is missing, or unknown to this version
            raise UserError(
                f"{self._where}: configs.{kind} is not of this version ({error}); {_INSTEAD}"
            ) from None

    def _value(self, value: Any, place: Place, inside: tuple[str, ...]) -> Any:
        if isinstance(value, MacroUse | Reference):
            if repr(value) in inside:
                raise UserError(f"{place}: {value!r} leads back to itself; restore the file")
            return self._followed(value, place, (*inside, repr(value)))
        if isinstance(value, dict):
            return {key: self._value(item, place, inside) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(self._value(item, place, inside) for item in value)
        return value

    def _followed(self, use: MacroUse | Reference, place: Place, inside: tuple[str, ...]) -> Any:
        if isinstance(use, MacroUse):
            macro = self._scan.macros.get(use.name)
            if macro is None:
                raise UserError(f"{place}: the macro {use!r} is set nowhere; restore the file")
            return self._value(macro.value, macro.place, inside)
        module, _, kind = use.name.rpartition(".")
        if not use.evaluated or kind not in _CLASSES or module.split(".")[-1] != _MODULE:
            raise UserError(f"{place}: {use!r} is no value and nothing of configs; {_INSTEAD}")
        return self.build(kind, inside)


def without_t5x(path: str) -> str:
    """The file as gin can read it without T5X: imports and bindings of others, and all macros.

    What is left out is an empty line, so that an error names the line of the file.
    """
    lines, _ = gin_scanner.read(path)
    scan = gin_scanner.scan([path], [], [])
    kept, names = {}, set()
    for number, line in enumerate(lines, start=1):
        if match := _IMPORT.match(line):
            package, name, alias = match.groups()
            if not _OF_T5X.match(f"{package}.{name}" if package else name):
                kept[number] = line.rstrip()
                names.add(alias or name.partition(".")[0])
    for name, macro in (scan.macros | scan.bindings).items():
        if _root(name) in names or name in scan.macros:
            kept |= _line(name, macro, names)
    return "\n".join(kept.get(number, "") for number in range(1, len(lines) + 1)) + "\n"


def _root(name: str) -> str:
    """What a scoped name begins with: the name that an import gave it."""
    return name.rpartition("/")[2].partition(".")[0]


def _line(name: str, macro: Macro, names: set[str]) -> dict[int, str]:
    """{number: text} of a statement; empty if its value comes from a module that is left out."""
    if isinstance(macro.value, Reference) and _root(macro.value.name) not in names:
        return {}
    return {macro.place.line: f"{name} = {macro.value!r}"}
