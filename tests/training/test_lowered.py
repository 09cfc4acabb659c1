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


@pytest.mark.slow
def test_called_functions_count_once_a_call_when_inlined():
    def found(layers: int) -> dict[str, int]:
        config = dataclasses.replace(
            lowered.BASE, num_encoder_layers=layers, num_decoder_layers=layers
        )
        return lowered.counts(lowered.lower(config), config)

    two, four, six = found(2), found(4), found(6)
    per_layer = (four["operations_inlined"] - two["operations_inlined"]) / 2
    assert six["operations_inlined"] - four["operations_inlined"] == 2 * per_layer
    # Beside the slices of its parameters and gradients, a layer that is called is text of one line.
    assert four["operations"] - two["operations"] < per_layer
