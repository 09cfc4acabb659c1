"""The page in headless Chromium: search, filters, paging, keyboard; 10,000 answers; no errors.

Skipped where selenium or a Chromium with its driver is missing (Debian: chromium-driver).
"""

import pathlib
import shutil
import time

import pytest
from helpers.studies import make_run, prediction, random_study

from sbs_jax.reporting import browser
from sbs_jax.reporting import page as report

webdriver = pytest.importorskip("selenium.webdriver", reason="pip install selenium")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
ARGUMENTS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1400,1000",
)
pytestmark = [
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="apt-get install chromium-driver"),
    pytest.mark.slow,
]


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ARGUMENTS:
        options.add_argument(argument)
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('chromium')}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    driver.implicitly_wait(5)
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def large(tmp_path_factory) -> pathlib.Path:
    """A report of two runs of 10,000 answers."""
    folder = tmp_path_factory.mktemp("large")
    random_study(folder, n=10_000, seeds=1, fractions=(1.0,))
    report.write([folder], folder / "out")
    return folder / "out" / "report.html"


def part(chromium, name: str):
    return chromium.find_element("css selector", f'[data-part="{name}"]')


def choose(chromium, name: str, text: str) -> None:
    from selenium.webdriver.support.ui import Select

    Select(part(chromium, name)).select_by_visible_text(text)


def count(chromium) -> int:
    return int(part(chromium, "count").text.split(" of ")[0])


def test_ten_thousand_answers_are_searched_filtered_and_turned(chromium, large):
    chromium.get(large.as_uri())
    assert part(chromium, "count").text == "10000 of 10000 answers, page 1 of 200"
    rows = chromium.find_elements("css selector", "[data-part=rows] tr")
    assert len(rows) == 50 and "question 0 <b>?</b>" in rows[0].text
    began = time.monotonic()
    part(chromium, "search").send_keys("question 777 ")
    assert count(chromium) == 19  # 777, 1777 to 9777, 7770 to 7779; 7777 is in both
    assert time.monotonic() - began < 20
    part(chromium, "search").clear()
    part(chromium, "search").send_keys("x")  # clear alone sends no input event
    part(chromium, "search").send_keys("\b")
    part(chromium, "on").click()
    assert "page 2 of 200" in part(chromium, "count").text
    assert "question 50 " in chromium.find_element("css selector", "[data-part=rows] tr").text
    part(chromium, "back").send_keys("\n")  # by keyboard
    assert "page 1 of 200" in part(chromium, "count").text
    assert not part(chromium, "back").is_enabled()


def test_filters_agree_with_the_answers(chromium, large):
    chromium.get(large.as_uri())
    choose(chromium, "run", "step-by-step, 400 (100%) labels, seed 0")
    numbers = {}
    for kind in ("all", "student right", "student wrong", "only the student right", "both wrong"):
        choose(chromium, "kind", kind)
        numbers[kind] = count(chromium)
    assert numbers["student right"] + numbers["student wrong"] == numbers["all"] == 10_000
    tables = chromium.find_elements("css selector", "table.numbers")
    texts = [table.get_attribute("innerText") for table in tables]
    (who,) = [text for text in texts if "student only" in text]
    line = next(t for t in who.splitlines() if "step-by-step" in t).split("\t")
    assert numbers["only the student right"] == int(line[5])
    assert numbers["both wrong"] == int(line[7])
    choose(chromium, "kind", "all")
    choose(chromium, "gold", "maybe")
    assert count(chromium) == 3333
    assert "because step_by_step says so" in part(chromium, "rows").text


def test_nothing_is_loaded_and_no_error_is_logged(chromium, large):
    chromium.get(large.as_uri())
    assert chromium.get_log("browser") == []
    loaded = chromium.execute_script("return performance.getEntriesByType('resource').length")
    assert loaded <= 2, "nothing but the two inline pictures"


def test_an_answer_that_looks_like_html_stays_text(chromium, tmp_path):
    evil = "<img src=x onerror=\"document.title='taken'\"></script><script>alert(1)</script>"
    rows = [prediction(i, True, input=evil, rationale=evil, label=evil) for i in range(3)]
    report.write([make_run(tmp_path / "run", "mine_step_by_step", rows)], tmp_path / "out")
    chromium.get((tmp_path / "out" / "report.html").as_uri())
    assert evil in part(chromium, "rows").text
    assert "taken" not in chromium.title
    assert chromium.get_log("browser") == []


def test_a_phone_shows_no_sideways_scroll(chromium, large):
    chromium.set_window_size(390, 800)
    chromium.get(large.as_uri())
    wide = chromium.execute_script(
        "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
    )
    assert wide <= 0
    chromium.set_window_size(1400, 1000)


def test_runs_beyond_the_largest_page_are_named(tmp_path):
    from sbs_jax.reporting import answers, study_files

    study = study_files.read_study(random_study(tmp_path, n=50))
    by_name = [(f"run {i}", answer) for i, answer in enumerate(study.answers.values())]
    assert isinstance(by_name[0][1], answers.Answers)
    shown = browser.build(by_name, largest=len(browser.build(by_name[:2]).data))
    assert shown.runs == 2 and list(shown.left_out) == [f"run {i}" for i in range(2, 12)]
