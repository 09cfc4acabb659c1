"""The train step of this or an older build, for `bench_gpu.py`: a process that updates on demand.

    python benchmarks/gpu_ours.py FOLDER CONFIG_JSON OPTIMIZER

It finds the modules under their present or earlier names, and gives `make_train_step` those
arguments that the build has. Reads a JSON line a command from stdin, {"updates": N}
or {"profile": N}, and answers each with one on stdout. N = 0 gives the loss before any update.
"""

import collections
import glob
import importlib
import inspect
import json
import pathlib
import re
import sys
import tempfile
import time
from typing import Any

import jax
import numpy as np

from sbs_jax.configs import T5Config


def _module(*names: str) -> Any:
    """The first of these modules of the package that the build has."""
    for name in names[:-1]:
        try:
            return importlib.import_module(f"sbs_jax.{name}")
        except ModuleNotFoundError:
            continue
    return importlib.import_module(f"sbs_jax.{names[-1]}")


step = _module("training.train_step", "step")
losses = _module("training.losses", "objective")
optimizers = _module("training.optimizers", "optimizers")
schedules = _module("training.schedules", "optimizers")
partitioning = _module("distributed.partitioning", "partitioning")
formats = _module("checkpoints.formats.params", "checkpoints.params")

_ARGUMENTS = inspect.signature(step.make_train_step).parameters
_SEGMENTS = "max_segments" if "max_segments" in _ARGUMENTS else "segments"

KINDS = {
    "attention": r"fmha|flash|cudnn.*(sdpa|attention)",
    "matrix products": r"gemm|nvjet|cutlass|xmma|cublas|dot",
    "conversions": r"convert",
    "scatter and gather": r"scatter|gather",
    "transposes and copies": r"transpose|copy|memcpy|memset",
    "reductions": r"reduce",
}


def kind_of(kernel: str) -> str:
    """Which of KINDS a kernel is, by its name; "other" for fused elementwise work."""
    found = (kind for kind, names in KINDS.items() if re.search(names, kernel, re.IGNORECASE))
    return next(found, "other")


class Loop:
    """Updates of one train state on prepared batches, in turn and again from the first."""

    def __init__(self, folder: pathlib.Path, config: T5Config, optimizer: str) -> None:
        self._config = config
        self._partitioner = partitioning.Partitioner(devices=jax.devices()[:1])
        rate = schedules.create_learning_rate_scheduler("constant", 1e-4)
        chosen = optimizers.create_optimizer(optimizer, rate)
        platform = jax.devices()[0].platform
        with np.load(folder / "batches.npz") as stored:
            segments = int(stored["segments"])
            names = [name for name in stored.files if name != "segments"]
            batches: dict[int, dict[str, np.ndarray]] = collections.defaultdict(dict)
            for name in names:
                index, feature = name.split("/")
                batches[int(index)][feature] = stored[name]
        self._batches = [batches[index] for index in sorted(batches)]
        options = {_SEGMENTS: segments, **_options(config, platform, chosen)}
        weights = losses.task_weights(losses.TASKS, 0.5)
        self._step = step.make_train_step(
            config, chosen, rate, weights, self._partitioner, **options
        )
        params = _parameters(folder)
        self._state = step.init_state(config, chosen, self._partitioner, 0, params)
        if options.get("stacked"):
            from sbs_jax.training.train_state import stacked_state

            self._state = stacked_state(self._state)
        quiet = T5Config(**{**vars(config), "dropout_rate": 0.0})
        self._gradients = step.make_gradients(quiet, weights, **{_SEGMENTS: segments})
        self._next = 0

    def loss(self) -> float:
        """Of the first batch, without dropout and before an update."""
        batch = self._partitioner.put_batch(self._batches[0])
        key = jax.random.key(0)
        return float(jax.jit(lambda p: self._gradients(p, batch, key).loss)(self._state.params))

    def update(self, count: int) -> dict[str, float]:
        """Seconds of `count` updates, and those of them in which batches were handed over."""
        start = time.perf_counter()
        waited = 0.0
        for _ in range(count):
            began = time.perf_counter()
            batch = self._partitioner.put_batch(self._batches[self._next % len(self._batches)])
            waited += time.perf_counter() - began
            self._state, metrics = self._step(self._state, batch)
            self._next += 1
        jax.block_until_ready((self._state, metrics))
        seconds = time.perf_counter() - start
        return {"seconds": seconds, "input_seconds": waited, "loss": float(metrics["loss"])}

    def profile(self, count: int) -> dict[str, float]:
        """Milliseconds an update that the device spent in each kind of kernel."""
        with tempfile.TemporaryDirectory() as folder:
            with jax.profiler.trace(folder):
                self.update(count)
            (file,) = glob.glob(f"{folder}/**/*.xplane.pb", recursive=True)
            planes = jax.profiler.ProfileData.from_file(file).planes
            spent: collections.Counter[str] = collections.Counter()
            for plane in planes:
                if not plane.name.startswith("/device:GPU"):
                    continue
                for line in plane.lines:
                    if line.name.startswith("Stream"):
                        for event in line.events:
                            spent[kind_of(event.name)] += event.duration_ns
        return {kind: ns / 1e6 / count for kind, ns in spent.most_common()}


def _options(config: T5Config, platform: str, optimizer: object) -> dict:
    """The arguments of `make_train_step` that `sbs train` of this build would give."""
    if "stacked" not in _ARGUMENTS:
        return {}
    from sbs_jax.training import devices

    return {
        "stacked": platform != "cpu" and getattr(optimizer, "elementwise", False),
        "fused_attention": devices.has_fused_attention(config, platform),
    }


def _parameters(folder: pathlib.Path) -> dict:
    with np.load(folder / "parameters.npz") as stored:
        return formats.nested({name: stored[name] for name in stored.files})


def main() -> None:
    folder, config, optimizer = sys.argv[1:]
    settings = json.loads(config)
    settings["mlp_activations"] = tuple(settings["mlp_activations"])
    loop = Loop(pathlib.Path(folder), T5Config(**settings), optimizer)
    for line in sys.stdin:
        command = json.loads(line)
        if count := command.get("profile"):
            answer: dict = loop.profile(count)
        elif command["updates"]:
            answer = loop.update(command["updates"])
        else:
            answer = {"loss": loop.loss()}
        memory = jax.local_devices()[0].memory_stats() or {}
        print(json.dumps(answer | {"peak_bytes": memory.get("peak_bytes_in_use", 0)}), flush=True)


if __name__ == "__main__":
    main()
