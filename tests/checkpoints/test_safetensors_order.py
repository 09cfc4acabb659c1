"""Numbers are written in the order of their shape, whatever their order in memory."""

import numpy as np
import pytest
from helpers import made_checkpoints as made
from safetensors.numpy import load_file

from sbs_jax.checkpoints.formats.hf_write import write_safetensors

MATRIX = np.arange(24, dtype=np.float32).reshape(4, 6)


@pytest.mark.parametrize(
    "array",
    [
        MATRIX,
        MATRIX.T,
        np.asfortranarray(MATRIX),
        MATRIX[::2, 1::2],
        MATRIX[::-1],
        np.broadcast_to(MATRIX[0], (3, 6)),
        MATRIX.reshape(2, 3, 4).transpose(2, 0, 1),
    ],
    ids=["plain", "transposed", "Fortran", "strided", "reversed", "broadcast", "three axes"],
)
def test_views_are_written_as_their_shape_says(tmp_path, array):
    """The library itself, safetensors 0.8.0, writes views in the order of memory, in silence."""
    write_safetensors(tmp_path / "x.safetensors", {"x": made.lazy(array)})
    written = load_file(tmp_path / "x.safetensors")["x"]
    assert written.shape == array.shape
    np.testing.assert_array_equal(written, array)
