"""Flags of multi-process runs; joins the processes."""

import contextlib
import os

from absl import flags

from sbs_jax.errors import UserError
from sbs_jax.utils.console import say


def define(values: flags.FlagValues) -> None:
    """T5X's flags, and ours for waiting."""
    flags.DEFINE_boolean(
        "multiprocess_gpu",
        False,
        "One of several processes, on any device; missing values of the three flags below are "
        "auto-detected on Cloud TPU, GKE, SLURM and Open MPI. A TPU slice of several hosts needs "
        "no flag.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "coordinator_address",
        None,
        "IP:port of process 0; implies --multiprocess_gpu.",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "process_count", None, "Number of processes.", lower_bound=1, flag_values=values
    )
    flags.DEFINE_integer(
        "process_index", None, "Index of this process.", lower_bound=0, flag_values=values
    )
    flags.DEFINE_integer(
        "initialization_timeout",
        None,
        "Seconds to wait for the other processes; default 300.",
        lower_bound=1,
        flag_values=values,
    )
    flags.DEFINE_integer(
        "heartbeat_timeout",
        None,
        "Seconds after which a silent process counts as dead; default 100.",
        lower_bound=1,
        flag_values=values,
    )
    flags.DEFINE_integer(
        "progress_timeout",
        None,
        "Seconds without a finished update or evaluation batch after which one of several "
        "processes gives up; default 1800.",
        lower_bound=1,
        flag_values=values,
    )


def is_one_of_several(values: flags.FlagValues) -> bool:
    """Whether flags or the machine say that this process is one of several of a run."""
    from sbs_jax.distributed import rendezvous

    flagged = values.multiprocess_gpu or values.coordinator_address is not None
    return flagged or rendezvous.on_tpu_pod()


def joined(values: flags.FlagValues) -> contextlib.AbstractContextManager[None]:
    """Joins the other processes of the run, if it has several."""
    from sbs_jax.distributed import multihost

    numbered = values.process_count is not None or values.process_index is not None
    if numbered and not values.multiprocess_gpu and not values.coordinator_address:
        raise UserError("--process_count and --process_index need --coordinator_address")
    if not is_one_of_several(values):
        warn_of_forgotten_flag()
        return contextlib.nullcontext()
    return multihost.joined(
        values.coordinator_address,
        values.process_count,
        values.process_index,
        values.initialization_timeout,
        values.heartbeat_timeout,
        values.progress_timeout,
    )


def warn_of_forgotten_flag() -> None:
    """Under `srun` or `mpirun` every task would train alone, in one MODEL_DIR."""
    for launcher, variable in (("SLURM", "SLURM_STEP_NUM_TASKS"), ("MPI", "OMPI_COMM_WORLD_SIZE")):
        count = os.environ.get(variable, "")
        if count.isdigit() and int(count) > 1:
            say(
                f"{launcher} started {count} tasks, and each of them trains alone; "
                "--multiprocess_gpu makes them one run"
            )
