"""Flags that several verbs share, and the two kinds of paths a flag can take."""

import os
from collections.abc import Callable
from typing import Any

from absl import flags

from sbs_jax.errors import UserError
from sbs_jax.utils import paths

SPLITS = ["train", "validation", "test"]
VOCABULARIES = "t5, mt5, bytes, demo or the path of a SentencePiece .model file"


class _PathParser(flags.ArgumentParser):
    """Expands ``~`` and ``$NAME``; one subclass of error, so that absl names the flag."""

    syntactic_help = "a path"

    def __init__(self, expand: Callable[[str], str]) -> None:
        super().__init__()
        self._expand = expand

    def parse(self, argument: str) -> str:
        try:
            return self._expand(argument)
        except UserError as error:
            raise ValueError(str(error)) from None


class _PathListParser(flags.ListParser):
    """Comma-separated paths."""

    def parse(self, argument: str | list[str]) -> list[str]:
        return [_LOCAL.parse(path) for path in super().parse(argument)]


_LOCAL = _PathParser(paths.local)
_ANYWHERE = _PathParser(paths.expand)


def path(values: flags.FlagValues, name: str, default: str | None, text: str, **more: Any) -> None:
    """A file or folder on this machine; refuses a bucket's address."""
    flags.DEFINE(_LOCAL, name, default, text, flag_values=values, **more)


def place(values: flags.FlagValues, name: str, default: str | None, text: str, **more: Any) -> None:
    """A local path, or an address that the verb reads itself."""
    flags.DEFINE(_ANYWHERE, name, default, text, flag_values=values, **more)


def paths_flag(
    values: flags.FlagValues, name: str, default: list[str] | None, text: str, **more: Any
) -> None:
    """A local path that may be given several times."""
    _several(_LOCAL, values, name, default, text, **more)


def places_flag(
    values: flags.FlagValues, name: str, default: list[str] | None, text: str, **more: Any
) -> None:
    """As `place`, several times."""
    _several(_ANYWHERE, values, name, default, text, **more)


def _several(
    kind: _PathParser,
    values: flags.FlagValues,
    name: str,
    default: list[str] | None,
    text: str,
    **more: Any,
) -> None:
    flags.DEFINE_multi(
        kind, flags.ArgumentSerializer(), name, default, text, flag_values=values, **more
    )


def gin(values: flags.FlagValues) -> None:
    """--gin_file, --gin_bindings and --gin_search_paths, T5X's names."""
    text = "A gin file to read; may be given several times, later ones win."
    paths_flag(values, "gin_file", None, text)
    flags.DEFINE_multi_string(
        "gin_bindings",
        [],
        "'NAME = VALUE', as --gin.NAME=VALUE; may be given several times.",
        flag_values=values,
    )
    flags.DEFINE(
        _PathListParser(),
        "gin_search_paths",
        [],
        "Folders to look for gin files in, before the packaged ones.",
        flag_values=values,
        serializer=flags.CsvListSerializer(","),
    )


def data_dir(values: flags.FlagValues, text: str = "") -> None:
    """--data_dir: to read, also from gs://; with another help text, on this machine only."""
    default = "default: $SBS_DATA_DIR, else data/ in the cache folder."
    if text:
        path(values, "data_dir", None, f"{text}; {default}")
    else:
        place(values, "data_dir", None, f"The folder `sbs data` wrote, local or gs://; {default}")


def cache_dir(values: flags.FlagValues) -> None:
    """--cache_dir."""
    path(
        values,
        "cache_dir",
        None,
        "Folder of downloads and prepared tokens; default: $SBS_CACHE_DIR, "
        "$XDG_CACHE_HOME/sbs_jax, ~/.cache/sbs_jax, or a temporary folder.",
    )


def module_import(values: flags.FlagValues) -> None:
    """--module_import, SeqIO's name; `gin_loader.import_named` imports them."""
    text = "A Python module that registers datasets; may be given several times."
    flags.DEFINE_multi_string("module_import", [], text, flag_values=values)


def split(values: flags.FlagValues, default: str, text: str) -> None:
    """--split."""
    flags.DEFINE_enum("split", default, SPLITS, text, flag_values=values)


def checkpoint(values: flags.FlagValues) -> None:
    """--model_dir and --step: a trained student."""
    text = "The MODEL_DIR of sbs train, or of t5x.train with our gin files."
    place(values, "model_dir", None, text, required=True)
    text = "Checkpoint to use; default: the best on validation, of t5x.train the newest."
    flags.DEFINE_integer("step", None, text, flag_values=values)


def output_rationale(values: flags.FlagValues) -> None:
    """--output_rationale."""
    text = "Decode the student's rationales too."
    flags.DEFINE_boolean("output_rationale", False, text, flag_values=values)


def vocabulary(values: flags.FlagValues, text: str) -> None:
    """--vocabulary; `text` says when it is needed."""
    place(values, "vocabulary", None, f"{VOCABULARIES}: {text}")


def use_folders(values: flags.FlagValues) -> None:
    """Makes --cache_dir, --data_dir and --tfds_data_dir the folders of this process.

    --tfds_data_dir is where TFDS reads, and the default of --data_dir.
    """
    cache, data, tfds = (
        values[name].value if name in values else None
        for name in ("cache_dir", "data_dir", "tfds_data_dir")
    )
    if cache:
        paths.set_cache_dir(cache)
    if folder := data or tfds:
        paths.set_data_dir(folder)
    if tfds:  # TFDS reads it when a dataset's module imports TFDS
        os.environ["TFDS_DATA_DIR"] = tfds if paths.is_remote(tfds) else os.path.abspath(tfds)
