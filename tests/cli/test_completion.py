"""`sbs completion`: what bash offers after a part of a command."""

import subprocess

import pytest

from sbs_jax.cli import completion, main
from sbs_jax.cli.main import VERBS


@pytest.fixture(scope="module")
def script() -> str:
    return completion.script()


def _offered(script: str, *words: str) -> set[str]:
    """What bash completes the last word to: `=` is a word of its own there."""
    typed = " ".join(f"'{word}'" for word in ("sbs", *words))
    code = f"{script}\nCOMP_WORDS=({typed}) COMP_CWORD={len(words)}\n_sbs sbs '{words[-1]}'\n"
    code += 'printf "%s\\n" "${COMPREPLY[@]}"'
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["tr"], {"train"}),
        ([""], set(VERBS)),
        (["train", "--gin_f"], {"--gin_file="}),
        (["train", "--dry"], {"--dry_run"}),
        (["train", "--nodry"], {"--nodry_run"}),
        (["train", "--metric="], {"--metric=text", "--metric=equation"}),
        (["predict", "--gin_f"], set()),
    ],
)
def test_words_are_completed(script: str, words: list[str], offered: set[str]) -> None:
    assert _offered(script, *words) == offered


def test_paths_are_completed(script: str, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    assert _offered(script, "export", "ru") == {"runs"}


def test_zsh_loads_the_compatible_functions(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "zsh"]) == 0
    assert capsys.readouterr().out.startswith("autoload -U +X bashcompinit")
    assert main(["completion", "fish"]) == 2
    assert "fish: give bash or zsh" in capsys.readouterr().err
