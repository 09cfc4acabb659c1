"""A run's configuration as gin text that `gin_launch.load` reads again.

`sbs train` has its operative configuration from gin; this is for runs that Python code started.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from sbs_jax.configs import TrainConfig


def text_of(
    config: TrainConfig,
    imports: Sequence[str] = ("import sbs_jax.tasks",),
    instead: Mapping[str, str] | None = None,
    bindings: Sequence[str] = (),
) -> str:
    """Gin text whose `configs.TrainConfig` is the given one; MODEL_DIR is a macro of it.

    Args:
        imports: lines that make known what `instead` and `bindings` name, and the run's dataset.
        instead: what is written for fields of the configuration in place of their values.
        bindings: lines at the end.
    """
    written = {"model_dir": "%MODEL_DIR", **(instead or {})}
    blocks = []
    fields = []
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            written.setdefault(field.name, f"@configs.{type(value).__name__}()")
            blocks.append(_block(type(value).__name__, _values(value)))
        fields.append((field.name, written.get(field.name, repr(value))))
    return "\n".join(
        [
            "from __gin__ import dynamic_registration",
            "from sbs_jax import configs",
            *imports,
            "",
            f"MODEL_DIR = {config.model_dir!r}",
            "",
            _block("TrainConfig", fields),
            *blocks,
            *bindings,
            "",
        ]
    )


def _values(config: Any) -> list[tuple[str, str]]:
    return [(f.name, repr(getattr(config, f.name))) for f in dataclasses.fields(config)]


def _block(name: str, fields: Sequence[tuple[str, str]]) -> str:
    lines = [f"  {field} = {value}" for field, value in fields]
    return "\n".join([f"configs.{name}:", *lines, ""])
