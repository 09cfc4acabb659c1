"""Print a shell script that completes verbs and flags.

Put one of these lines into ~/.bashrc or ~/.zshrc:

  eval "$(sbs completion bash)"
  eval "$(sbs completion zsh)"
"""

import shlex
from collections.abc import Iterator

from absl import flags

from sbs_jax.errors import UserError

FLAGS = flags.FlagValues()
ARGUMENTS = "SHELL"

_SHELLS = ("bash", "zsh")

# $2 is the word to complete; whatever begins with no dash is completed as a path.
_SCRIPT = """\
_sbs() {
  local words
  if [[ $COMP_CWORD == 1 ]]; then
    COMPREPLY=($(compgen -W %(verbs)s -- "$2"))
    return
  fi
  case ${COMP_WORDS[1]} in
%(cases)s
  esac
  if [[ $2 == -* ]]; then
    COMPREPLY=($(compgen -W "$words" -- "$2"))
    if [[ ${COMPREPLY[0]-} == *= ]]; then compopt -o nospace 2>/dev/null; fi
  else
    COMPREPLY=($(compgen -f -- "$2"))
    compopt -o filenames 2>/dev/null
  fi
  return 0
}
complete -F _sbs sbs"""
_ZSH = "autoload -U +X bashcompinit && bashcompinit\n"


def main(argv: list[str]) -> None:
    """Prints the script."""
    (shell,) = argv
    if shell not in _SHELLS:
        raise UserError(f"{shell}: give {' or '.join(_SHELLS)}")
    print((_ZSH if shell == "zsh" else "") + script())


def script() -> str:
    """The completion function, for bash and for zsh's bashcompinit."""
    from sbs_jax.cli.main import VERBS, module_of

    cases = "\n".join(_cases({verb: module_of(verb).FLAGS for verb in VERBS}))
    return _SCRIPT % {"verbs": shlex.quote(" ".join(VERBS)), "cases": cases}


def _cases(flags_of: dict[str, flags.FlagValues]) -> Iterator[str]:
    for verb, known in flags_of.items():
        words = " ".join(word for name in sorted(known) for word in _words(known[name]))
        yield f"    {verb}) words={shlex.quote(words)} ;;"


def _words(flag: flags.Flag) -> list[str]:
    """``--name`` of a switch, ``--name=VALUE`` of each choice, else ``--name=``."""
    if flag.boolean:
        return [f"--{flag.name}", f"--no{flag.name}"]
    choices = getattr(flag.parser, "enum_values", None) or [""]
    return [f"--{flag.name}={choice}" for choice in choices]
