"""XLA's flags where a test differs from the rest: devices of a process, level of a program."""

import importlib.metadata
import os
import re

# jax.jit(..., compiler_options=OPTIMISED): as users have it, where bits are compared with a program
# that does not take the level of the test run (tests/conftest.py).
OPTIMISED: dict[str, int | bool] = {"xla_backend_optimization_level": 3}
if importlib.metadata.version("jaxlib").startswith("0.10."):  # 0.12 has one kind of emitter
    OPTIMISED["xla_cpu_use_fusion_emitters"] = True


def flags(devices: int) -> str:
    """The flags of this test run (tests/conftest.py), with this many devices."""
    return re.sub(r"(device_count)=\d+", rf"\1={devices}", os.environ["XLA_FLAGS"])
