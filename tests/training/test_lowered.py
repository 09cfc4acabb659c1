"""What the train step asks of a GPU, counted in its program lowered for CUDA; no GPU is needed."""

import dataclasses
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
import lowered

# Few float32 [B, H, L, L], few casts, few arguments and few operations are few small kernels.
CEILINGS = {
    "float32_attention_results": 4,
    "conversions": 150,
    "arguments": 150,
    "operations": 8_000,
}


@pytest.mark.parametrize("scan_layers", [False, True])
def test_the_step_of_base_stays_under_its_ceilings(scan_layers):
    config = dataclasses.replace(lowered.BASE, scan_layers=scan_layers)
    text = lowered.lower(config)
    found = lowered.counts(text, config)
    assert {name: found[name] for name in CEILINGS if found[name] > CEILINGS[name]} == {}
    # The attention of both stacks and that between them, forward and backward, is cuDNN's.
    assert text.count("__cudnn$fmhaScaleBiasSoftmax(") == 3
    assert text.count("__cudnn$fmhaScaleBiasSoftmaxBackward(") == 3


def test_called_functions_count_once_a_call_when_inlined():
    config = dataclasses.replace(lowered.BASE, num_encoder_layers=2, num_decoder_layers=2)
    found = lowered.counts(lowered.lower(config), config)
    deeper = dataclasses.replace(config, num_encoder_layers=4, num_decoder_layers=4)
    more = lowered.counts(lowered.lower(deeper), deeper)
    assert more["operations_inlined"] > 1.5 * found["operations_inlined"]
    assert more["operations"] < 1.2 * found["operations"]
