"""sbs data, from the command line's end."""

import functools
import http.server
import json
import pathlib
import re

import pytest
from helpers.fixtures_release import write_release, zip_folder
from helpers.serving import serving

from sbs_jax.cli import main
from sbs_jax.datasets import release


@pytest.fixture
def made(tmp_path: pathlib.Path) -> pathlib.Path:
    return write_release(tmp_path / "made")


@pytest.fixture(autouse=True)
def home(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """Nothing reads or writes the real home folder."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("SBS_DATA_DIR", "SBS_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "home"


def _files(folder: pathlib.Path) -> dict[str, bytes]:
    """Content by name, without the summaries, which name their source."""
    paths = sorted(folder.rglob("*.jsonl"))
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def test_prints_sizes_and_the_teachers_accuracy(made, tmp_path, capsys) -> None:
    assert main(["data", f"--release={made}", f"--data_dir={tmp_path / 'D'}"]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"^cqa +19/3/6 +validation: 10% of train, seed 0$", printed, re.M)
    assert re.search(r"^anli1 +22/4/6$", printed, re.M)
    assert re.search(r"^svamp +train\.jsonl +0\.9091 \[.*\] \(20/22\) +1$", printed, re.M)
    assert re.search(
        r"^esnli +validation\.jsonl +1\.0000 \[.*, 1\.0000\] \(4/4\) +0$", printed, re.M
    )
    assert set(_files(tmp_path / "D")) == {
        *(f"{d}/{s}.jsonl" for d in ("cqa", "svamp") for s in ("train", "test")),
        *(f"{d}/{s}.jsonl" for d in ("esnli", "anli1") for s in ("train", "validation", "test")),
    }


def test_zip_and_second_run_give_the_same(made, tmp_path, capsys) -> None:
    archive = zip_folder(made, tmp_path / "made.zip")
    outputs = []
    for source, folder in ((made, "a"), (archive, "b"), (archive, "b")):
        assert main(["data", f"--release={source}", f"--data_dir={tmp_path / folder}"]) == 0
        outputs.append(capsys.readouterr().out.replace(str(tmp_path / folder), "D"))
    assert outputs[0] == outputs[1] == outputs[2]
    assert _files(tmp_path / "a") == _files(tmp_path / "b")


def test_an_url_is_downloaded_into_the_cache(made, tmp_path, home, capsys) -> None:
    served = tmp_path / "served"
    served.mkdir()
    zip_folder(made, served / "data.zip")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=served)
    handler.func.log_message = lambda *_: None
    with serving(http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)) as server:
        url = f"http://127.0.0.1:{server.server_port}/data.zip"
        code = main(["data", f"--release={url}", "--datasets=cqa"])
    assert code == 0
    assert (home / ".cache" / "sbs_jax" / "data" / "cqa" / "train.jsonl").exists()
    assert len(list((home / ".cache" / "sbs_jax" / "downloads").glob("*.zip"))) == 1


def test_the_default_url_is_pinned() -> None:
    assert re.fullmatch(
        r"https://\S+/ef94426[0-9a-f]{33}/datasets\.zip#blob=fb9d88a0\w{32}", release.URL
    )


def test_only_the_datasets_asked_for(made, tmp_path, capsys) -> None:
    folder = tmp_path / "D"
    assert main(["data", f"--release={made}", f"--data_dir={folder}", "--datasets=svamp"]) == 0
    assert set(_files(folder)) == {"svamp/train.jsonl", "svamp/test.jsonl"}
    assert "cqa" not in capsys.readouterr().out


def test_what_is_absent_is_said(made, tmp_path, capsys) -> None:
    source = write_release(tmp_path / "one", "esnli")
    (source / "datasets" / "esnli" / "esnli_train.json").unlink()
    assert main(["data", f"--release={source}", f"--data_dir={tmp_path / 'D'}"]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"^esnli +-/4/6$", printed, re.M)
    assert "esnli: no train file in this archive\n" in printed
    assert "cqa: not in this archive\n" in printed


def test_asdiv(tmp_path, capsys) -> None:
    problem = (
        '<Problem ID="m{i}"><Body>B{i}.</Body><Question>Q?</Question><Answer>{a}</Answer></Problem>'
    )
    answers = [*map(str, range(20)), "Mrs. Zorn"]
    path = tmp_path / "ASDiv.xml"
    path.write_text(f"<F>{''.join(problem.format(i=i, a=a) for i, a in enumerate(answers))}</F>")
    assert main(["data", f"--asdiv={path}", f"--data_dir={tmp_path / 'D'}"]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"^asdiv +16/2/2 ", printed, re.M)
    assert "asdiv: 1 of 21 problems left out: their answer is no number" in printed
    assert "No teacher outputs" in printed
    first = json.loads((tmp_path / "D" / "asdiv" / "train.jsonl").read_text().splitlines()[0])
    assert set(first) == {"id", "input", "label"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--release={tmp}/none.zip"], "none.zip: cannot be read (No such file or directory)"),
        (["--release=http://example.org/x.zip"], "only https addresses are fetched"),
        (
            ["--release={made}", "--datasets=cqq"],
            "--datasets: no dataset 'cqq'; choose from esnli,",
        ),
        (["--release={one}", "--datasets=cqa"], "--datasets: cqa is not in the archive (svamp"),
        (["--asdiv={tmp}/none.xml"], "none.xml: cannot be read"),
        (["--asdiv={tmp}/none.xml", "--datasets=cqa"], "--datasets chooses from a release"),
        (["--release={made}", "--data_dir={made}/datasets/cqa/cqa_test.json"], "cannot be written"),
        (["--relaese=x"], "did you mean --release?"),
        (["--release={bad}"], "svamp_train.json:2: field 'label' is missing"),
    ],
)
def test_a_mistake_is_one_line(made, tmp_path, capsys, arguments: list[str], message: str) -> None:
    one = write_release(tmp_path / "one", "svamp")
    bad = write_release(tmp_path / "bad", "svamp")
    rows = bad / "datasets" / "svamp" / "svamp_train.json"
    rows.write_text(rows.read_text().replace('"label": "( 1.0', '"lable": "( 1.0'))
    names = {"tmp": tmp_path, "made": made, "one": one, "bad": bad}
    folder = tmp_path / "D"
    code = main(["data", f"--data_dir={folder}", *(a.format(**names) for a in arguments)])
    last = capsys.readouterr().err.splitlines()[-1]
    assert code == 2 and last.startswith("sbs: error: ") and message in last
    assert not _files(folder) and not list(folder.rglob(".*"))


@pytest.mark.parametrize("zipped", [False, True])
def test_the_real_archive(release_dir, tmp_path, capsys, zipped: bool) -> None:
    source = zip_folder(release_dir, tmp_path / "real.zip") if zipped else release_dir
    assert main(["data", f"--release={source}", f"--data_dir={tmp_path / 'D'}"]) == 0
    printed = capsys.readouterr().out
    for text in ("8766/975/1221", "720/80/200", "0.7723", "0.7400", "(7234/9741)", "(586/800)"):
        assert text in printed
