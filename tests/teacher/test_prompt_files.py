"""Prompts as JSON or YAML, exemplars in CSV, and what --check_prompt prints."""

import dataclasses
import json

import pytest
from helpers import annotate_cli

from sbs_jax.cli import main
from sbs_jax.errors import UserError
from sbs_jax.teacher import prompts

YAML = """# A prompt with a comment.
like: demo
exemplars:
  - input: can a dax swim ?
    rationale: A dax has fins.  # it has
    label: "yes"
  - {input: "can a wug fly ?", rationale: "A wug: no wings.", label: "no"}
"""
CSV = 'input,rationale,label\ncan a dax swim ?,"A dax, of the sea, has fins.",yes\n'


@pytest.mark.parametrize("suffix", ["yaml", "yml"])
def test_yaml(tmp_path, suffix):
    path = tmp_path / f"mine.{suffix}"
    path.write_text(YAML)
    prompt = prompts.load(str(path))
    assert [e.label for e in prompt.exemplars] == ["yes", "no"]
    assert prompt.exemplars[1].rationale == "A wug: no wings." and prompt.name == "mine"


@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"])
def test_exemplars_from_csv(tmp_path, start):
    (tmp_path / "shots.csv").write_bytes(start + CSV.encode())
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"like": "demo", "exemplars": "shots.csv"}))
    (exemplar,) = prompts.load(str(path)).exemplars
    assert dataclasses.astuple(exemplar) == (
        "can a dax swim ?",
        "A dax, of the sea, has fins.",
        "yes",
    )


MISTAKES = [
    ("a.yaml", "a: [", "not a readable YAML file"),
    ("a.yaml", "- a\n- b\n", "expected one object"),
    ("a.yaml", "1: a\n", "expected one object"),
    ("a.yaml", "like: demo\nexemplars: none.csv\n", "none.csv: not a readable CSV"),
    ("a.yaml", "like: demo\nexemplars: bad.csv\n", "column 'rationale' is missing"),
    ("a.yaml", "like: demo\nexemplars:\n  - {input: q, rationale: r, label: yes}\n", "exemplar 1"),
    ("a.json", "[1]", "expected one object"),
]


@pytest.mark.parametrize(("name", "text", "message"), MISTAKES)
def test_mistakes_are_named(tmp_path, name, text, message):
    (tmp_path / "bad.csv").write_text("input,label\nq,yes\n")
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message):
        prompts.load(str(tmp_path / name))


@pytest.mark.parametrize("name", prompts.names())
def test_check_prompt(name, capsys):
    flags = [f"--task={name}", "--check_prompt", "--price_in=1", "--price_out=1"]
    assert main(["annotate", *flags]) == 0
    said = capsys.readouterr().out
    count = len(prompts.load(name).exemplars)
    assert said.count("reads back as exact") == count
    assert "labels: " in said and "for 1,000 questions" in said


def test_check_prompt_names_labels_never_shown(tmp_path, capsys):
    fields = {
        "like": "esnli",
        "exemplars": [{"input": "p</s>h", "rationale": "R.", "label": "neutral"}],
    }
    (tmp_path / "mine.json").write_text(json.dumps(fields))
    assert main(["annotate", f"--task={tmp_path / 'mine.json'}", "--check_prompt"]) == 0
    assert "never shown: " in capsys.readouterr().out


@pytest.mark.parametrize("flag", ["--check_prompt", "--dry_run", "--model=m"])
def test_exemplars_are_read_as_answers_are(flag, tmp_path, capsys):
    """The exact parser reads it back; of such an answer only the first line would be left."""
    fields = {
        "like": "demo",
        "stop": ["\n"],
        "exemplars": [{"input": "q ?", "rationale": "R.\nS.", "label": "yes"}],
    }
    path, source = tmp_path / "mine.json", annotate_cli.write_questions(tmp_path / "train.jsonl")
    path.write_text(json.dumps(fields))
    flags = [f"--task={path}", f"--input={source}", f"--out={tmp_path / 'out'}", "--model=m", flag]
    assert main(["annotate", *flags]) == 2
    message = capsys.readouterr().err
    assert "prompt mine: exemplar 1 does not read back: the tolerant parser finds" in message
    assert not (tmp_path / "out").exists()
    assert main(["annotate", *flags, "--parser=exact", "--dry_run"]) == 0


def test_out_is_still_required(capsys):
    assert main(["annotate", "--task=demo", "--model=m"]) == 2
    assert "--out is required" in capsys.readouterr().err
