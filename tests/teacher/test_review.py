"""`sbs review`: decisions are taken in, applied, and stay; the page in headless Chromium."""

import functools
import json
import shutil
import time

import pytest
from helpers import annotate_cli
from helpers.serving import serving
from helpers.stub_server import StubServer

from sbs_jax.cli import main
from sbs_jax.datasets.records import read_jsonl

pytest.importorskip("openai")


def oracle(call, sample):
    """As annotate_cli's, with some answers in another wording and some that hold none."""
    said = annotate_cli.oracle(call, sample).replace("it is", "it is" + " so" * sample)
    number = sum(map(ord, call.text)) % 4
    if number == 1:
        return said.replace("So the answer is", "The correct answer is")
    return "hm ." if number == 2 else said


@pytest.fixture
def annotate(tmp_path):
    annotate_cli.write_questions(tmp_path / "train.jsonl")
    with serving(StubServer(oracle)) as stub:
        run = functools.partial(annotate_cli.run, stub, tmp_path)
        assert run() == 0
        yield run


def lines(folder):
    return {row["id"]: row for row in annotate_cli.rows(folder / "rationales.jsonl")}


def records(folder):
    return {record.id: record for record in read_jsonl(folder / "train.jsonl")}


def decision(record, action, **more):
    return {"split": "train", "id": record, "action": action, "editor": "Ada", **more}


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_decisions_are_applied_and_stay_when_annotated_again(annotate, tmp_path, capsys):
    out = tmp_path / "out"
    card = (out / "report_card.json").read_bytes()
    before, (first, second, third, *_) = lines(out), lines(out)
    edits = write(
        tmp_path / "edits.jsonl",
        decision(first, "edit", rationale="better .", label="no"),
        decision(second, "drop"),
        decision(third, "accept", rationale=before[third]["rationale"], label="yes"),
    )
    assert main(["review", str(out), f"--edits={edits}"]) == 0
    assert "3 new decisions; 3 records decided" in capsys.readouterr().out

    def check():
        after, held = lines(out), records(out)
        assert [after[i]["provenance"] for i in (first, second, third)] == [
            "edited",
            "dropped",
            "accepted",
        ]
        assert (held[first].rationale, held[first].llm_label) == ("better .", "no")
        assert (held[second].rationale, held[second].llm_label) == (None, None)
        assert held[third].llm_label == "yes"
        others = before.keys() - {first, second, third}
        assert all(after[i] == before[i] for i in others)
        # The teacher's accuracy is that of its own answers.
        assert (out / "report_card.json").read_bytes() == card

    check()
    assert annotate() == 0
    check()
    assert main(["review", str(out), f"--edits={edits}"]) == 0
    assert "0 new decisions" in capsys.readouterr().out
    assert len((out / "edits.jsonl").read_text().splitlines()) == 3
    again = write(tmp_path / "more.jsonl", decision(second, "edit", rationale="r .", label="yes"))
    assert main(["review", str(out), f"--edits={again}"]) == 0
    assert records(out)[second].rationale == "r ."  # the last decision counts


def test_an_accepted_answer_keeps_its_further_rationales(annotate, tmp_path):
    assert annotate(out=tmp_path / "several", n=4, rationales=2) == 0
    out = tmp_path / "several"
    before = lines(out)
    first, second = [i for i, row in before.items() if row.get("rationales")][:2]
    texts = {name: before[first][name] for name in ("rationale", "label")}
    edits = write(
        tmp_path / "edits.jsonl",
        decision(first, "accept", **texts),
        decision(second, "edit", rationale="better .", label=before[second]["label"]),
    )
    assert main(["review", str(out), f"--edits={edits}"]) == 0
    after = lines(out)
    assert after[first]["rationales"] == before[first]["rationales"]
    assert records(out)[first].rationales == tuple(before[first]["rationales"])
    assert "rationales" not in after[second] and records(out)[second].rationales == ()


MISTAKES = [
    (decision("unknown", "drop"), "has no record 'unknown'"),
    (decision("0", "delete"), "edits.jsonl:1: expected split, id and an action out of accept"),
    (decision("0", "edit", rationale=3), "edits.jsonl:1: rationale and label must be text"),
    (
        decision("again0", "edit", rationale="r .", label="maybe"),
        "edits.jsonl:1: label 'maybe' is not ",
    ),
    (
        decision("again0", "edit", rationale="r .", label=" "),
        "edits.jsonl:1: the label is empty; give",
    ),
    (
        decision("again0", "accept", rationale="r ."),
        "edits.jsonl:1: the label is empty; give one, or",
    ),
]


@pytest.mark.parametrize(("row", "message"), MISTAKES)
def test_odd_decisions_are_refused_whole(annotate, tmp_path, capsys, row, message):
    out = tmp_path / "out"
    good = decision(next(iter(lines(out))), "drop")
    edits = write(tmp_path / "edits.jsonl", row, good)
    assert main(["review", str(out), f"--edits={edits}"]) == 2
    assert message in capsys.readouterr().err
    assert not (out / "edits.jsonl").exists()


def test_what_depends_on_the_label_follows_it(annotate, tmp_path):
    out = tmp_path / "out"
    assert annotate(only_correct=True) == 0
    before, gold = lines(out), {i: record.label for i, record in records(out).items()}
    other = {"yes": "no", "no": "yes"}
    wrong = next(i for i, row in before.items() if not row["correct"])
    right, last = [i for i, row in before.items() if row["correct"]][:2]
    assert before[wrong]["dropped"] == ["gold"]
    edits = write(
        tmp_path / "edits.jsonl",
        decision(wrong, "edit", rationale="r .", label=gold[wrong]),
        decision(right, "edit", rationale="r .", label=other[gold[right]]),
        decision(last, "drop"),
    )
    assert main(["review", str(out), f"--edits={edits}"]) == 0
    for again in (False, True):
        assert not again or annotate(only_correct=True) == 0
        after = lines(out)
        assert (after[wrong]["correct"], after[wrong]["dropped"]) == (True, [])
        assert (after[right]["correct"], after[right]["dropped"]) == (False, [])
        assert "correct" not in after[last]


@pytest.mark.parametrize("content", [None, "{}", '{"train": {"accuracy": {}}}'])
def test_a_report_card_without_labels_is_named(annotate, tmp_path, capsys, content):
    card = tmp_path / "out" / "report_card.json"
    card.unlink()
    if content is not None:
        card.write_text(content)
    edits = write(tmp_path / "edits.jsonl", decision("again0", "drop"))
    assert main(["review", str(card.parent), f"--edits={edits}"]) == 2
    assert "report_card.json: does not say which labels" in capsys.readouterr().err
    assert annotate() == 0
    assert main(["review", str(card.parent), f"--edits={edits}"]) == 0


def test_a_folder_without_answers_is_refused(tmp_path, capsys):
    assert main(["review", str(tmp_path)]) == 2
    assert "give the --out folder of sbs annotate" in capsys.readouterr().err


@pytest.fixture
def chromium(tmp_path):
    webdriver = pytest.importorskip("selenium.webdriver", reason="pip install selenium")
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if not (browser and driver):
        pytest.skip("apt-get install chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1400,1000"):
        options.add_argument(argument)
    options.add_experimental_option(
        "prefs", {"download.default_directory": str(tmp_path / "downloads")}
    )
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    with webdriver.Chrome(options=options, service=webdriver.ChromeService(driver)) as chrome:
        yield chrome


@pytest.mark.slow
def test_the_page_is_searched_filtered_and_its_edits_read_back(annotate, tmp_path, chromium):
    from selenium.webdriver.support.ui import Select

    out = tmp_path / "out"
    rows = annotate_cli.rows(out / "rationales.jsonl")
    assert main(["review", str(out)]) == 0

    def part(name):
        return chromium.find_element("css selector", f'[data-part="{name}"]')

    def count():
        return int(part("count").text.split()[0])

    def row(record):
        return chromium.find_element("css selector", f'tr[data-id="{record}"]')

    def click(record, action):
        row(record).find_element("css selector", f'[data-action="{action}"]').click()

    chromium.get((out / "review.html").as_uri())
    assert count() == 12
    # Filters and search agree with the file.
    for name, field in (("outcome", "outcome"), ("agreement", "agreement")):
        for value in {line[field] for line in rows}:
            Select(part(name)).select_by_visible_text(
                f"{value:g}" if field == "agreement" else value
            )
            assert count() == sum(line[field] == value for line in rows)
        Select(part(name)).select_by_index(0)
    for text, right in (("right", True), ("wrong", False)):
        Select(part("correct")).select_by_visible_text(text)
        assert count() == sum(line["correct"] is right for line in rows)
    Select(part("correct")).select_by_index(0)
    part("search").send_keys("again1")
    assert count() == 1
    part("search").send_keys("\b" * 6)
    assert count() == 12
    # Decide, reload (nothing is lost), save.
    first, second, fourth, third = (line["id"] for line in rows[:4])  # one row has no label
    part("editor").send_keys("Ada")
    box = row(first).find_element("css selector", "textarea")
    box.clear()
    box.send_keys("a better reason <b>.")
    click(second, "drop")
    click(third, "accept")
    click(fourth, "drop")
    click(fourth, "undo")
    chromium.refresh()
    Select(part("state")).select_by_visible_text("dropped")
    assert count() == 1
    part("save").click()
    saved = tmp_path / "downloads" / "edits.jsonl"
    deadline = time.monotonic() + 20
    while not saved.is_file() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert main(["review", str(out), f"--edits={saved}"]) == 0
    held, after = records(out), lines(out)
    assert held[first].rationale == "a better reason <b>."
    assert held[second].rationale is None and after[third]["provenance"] == "accepted"
    assert "provenance" not in after[fourth]
    written = {row["id"]: row for row in annotate_cli.rows(out / "edits.jsonl")}
    assert written[first]["editor"] == "Ada" and written[first]["shown"] == {
        "rationale": rows[0]["rationale"],
        "label": rows[0]["label"],
    }
    chromium.get((out / "review.html").as_uri())
    chromium.execute_script("localStorage.clear()")
    chromium.refresh()
    Select(part("state")).select_by_visible_text("edited")  # known without this browser's memory
    assert count() == 1
    assert not chromium.get_log("browser")
