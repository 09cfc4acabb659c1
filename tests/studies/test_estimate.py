"""What a run is estimated to cost, by shapes and by the data's lengths."""

from helpers.runs import MODEL, config_of

from sbs_jax.datasets.methods import Prefixes
from sbs_jax.models import costs
from sbs_jax.studies import estimate


def test_rows_full_count_a_row_per_task(tmp_path):
    one_row = costs.flops(MODEL, costs.Shape(8, 32, 32, 1, ""))
    assert estimate.rows_full(config_of(tmp_path)) == 2 * one_row
    single = config_of(tmp_path, mixture_or_task_name="demo_finetune")
    assert estimate.rows_full(single) == one_row


def test_a_shared_encoder_is_counted_once(tmp_path):
    shared = config_of(tmp_path, shared_encoder=True)
    assert estimate.rows_full(shared) == costs.flops(MODEL, costs.Shape(8, 32, 64, 1, ""))
    lengths = estimate._mean_lengths("demo_step_by_step", "demo", Prefixes("", ""), (32, 32))
    (inputs, label), (same, rationale) = lengths
    assert inputs == same  # no prefix
    shape = costs.Shape(8, round(inputs), round(label + rationale), 1, "")
    assert estimate.by_lengths(shared) == costs.flops(MODEL, shape)
    assert estimate.by_lengths(shared) < estimate.by_lengths(config_of(tmp_path))
