"""CPU-seconds of a tiny `sbs train`, cold and warm, and of the start of larger models.

    python benchmarks/bench_startup.py [--rounds N] [--init mini small base]

A run of two updates on the embedded dataset with a model of two layers a stack, from the command
to results.json: variants `cold` (nothing compiled, no tokens), `warm` (again, another MODEL_DIR)
and `warm, memory returned` (--noretain_memory), each a separate process; the phases that the run
prints are in the report. `init NAME`: parameters of a T5 drawn by `models.parameters` (first call
less second call: compilation), next to the one program of `Transformer.init`.

Prints one JSON line per variant (medians with their range) and a table.
"""

import argparse
import json
import os
import platform
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

GIN = """
include "experiments/demo_step_by_step.gin"
TRAIN_STEPS = 2
EVAL_PERIOD = 2
WARMUP_STEPS = 1
BATCH_SIZE = 8
TrainConfig.eval_num_examples = 16
configs.T5Config.num_encoder_layers = 2
configs.T5Config.num_decoder_layers = 2
"""
MODELS = {
    "mini": (32128, 256, 4, 4, 4, 64, 1024),
    "small": (32128, 512, 6, 8, 8, 64, 1024),
    "base": (32128, 768, 12, 12, 12, 64, 2048),
}
_PHASES = re.compile(r"seconds to the first update: (.*?); together")


def train(folder: Path, name: str, flags: list[str]) -> dict:
    """One run; CPU-seconds, page faults and peak memory of the process, and its phases."""
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "SBS_CACHE_DIR": str(folder / "cache"),
        "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false",
    }
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    command = ["train", f"--gin_file={folder / 'tiny.gin'}", f'--gin.MODEL_DIR="{folder / name}"']
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-m", "sbs_jax", *command, *flags],
        env=environment,
        capture_output=True,
        text=True,
        cwd=folder,
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    found = {
        "cpu_seconds": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "page_faults": after.ru_minflt - before.ru_minflt,
    }
    phases = _PHASES.search(done.stderr)
    for phase in phases[1].split(", ") if phases else ():
        label, seconds = phase.rsplit(" ", 1)
        found[label] = float(seconds)
    return found


def runs() -> dict[str, dict]:
    """A cold run and two warm ones, with a separate cache folder."""
    folder = Path(tempfile.mkdtemp())
    try:
        (folder / "tiny.gin").write_text(GIN)
        return {
            "cold": train(folder, "cold", []),
            "warm": train(folder, "warm", []),
            "warm, memory returned": train(folder, "returned", ["--noretain_memory"]),
        }
    finally:
        shutil.rmtree(folder)


def init(name: str) -> dict:
    """CPU-seconds of compiling what draws the parameters of a model, ours and Flax's own."""
    import jax
    import numpy as np

    from sbs_jax.configs import T5Config
    from sbs_jax.models import parameters, t5

    config = T5Config(*MODELS[name], dropout_rate=0.1)

    def seconds(work) -> float:
        began = time.process_time()
        jax.block_until_ready(work())
        return time.process_time() - began

    parameters.shapes(config)
    seed = np.asarray(0, np.uint32)
    first, again = (seconds(lambda: parameters.create(config, seed)) for _ in range(2))
    lowered = jax.jit(lambda seed: t5.init_params(config, jax.random.key(seed))).lower(seed)
    whole = seconds(lambda: lowered.compile() and ())
    return {"compile_cpu_seconds": first - again, "one_program_cpu_seconds": whole}


def _init_in_a_process(name: str) -> dict:
    done = subprocess.run(
        [sys.executable, __file__, "--one", name],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env=os.environ | {"JAX_PLATFORMS": "cpu", "JAX_ENABLE_COMPILATION_CACHE": "false"},
    )
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--init", nargs="*", choices=MODELS, default=["mini"])
    parser.add_argument("--one", choices=MODELS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    if args.one:
        print(json.dumps(init(args.one)))
        return
    results: dict[str, list[dict]] = {}
    for _ in range(args.rounds):
        measured = runs() | {f"init {name}": _init_in_a_process(name) for name in args.init}
        for variant, found in measured.items():
            results.setdefault(variant, []).append(found)
    table = []
    for variant, rounds in results.items():
        report: dict = {"benchmark": "startup", "variant": variant}
        for label in rounds[0]:
            values = sorted(each.get(label, 0.0) for each in rounds)
            low, middle, high = values[0], statistics.median(values), values[-1]
            report |= {label: round(middle, 3), f"{label} range": [round(low, 3), round(high, 3)]}
            table.append(f"{variant:<24}{label:<26}{middle:>12,.2f}  {low:,.2f}-{high:,.2f}")
        print(json.dumps(report | {"rounds": args.rounds, "machine": platform.machine()}))
    print("\n".join(table))


if __name__ == "__main__":
    main()
