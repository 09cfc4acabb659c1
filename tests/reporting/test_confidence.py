"""Calibration and cascade, worked by hand and against a second implementation."""

import numpy as np
import pytest
from helpers.studies import make_run, prediction

from sbs_jax.reporting import confidence
from sbs_jax.reporting import page as report


def test_the_calibration_error_worked_by_hand():
    """Bins .2-.3 (1 of 2 right at .25) and .9-1 (2 of 2 right at .95): (.25 + .05) / 2."""
    sure = np.array([0.25, 0.25, 0.95, 0.95])
    assert confidence.calibration_error(sure, np.array([1.0, 0, 1, 1])) == pytest.approx(0.15)
    assert confidence.calibration_error(np.ones(3), np.ones(3)) == 0


@pytest.mark.parametrize("true", [0.5, 1.0, 2.0])
def test_the_temperature_that_made_the_labels_is_found(true):
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(3000):
        logits = rng.normal(0, 2, 3)
        drawn = rng.choice(3, p=np.exp(logits / true) / np.exp(logits / true).sum())
        shares = np.exp(logits) / np.exp(logits).sum()
        named = dict(zip("abc", shares.tolist(), strict=True))
        rows.append(
            {"gold": "abc"[drawn], "label": max(named, key=named.get), "label_probabilities": named}
        )
    assert confidence.fit_temperature(rows) == pytest.approx(true, rel=0.1)
    right = np.array([r["gold"] == max(r["label_probabilities"], key=r["label_probabilities"].get)
                      for r in rows], float)  # fmt: skip
    before = np.array([max(r["label_probabilities"].values()) for r in rows])
    after = confidence.with_temperature(rows, confidence.fit_temperature(rows))
    errors = [confidence.calibration_error(sure, right) for sure in (before, after)]
    assert errors[1] <= errors[0] + 0.01 and errors[1] < 0.04


def test_an_answer_outside_the_set_takes_its_share_and_is_sure_of_no_label():
    """Labels .3 and .2, so the answer has .5: at the temperature 2 the golds lose to its root."""
    row = {"label": "x", "gold": "a", "label_probabilities": {"a": 0.3, "b": 0.2}}
    assert confidence.with_temperature([row], 2.0).tolist() == [0.0]
    assert confidence.with_temperature([row | {"label": "b"}], 1.0)[0] == pytest.approx(0.2 / 0.5)
    # All three shares are equal at the largest temperature, where the gold label has most.
    assert confidence.fit_temperature([row | {"gold": "b"}]) == pytest.approx(10)


@pytest.mark.parametrize("rows", [[], [{}], [{"confidence": None}], [{"confidence": 1}, {}]])
def test_without_all_confidences_there_are_none(rows):
    assert confidence.confidences(rows) is None


def test_the_report_shows_both_where_predictions_have_them(tmp_path):
    rows = [
        prediction(i, i % 4 > 0, i % 3 > 0, confidence=0.9 if i % 4 else 0.4) for i in range(80)
    ]
    text_of = report.write([make_run(tmp_path / "run", "mine_finetune", rows)], tmp_path / "out")
    markdown = (tmp_path / "out" / "results.md").read_text()
    assert "Calibration: run; ECE 0.175" in markdown  # .75 * |.9 - 1| + .25 * |.4 - 0|
    assert "Cascade" not in text_of, "details are for the page and the files"
