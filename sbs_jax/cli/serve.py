"""Answer questions over HTTP with a trained student.

Loads the checkpoint that was best on validation and answers POST /predict; questions of several
callers are decoded together. /healthz says which student answers, /docs describes the API. Only
this machine reaches it unless --host says otherwise; it has no passwords: put a proxy before it.

  sbs serve --model_dir=runs/reviews
  curl -s localhost:8000/predict -H 'Content-Type: application/json' -d '{"inputs": ["..."]}'
"""

import asyncio

from absl import flags

from sbs_jax.cli import flags as shared
from sbs_jax.cli import runtime
from sbs_jax.errors import UserError
from sbs_jax.utils.console import say

FLAGS = flags.FlagValues()

_WARM_UP = "?"

shared.checkpoint(FLAGS)
flags.DEFINE_string("host", "127.0.0.1", "Address to listen on.", flag_values=FLAGS)
flags.DEFINE_integer(
    "port", 8000, "Port; 0 takes a free one.", lower_bound=0, upper_bound=65535, flag_values=FLAGS
)
flags.DEFINE_integer(
    "batch_size", 8, "Questions decoded together.", lower_bound=1, flag_values=FLAGS
)
flags.DEFINE_integer(
    "capacity",
    4096,
    "Maximum number of waiting questions; more get status 503.",
    lower_bound=1,
    flag_values=FLAGS,
)
shared.vocabulary(FLAGS, "the run's present one, if moved; default: as in training.")
shared.cache_dir(FLAGS)
runtime.define(FLAGS)


def main(argv: list[str]) -> None:
    """Serves until Ctrl-C or SIGTERM."""
    try:
        import uvicorn

        from sbs_jax.inference import http_server
    except ModuleNotFoundError as error:
        if error.name not in ("uvicorn", "fastapi"):
            raise
        raise UserError(f"{error.name} is missing; pip install 'sbs_jax[serve]'") from None
    asyncio.run(_check_address(FLAGS.host, FLAGS.port))
    runtime.start(FLAGS)
    from sbs_jax.datasets.records import Record
    from sbs_jax.inference import student
    from sbs_jax.inference.batcher import Batcher
    from sbs_jax.inference.predictor import Predictor

    served = student.find_run(FLAGS.model_dir, FLAGS.vocabulary, FLAGS.step)
    assert served.run is not None
    predictor = Predictor(served, FLAGS.batch_size)
    predictor.answer([Record("0", _WARM_UP, "")], predictor.explains)  # compiles
    batcher = Batcher(predictor.answer_and_mark, FLAGS.batch_size, FLAGS.capacity)
    health = http_server.Health(
        status="ok", mixture=served.run.mixture_or_task_name, step=served.checkpoint.step
    )
    app = http_server.app(batcher, health, predictor.explains)
    say(f"{FLAGS.model_dir}: step {served.checkpoint.step}; the API is described at /docs")
    uvicorn.run(app, host=FLAGS.host, port=FLAGS.port, log_level="info", access_log=False)
    batcher.close()


async def _check_address(host: str, port: int) -> None:
    """Raises UserError where the server could not listen, before the student is loaded."""
    loop = asyncio.get_running_loop()
    try:
        server = await loop.create_server(asyncio.Protocol, host, port, start_serving=False)
    except OSError as error:
        raise UserError(
            f"--host={host} --port={port}: {error.strerror}; choose another (0 takes a free port)"
        ) from None
    server.close()
