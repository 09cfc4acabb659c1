"""Prepare the released archive; print split sizes and the teacher's accuracy.

Writes DATA_DIR/DATASET/{train,validation,test}.jsonl, one record per line, in the order of the
archive's files. Where a dataset has no validation file, validation is taken from train when rows
are chosen, as the original does, so train.jsonl holds both.

Examples:
  sbs data
  sbs data --release=datasets.zip --data_dir=data
  sbs data --release=datasets/ --datasets=cqa,svamp
  sbs data --asdiv=ASDiv.xml
"""

import pathlib
import sys
from typing import TYPE_CHECKING

from absl import flags

from sbs_jax.cli import flags as shared
from sbs_jax.errors import UserError
from sbs_jax.utils import paths

if TYPE_CHECKING:
    from sbs_jax.datasets.prepare import Prepared

FLAGS = flags.FlagValues()

shared.place(
    FLAGS,
    "release",
    None,
    "The original's datasets.zip, its unpacked folder, or the URL of such a zip, which may end in "
    "#sha256=DIGEST; default: its authors' file on GitHub, unless only --asdiv is given.",
)
shared.data_dir(FLAGS, "Folder to write to")
shared.cache_dir(FLAGS)
flags.DEFINE_list(
    "datasets",
    None,
    "Which of esnli, anli1, cqa, svamp; default: all that the archive holds.",
    flag_values=FLAGS,
)
shared.path(FLAGS, "asdiv", None, "ASDiv.xml, of github.com/chaochun/nlu-asdiv-dataset.")
flags.DEFINE_enum(
    "teacher",
    "palm",
    ["palm", "gpt-neox"],
    "Source of completions: PaLM 540B as released, or your GPT-NeoX files in the original's form.",
    flag_values=FLAGS,
)


def main(argv: list[str]) -> None:
    """Writes the files, then prints one table of sizes and one of the teacher's accuracy."""
    folder = paths.data_dir(FLAGS.data_dir)
    done: list[Prepared] = []
    notes: list[str] = []
    if FLAGS.release or not FLAGS.asdiv:
        done, notes = _released(folder)
    elif FLAGS.datasets:
        raise UserError("--datasets chooses from a release; give --release too")
    if FLAGS.asdiv:
        prepared, note = _asdiv(folder)
        done.append(prepared)
        notes.append(note)
    print(f"Wrote {folder}\n")
    print(_sizes(done))
    for note in notes:
        print(note)
    print(_teacher_accuracy(done))


def _released(folder: pathlib.Path) -> tuple[list["Prepared"], list[str]]:
    """Writes the datasets; prints a line for each one that the archive lacks."""
    from sbs_jax.datasets import prepare
    from sbs_jax.datasets.release import RELEASED, URL, Release

    release = Release(FLAGS.release or URL, paths.cache_home() / "downloads")
    present = release.datasets()
    for name in FLAGS.datasets or ():
        if name not in RELEASED:
            raise UserError(f"--datasets: no dataset {name!r}; choose from {', '.join(RELEASED)}")
        if name not in present:
            raise UserError(f"--datasets: {name} is not in the archive ({', '.join(present)} are)")
    done: list[Prepared] = []
    notes: list[str] = []
    for name in RELEASED:
        if name not in present:
            notes.append(f"{name}: not in this archive")
        elif not FLAGS.datasets or name in FLAGS.datasets:
            print(f"sbs data: {name} ...", file=sys.stderr, flush=True)
            done.append(prepare.from_release(release, name, folder, FLAGS.teacher))
            missing = [split for split in RELEASED[name].files if split not in done[-1].files]
            notes += [f"{name}: no {split} file in this archive" for split in missing]
    return done, notes


def _asdiv(folder: pathlib.Path) -> tuple["Prepared", str]:
    from sbs_jax.datasets import asdiv, prepare

    problems = asdiv.read(FLAGS.asdiv)
    left_out = len(problems) - len(asdiv.scorable(problems))
    note = f"asdiv: {left_out} of {len(problems)} problems left out: their answer is no number"
    return prepare.from_asdiv(FLAGS.asdiv, folder), note


def _sizes(done: list) -> str:
    lines = ["dataset   train/validation/test"]
    for prepared in done:
        sizes = prepared.split_sizes()
        counts = "/".join(str(sizes.get(split, "-")) for split in ("train", "validation", "test"))
        fraction = prepared.carve_validation
        how = f"  validation: {fraction:.0%} of train, seed 0" if fraction else ""
        lines.append(f"{prepared.dataset:<8}  {counts:<21}{how}".rstrip())
    return "\n".join(lines)


def _teacher_accuracy(done: list) -> str:
    """One line per file; `train` is the whole file, from which validation is taken."""
    rows = [
        f"{prepared.dataset:<8}  {split + '.jsonl':<16}  {file.teacher!s:<39}  {file.unparsed}"
        for prepared in done
        for split, file in prepared.files.items()
        if file.teacher
    ]
    if not rows:
        return "\nNo teacher outputs: stage 1 (sbs annotate) makes them."
    teacher = {"palm": "PaLM 540B, few-shot chain of thought", "gpt-neox": "GPT-NeoX 20B"}
    head = f"{'dataset':<8}  {'file':<16}  {'accuracy [95% interval] (correct/n)':<39}  unparsed"
    return "\n".join([f"\nTeacher ({teacher[FLAGS.teacher]}) against the gold labels", head, *rows])
