"""Writes docs/cli.md and docs/gin.md from the code (`--write`); without it prints them.

tests/house/test_reference.py compares the pages with the code.
"""

import dataclasses
import inspect
import pathlib
import re
import sys
from collections.abc import Iterator

from absl import flags

from sbs_jax.cli.main import VERBS, module_of
from sbs_jax.configs import OptimizerConfig, PartitionerConfig, T5Config, TrainConfig

DOCS = pathlib.Path(__file__).resolve().parent
RUN_FILE = DOCS.parent / "gin" / "engines" / "sbs" / "sbs_runs" / "finetune.gin"
CONFIGS = (TrainConfig, OptimizerConfig, PartitionerConfig, T5Config)
_NOTE = "Written by `python docs/generate_reference.py --write`."


def cli() -> str:
    """Every verb with its examples and flags."""
    parts = [f"# Commands\n\n{_NOTE} `sbs VERB --help` shows the same.\n"]
    for verb in VERBS:
        parts.append("\n".join(_verb(verb, module_of(verb))))
    return "\n".join(parts)


def _verb(verb: str, module: object) -> Iterator[str]:
    summary, _, body = inspect.cleandoc(module.__doc__ or "").partition("\n")
    usage = f"sbs {verb} [flags] {getattr(module, 'ARGUMENTS', '')}".strip()
    yield f"## {verb}\n\n{summary}\n\n    {usage}\n"
    yield "```text\n" + body.strip() + "\n```\n"
    yield "| flag | default | |\n|---|---|---|"
    known: flags.FlagValues = module.FLAGS  # type: ignore[attr-defined]
    for name in sorted(known):
        flag = known[name]
        if name == flag.name and not name.startswith("?"):
            yield f"| `--{name}` | {_cell(flag.default)} | {_escaped(flag.help)} |"
    yield ""


def _cell(value: object) -> str:
    shown = "" if value in (None, []) else str(value)
    return f"`{_escaped(shown)}`" if shown else ""


def _escaped(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def gin() -> str:
    """Every macro of a run and every field that gin can bind."""
    parts = [
        f"# Settings\n\n{_NOTE} A macro is set with `--gin.NAME=VALUE` or in a gin file; a field "
        "with its class, `--gin.TrainConfig.log_period=10`.\n",
        "## Macros\n\n| macro | default | |\n|---|---|---|",
        *_macros(),
        "",
    ]
    for config in CONFIGS:
        parts += [
            f"## {config.__name__}\n\n| field | default | |\n|---|---|---|",
            *_fields(config),
            "",
        ]
    return "\n".join(parts)


def _macros() -> Iterator[str]:
    lines = RUN_FILE.read_text(encoding="utf-8").splitlines()
    for line in lines:
        if found := re.match(r"([A-Z][A-Z0-9_]*) = ([^#]+?)\s*(?:#\s*(.*))?$", line):
            name, value, comment = found.groups()
            default = "required" if value == "%gin.REQUIRED" else f"`{_escaped(value)}`"
            yield f"| `{name}` | {default} | {_escaped(comment or '')} |"


def _fields(config: type) -> Iterator[str]:
    described = _described(inspect.cleandoc(config.__doc__ or ""))
    for field in dataclasses.fields(config):
        default = "required" if field.default is dataclasses.MISSING else f"`{field.default!r}`"
        if dataclasses.is_dataclass(field.default):
            default = f"`{type(field.default).__name__}()`"
        text = _escaped(described.get(field.name, ""))
        yield f"| `{field.name}` | {_escaped(default)} | {text} |"


def _described(docstring: str) -> dict[str, str]:
    """Field -> text of a docstring's section Attributes."""
    _, _, section = docstring.partition("Attributes:\n")
    texts: dict[str, str] = {}
    for entry in re.findall(r"^ {4}(\S.*(?:\n {5,}.*)*)", section, re.MULTILINE):
        names, _, text = entry.partition(": ")
        texts |= dict.fromkeys(names.split(", "), text)
    return texts


def pages() -> dict[str, str]:
    """File name -> content."""
    return {"cli.md": cli(), "gin.md": gin()}


def main() -> None:
    for name, content in pages().items():
        if "--write" in sys.argv:
            (DOCS / name).write_text(content, encoding="utf-8")
        else:
            print(content)


if __name__ == "__main__":
    main()
