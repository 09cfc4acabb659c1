"""Join the processes of a launch and count its devices; run it before a long training.

Fails, and names what is missing, before anything is computed or written:

  sbs devices
  sbs devices --expect=16
  srun sbs devices --expect=16 --multiprocess_gpu
"""

from absl import flags

from sbs_jax.cli import processes
from sbs_jax.errors import UserError

FLAGS = flags.FlagValues()

flags.DEFINE_integer(
    "expect", None, "Number of devices of all processes.", lower_bound=1, flag_values=FLAGS
)
processes.define(FLAGS)


def main(argv: list[str]) -> None:
    """Counts and prints."""
    with processes.joined(FLAGS):
        import jax

        count = jax.device_count()
        print(
            f"process {jax.process_index()} of {jax.process_count()}: {count} devices, "
            f"{jax.local_device_count()} here ({jax.devices()[0].device_kind})",
            flush=True,
        )
        if FLAGS.expect is not None and count != FLAGS.expect:
            raise UserError(f"--expect={FLAGS.expect}: found {count} devices")
