"""What is printed of a run's training questions before its first batch."""

import pytest
from helpers.runs import config_of

from sbs_jax.input_pipeline import pipeline


def _printed(tmp_path, capsys, **changes) -> str:
    config = config_of(tmp_path / "run", **changes)
    pipeline.training_batches(pipeline.Source.of(config), config, 1)
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("fraction", "line"),
    [(1.0, None), (0.01, "demo/train: DATA_FRACTION = 0.01 trains on 8 of 800 records\n")],
)
def test_a_data_fraction_is_printed_with_its_records(tmp_path, capsys, fraction, line):
    printed = _printed(tmp_path, capsys, data_fraction=fraction, batch_size=2)
    assert ("DATA_FRACTION" in printed) == (line is not None)
    assert line is None or line in printed


@pytest.mark.parametrize(("size", "warned"), [(8, False), (9, True)])
def test_a_batch_larger_than_the_questions_is_named(tmp_path, capsys, size, warned):
    printed = _printed(tmp_path, capsys, batch_size=size, data_fraction=0.01)
    words = f"warning: BATCH_SIZE = {size} is more than the 8 training questions"
    assert (words in printed) == warned
