"""``sbs VERB``: finds the verb's module, parses its flags, and ends every mistake with one line.

A verb is one module of ``sbs_jax.cli`` that holds

* a docstring: the summary line, then examples; ``--help`` prints it above the flags;
* ``FLAGS = flags.FlagValues()``, its own flags (``flag_values=FLAGS`` in each definition), so that
  no two modules can collide and nothing depends on absl's global flags;
* ``ARGUMENTS``, optional: its positional arguments, e.g. ``"SRC DST"``, ``"[NAME]"``, ``"X..."``;
  SRC, DST and FOLDER are paths, in which ``~`` and ``$NAME`` are replaced;
* ``RAW_ARGUMENTS = True``, optional: all arguments are passed on as they are, flags included;
* ``FLAGS_OF_T5X``, optional: flags it has not, and what to do instead;
* ``main(argv) -> int | None``: gets the positional arguments; None means success.

Only the module of the verb is imported, and such a module imports frameworks inside functions, so
``--help`` answers at once. Exit status: 0 success, 2 a mistake of the user (UserError or a wrong
flag), 130 interrupted; a traceback is a bug of ours.
"""

import importlib
import importlib.util
import os
import re
import select
import sys
from types import ModuleType

from absl import flags

from sbs_jax import __version__
from sbs_jax.cli.flags import use_folders
from sbs_jax.errors import UserError, nearest, os_line
from sbs_jax.utils import buckets, interrupts, paths

_VERBS = {
    "demo": "the whole pipeline, offline, on the embedded dataset",
    "tasks": "list tasks and mixtures; show examples of one",
    "init": "a small project from your own data: records, tasks module, gin file",
    "vocabulary": "train a SentencePiece vocabulary on your own text",
    "data": "prepare the released archive; print sizes and the teacher's accuracy",
    "annotate": "stage 1: ask a teacher for a rationale and a label of every input",
    "review": "a page to accept, edit or drop the teacher's answers",
    "train": "stage 2: train a student from a gin file",
    "evaluate": "score a checkpoint against gold labels and the teacher",
    "predict": "label (and explain) new inputs",
    "cascade": "student, then teacher: accuracy and cost by the student's confidence",
    "serve": "answer questions over HTTP with a trained student",
    "convert": "checkpoints between Hugging Face, T5X and our format",
    "export": "a deployable student with its tokenizer",
    "from_original": "the command here that equals one of the original run.py",
    "devices": "join the processes of a launch and count its devices",
    "completion": "verbs and flags for the completion of bash and zsh",
    "t5x_path": "gin search path for upstream T5X",
    "study": "grids of runs: methods, data fractions, seeds",
    "report": "tables, figures and one HTML page from finished runs",
}
_HELP_FLAGS = ("-h", "-help", "--help", "--helpfull")
_MISSING = re.compile(r"Flag (--\w+) must have a value")
# SRC may be an address that the verb reads itself.
_PATH_ARGUMENTS = {"SRC": paths.expand, "DST": paths.local, "FOLDER": paths.local}
_USAGE_ERROR, _INTERRUPTED, _BROKEN_PIPE = 2, 130, 141


def _module(verb: str) -> str:
    return f"sbs_jax.cli.{verb}"


# verb -> (module, one-line help), for the verbs this installation has.
VERBS = {
    verb: (_module(verb), summary)
    for verb, summary in _VERBS.items()
    if importlib.util.find_spec(_module(verb))
}


def module_of(verb: str) -> ModuleType:
    """The module of a verb, imported now."""
    return importlib.import_module(VERBS[verb][0])


def main(argv: list[str] | None = None) -> int:
    """Runs ``sbs`` with ``argv`` (default: the command line) and returns the exit status."""
    args = sys.argv[1:] if argv is None else argv
    try:
        with interrupts.raised_again():
            status = _run(args)
        sys.stdout.flush()
        return status
    except UserError as error:
        print(f"sbs: error: {error}", file=sys.stderr)
        return _USAGE_ERROR
    except KeyboardInterrupt:
        return _interrupted()
    except OSError as error:
        if isinstance(error, BrokenPipeError) and _reader_has_gone():
            # Python must not complain when it flushes stdout at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return _BROKEN_PIPE
        print(f"sbs: error: {os_line(error)}", file=sys.stderr)
        return _USAGE_ERROR
    except Exception as error:
        if interrupts.is_cause(error):
            return _interrupted()
        if not buckets.is_client_error(error):
            raise
        print(f"sbs: error: bucket: {buckets.reason(error)}", file=sys.stderr)
        return _USAGE_ERROR


def _reader_has_gone() -> bool:
    """Whether nobody reads stdout any more, as after `| head`."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)  # what is wrong with it is always told
    return bool(poll.poll(0))


def _interrupted() -> int:
    print("sbs: interrupted", file=sys.stderr)
    return _INTERRUPTED


def _run(args: list[str]) -> int:
    if not args or args[0] in (*_HELP_FLAGS, "help"):
        print(_overview())
        return 0
    if args[0] == "--version":
        print(f"sbs_jax {__version__}")
        return 0
    verb, *rest = args
    if verb not in VERBS:
        raise UserError(f"{verb}: no such verb{nearest(verb, VERBS)} (sbs --help lists them)")
    buckets.prefer_gcsfs()
    module = module_of(verb)
    if any(arg in _HELP_FLAGS for arg in rest):
        print(_help(verb, module))
        return 0
    if getattr(module, "RAW_ARGUMENTS", False):
        _check_count(verb, _arguments(module), rest)
        return module.main(rest) or 0
    arguments = _parse(verb, module, rest)
    # Libraries that read absl's global flags get the defaults instead of an error.
    flags.FLAGS.mark_as_parsed()
    use_folders(module.FLAGS)
    return module.main(arguments) or 0


def _overview() -> str:
    verbs = "\n".join(f"  {verb:<14}{summary}" for verb, (_, summary) in VERBS.items())
    return (
        "Distilling Step-by-Step in JAX: small students trained on a teacher's rationales.\n\n"
        f"Usage: sbs VERB [flags]\n\nVerbs:\n{verbs}\n\n"
        "sbs VERB --help shows a verb's flags and examples."
    )


def _help(verb: str, module: ModuleType) -> str:
    summary, _, examples = (module.__doc__ or "").strip().partition("\n")
    # The verb's own flags, then those of cli/flags.py; the name of the module heads each part.
    owners = sorted(module.FLAGS.flags_by_module_dict(), key=lambda name: name != module.__name__)
    parts = (module.FLAGS.module_help(owner).strip().partition("\n")[2] for owner in owners)
    described = "\n".join(part.strip("\n") for part in parts)
    usage = f"Usage: sbs {verb} [flags] {_arguments(module)}".rstrip()
    return f"{summary}\n\n{usage}\n\n{examples.strip()}\n\nFlags:\n{described}"


def _arguments(module: ModuleType) -> str:
    return getattr(module, "ARGUMENTS", "")


def _parse(verb: str, module: ModuleType, args: list[str]) -> list[str]:
    """Sets the module's flags from ``args`` and returns the positional arguments."""
    known = module.FLAGS
    if "gin_bindings" in known:
        from sbs_jax.configs.gin_loader import rewrite_flags

        args = rewrite_flags(args)
    known.unparse_flags()
    known.set_gnu_getopt()
    try:
        positional = known([f"sbs {verb}", *args])[1:]
    except flags.UnrecognizedFlagError as error:
        if advice := getattr(module, "FLAGS_OF_T5X", {}).get(error.flagname):
            raise UserError(f"--{error.flagname}: {advice}") from None
        hint = nearest(f"--{error.flagname}", [f"--{name}" for name in known])
        raise UserError(f"--{error.flagname}: sbs {verb} has no such flag{hint}") from None
    except flags.Error as error:
        missing = _MISSING.search(str(error))
        detail = f"{missing[1]} is required" if missing else str(error).partition("\n")[0]
        raise UserError(f"{detail} (sbs {verb} --help)") from None
    _check_count(verb, _arguments(module), positional)
    return _expanded(_arguments(module).split(), positional)


def _expanded(names: list[str], values: list[str]) -> list[str]:
    """Positional arguments with ``~`` and ``$NAME`` replaced in those that are paths."""
    kinds = [_PATH_ARGUMENTS.get(name.strip("[].")) for name in names]
    kinds += kinds[-1:] * (len(values) - len(kinds))  # NAME... takes the rest
    return [kind(value) if kind else value for kind, value in zip(kinds, values, strict=False)]


def _check_count(verb: str, arguments: str, values: list[str]) -> None:
    expected = arguments.split()
    least = sum(not name.startswith("[") for name in expected)
    most = float("inf") if arguments.endswith(("...", "...]")) else len(expected)
    if len(values) < least:
        raise UserError(f"sbs {verb} needs {arguments} (sbs {verb} --help)")
    if len(values) > most:
        raise UserError(f"{values[int(most)]!r}: unexpected argument (sbs {verb} --help)")
