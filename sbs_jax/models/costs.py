"""Bytes and floating-point operations of a T5 update, from its shapes: the formulas.

docs/planning.md states them; tests/training/test_plan.py compares them with XLA's own analysis.
"""

import dataclasses

from sbs_jax.configs import T5Config

_NOISE = 2  # bytes
FLOAT32 = 4
WIDTHS = {"float32": FLOAT32, "bfloat16": 2}  # bytes per number


@dataclasses.dataclass(frozen=True)
class Shape:
    """The batch of one update: rows of encoder and decoder positions, on all devices together.

    Attributes:
        max_segments: see `step.make_train_step`.
        origin: where the numbers come from, for people.
    """

    rows: int
    inputs: int
    targets: int
    max_segments: int
    origin: str


def activation_bytes(model: T5Config, shape: Shape, rows: float, split: int) -> int:
    """Bytes that the forward pass keeps for the backward pass, and the largest temporary.

    Kept per layer and row: what the matrix products and the softmax need again (docs/planning.md
    has the table). XLA recomputes elementwise chains inside its fusions, so they do not count.

    Args:
        rows: rows of a micro-batch on one device.
        split: devices over which heads, mlp and vocabulary are split.
    """
    length, targets = shape.inputs, shape.targets
    encoder, decoder = (rows * size for size in _layer_bytes(model, length, targets, split))
    width = WIDTHS[model.dtype]
    heads, vocabulary = model.num_heads / split, model.vocab_size / split
    # The logits and their gradient, the biases all layers share, the streams around the stacks.
    around = rows * 2 * targets * vocabulary * FLOAT32
    around += rows * heads * (length**2 + targets**2) * FLOAT32
    around += rows * 2 * (length + targets) * model.emb_dim * width
    layers = (model.num_encoder_layers, model.num_decoder_layers)
    noise = _noise_bytes(model, shape, split)
    around += rows * (layers[0] * noise[0] + layers[1] * noise[1])
    if model.remat_policy == "none":
        return round(around + layers[0] * encoder + layers[1] * decoder)
    kept = [rows * size for size in _remat_bytes(model, length, targets, split)]
    # One layer at a time is there as a whole, with the gradients of what it keeps.
    return round(around + layers[0] * kept[0] + layers[1] * kept[1] + 2 * max(encoder, decoder))


def _noise_bytes(model: T5Config, shape: Shape, split: int) -> tuple[float, float]:
    """Bytes per row of the 16-bit random numbers that an encoder and a decoder layer keep.

    `models.layers.noise_size` counts them: one per feature and segment, one per head and key.
    """
    if not model.dropout_rate:
        return 0.0, 0.0
    heads, mlp = model.num_heads / split, model.mlp_dim / split
    encoder = shape.max_segments * (2 * model.emb_dim + mlp) + heads * shape.inputs
    decoder = shape.max_segments * (3 * model.emb_dim + mlp) + heads * (
        shape.targets + shape.inputs
    )
    return _NOISE * encoder, _NOISE * decoder


def _remat_bytes(model: T5Config, length: int, targets: int, split: int) -> tuple[float, float]:
    """Bytes kept per row by an encoder and by a decoder layer under a remat policy."""
    width = WIDTHS[model.dtype]
    encoder, decoder = float(length * model.emb_dim * width), float(targets * model.emb_dim * width)
    if model.remat_policy == "full":
        return encoder, decoder
    # "minimal": what the products with parameters gave, except what only the next layer reads.
    joined = model.num_heads * model.head_dim / split
    mlp = model.mlp_dim / split * len(model.mlp_activations)
    encoder += length * (model.emb_dim + 3 * joined + mlp) * width
    decoder += targets * (2 * model.emb_dim + 4 * joined + mlp) * width
    decoder += length * 2 * joined * width
    return encoder, decoder


def _layer_bytes(model: T5Config, length: int, targets: int, split: int) -> tuple[float, float]:
    """Bytes kept per row by an encoder and by a decoder layer."""
    width = WIDTHS[model.dtype]
    joined = model.num_heads * model.head_dim / split
    mlp = model.mlp_dim / split * (len(model.mlp_activations) + 1)
    # Probabilities in float32; scores and dropped-out probabilities in the computation's type.
    per_score = model.num_heads / split * (FLOAT32 + 2 * width)
    encoder = length * (4 * model.emb_dim + 4 * joined + mlp) * width
    encoder += length**2 * per_score
    decoder = targets * (6 * model.emb_dim + 6 * joined + mlp) * width
    decoder += targets * (targets + length) * per_score
    decoder += length * 2 * joined * width  # the encoder's keys and values
    return encoder, decoder


def gathered_layer_bytes(model: T5Config, split: int) -> int:
    """Bytes of gathered weights under fsdp: the running layer's and the next one's."""
    joined = model.num_heads * model.head_dim
    attention = 4 * model.emb_dim * joined
    mlp = (len(model.mlp_activations) + 1) * model.emb_dim * model.mlp_dim
    table = model.vocab_size * model.emb_dim
    width = WIDTHS[model.dtype]
    return round(max(2 * (2 * attention + mlp), table) / split * width)


def flops(model: T5Config, shape: Shape) -> int:
    """Floating-point operations of an update's matrix products: 2 per multiply-add.

    The backward pass costs two forward passes; remat "full" computes the layers once more, and
    "minimal" their attention.
    """
    joined = model.num_heads * model.head_dim
    mlp = (len(model.mlp_activations) + 1) * model.emb_dim * model.mlp_dim
    square = model.emb_dim * joined
    length, targets = shape.inputs, shape.targets
    encoder = length * (4 * square + mlp + 2 * length * joined)
    decoder = targets * (6 * square + mlp + 2 * (targets + length) * joined)
    decoder += length * 2 * square
    layers = model.num_encoder_layers * encoder + model.num_decoder_layers * decoder
    head = targets * model.emb_dim * model.vocab_size
    attention = model.num_encoder_layers * 2 * length * length * joined
    attention += model.num_decoder_layers * 2 * targets * (targets + length) * joined
    again = {"none": 0, "minimal": attention, "full": layers}[model.remat_policy]
    return 2 * shape.rows * (3 * layers + again + 3 * head)
