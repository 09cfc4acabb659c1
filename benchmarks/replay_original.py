"""Replay a recorded training run of the original PyTorch code through our real train step.

    python benchmarks/replay_original.py --vectors DIR --case CASE [--packed] [--devices N]

Prints one JSON line: {case, steps, max_loss_error, max_rel_grad_norm_error, max_weight_error,
decode_equal, decode_total}. Files of a case: traj_CASE.npz and .json, init_MODEL.safetensors
(MODEL from the json), final_CASE.safetensors and, for decoding, gen_CASE.json. Sizes are read off
the weights.
"""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np

LABEL, RATIONALE = 1, 2
STREAMS = (("pred", LABEL), ("expl", RATIONALE))


class Case:
    """One recorded run: its settings, micro-batches and what came out."""

    def __init__(self, vectors: Path, name: str) -> None:
        self.name, self.vectors = name, vectors
        path = vectors / f"traj_{name}.json"
        if not path.is_file():
            known = sorted(p.stem.removeprefix("traj_") for p in vectors.glob("traj_*.json"))
            sys.exit(f"--case {name}: no {path}; known there: {', '.join(known) or 'none'}")
        self.settings = json.loads(path.read_text())
        self.arrays = np.load(vectors / f"traj_{name}.npz")
        self.streams = [s for s in STREAMS if f"{s[0]}/input_ids" in self.arrays.files]
        self.grad_steps = int(self.settings.get("grad_accum", 1))
        self.steps = len(self.arrays["grad_norm"])

    def weights(self, kind: str) -> Path:
        model = Path(self.settings["model"]).name
        return (
            self.vectors
            / {
                "init": f"init_{model}.safetensors",
                "final": f"final_{self.name}.safetensors",
            }[kind]
        )

    def examples(self, microbatch: int) -> list[tuple[np.ndarray, np.ndarray, int]]:
        """(inputs, targets, task id) of every sequence, padding removed."""
        found = []
        for stream, task in self.streams:
            inputs = self.arrays[f"{stream}/input_ids"][microbatch]
            mask = self.arrays[f"{stream}/attention_mask"][microbatch]
            labels = self.arrays[f"{stream}/labels"][microbatch]
            for row in range(len(inputs)):
                source = inputs[row][mask[row] > 0].astype(np.int32)
                target = labels[row][labels[row] != -100].astype(np.int32)
                found.append((source, target, task))
        return found

    def microbatches(self) -> int:
        return self.steps * self.grad_steps


def batches(case: Case, packed: bool, multiple_of: int) -> list[dict[str, np.ndarray]]:
    """One batch a step; the rows of its micro-batches follow one group after another."""
    from sbs_jax.input_pipeline import batch_plan, packing

    groups = [case.examples(index) for index in range(case.microbatches())]
    sizes = [
        packing.Lengths(
            np.array([len(inputs) for inputs, _, _ in group]),
            np.array([len(targets) for _, targets, _ in group]),
        )
        for group in groups
    ]
    longest = packing.RowLengths(
        max(int(s.inputs.max()) for s in sizes), max(int(s.targets.max()) for s in sizes)
    )
    if packed:
        shape = batch_plan.shape_for(sizes, multiple_of)
        laid = [packing.pack(group, shape.row_lengths, shape.rows) for group in groups]
    else:
        rows = packing.round_up(max(map(len, groups)), multiple_of)
        laid = []
        for group in groups:
            inputs, targets, tasks = zip(*group, strict=True)
            place = packing.one_per_row(len(group))
            laid.append(packing.fill(inputs, targets, np.array(tasks), place, longest, rows))
    steps = [laid[i : i + case.grad_steps] for i in range(0, len(laid), case.grad_steps)]
    return [{key: np.concatenate([b[key] for b in step]) for key in step[0]} for step in steps]


def replay(case: Case, packed: bool, devices: int) -> dict:
    """Trains the recorded steps and decodes the recorded questions; returns the differences."""
    import jax

    from sbs_jax.checkpoints.formats import hf
    from sbs_jax.checkpoints.formats.params import infer_config, read_all
    from sbs_jax.distributed.partitioning import Partitioner
    from sbs_jax.training import losses as objective
    from sbs_jax.training import optimizers, schedules
    from sbs_jax.training import train_step as step

    params = read_all(hf.read(str(case.weights("init"))))
    config = infer_config(params)
    partitioner = Partitioner(devices=jax.devices()[:devices])
    schedule = schedules.create_learning_rate_scheduler(
        "linear_decay", float(case.arrays["lr"][0]), total_steps=case.steps
    )
    preset = "adamw_hf" if case.settings.get("optim", "adamw_hf") == "adamw_hf" else "adamw"
    optimizer = optimizers.create_optimizer(preset, schedule)
    tasks = tuple(objective.TASKS[task - 1] for _, task in case.streams)
    train_step = step.make_train_step(
        config,
        optimizer,
        schedule,
        objective.task_weights(tasks, float(case.settings.get("alpha", 0.5))),
        partitioner,
        num_microbatches=case.grad_steps,
        normalization=step.PER_MICROBATCH,
    )
    state = step.init_state(config, optimizer, partitioner, 0, params)
    losses, norms = [], []
    for batch in batches(case, packed, devices):
        state, metrics = train_step(state, partitioner.put_batch(batch))
        losses.append(float(metrics["loss"]))
        norms.append(float(metrics["grad_norm"]))
    norm_ratio = np.array(norms) / case.arrays["grad_norm"]
    recorded = case.arrays["losses"][:, 0].reshape(case.steps, case.grad_steps).mean(axis=1)
    final = read_all(hf.read(str(case.weights("final"))))
    errors = jax.tree.map(lambda a, b: float(np.abs(np.asarray(a) - b).max()), state.params, final)
    equal, total = decode(case, config, partitioner, jax.device_put(final, partitioner.replicated))
    return {
        "case": case.name,
        "steps": case.steps,
        "max_loss_error": float(np.abs(np.array(losses) - recorded).max()),
        "max_rel_grad_norm_error": float(np.abs(norm_ratio - 1).max()),
        "max_weight_error": max(jax.tree.leaves(errors)),
        "decode_equal": equal,
        "decode_total": total,
    }


class Decoding(NamedTuple):
    """Recorded greedy decoding: padded questions and answers without the start token."""

    tokens: np.ndarray
    ids: np.ndarray


def recorded_decoding(case: Case) -> Decoding | None:
    """What gen_CASE.json holds, or None where the case has none."""
    path = case.vectors / f"gen_{case.name}.json"
    if not path.is_file():
        return None
    recorded = json.loads(path.read_text())
    return Decoding(_padded(recorded["input_ids"]), _padded(recorded["pred_ids"])[:, 1:])


def _padded(rows: list[list[int]]) -> np.ndarray:
    out = np.zeros((len(rows), max(map(len, rows))), np.int32)
    for row, ids in enumerate(rows):
        out[row, : len(ids)] = ids
    return out


def decode(case: Case, config: object, partitioner: object, params: dict) -> tuple[int, int]:
    """(questions whose greedy ids all equal the recorded ones, questions)."""
    from sbs_jax.models import decoding

    recorded = recorded_decoding(case)
    if recorded is None:
        return 0, 0
    count = len(recorded.tokens)
    tokens = np.pad(recorded.tokens, ((0, -count % partitioner.batch_shards), (0, 0)))
    ids = decoding.greedy(
        params,
        partitioner.put_rows(tokens),
        config=config,
        partitioner=partitioner,
        max_decode_length=recorded.ids.shape[1],
    )
    ours = partitioner.fetch(ids)[:count]
    return int((ours == recorded.ids).all(axis=1).sum()), count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vectors", type=Path, required=True, help="folder with the recorded runs")
    parser.add_argument("--case", required=True, help="name of a recorded run, e.g. micro_ga1")
    parser.add_argument("--packed", action="store_true", help="pack the sequences into rows")
    parser.add_argument("--devices", type=int, default=1, help="shard over N (virtual) devices")
    args = parser.parse_args()
    case = Case(args.vectors, args.case)
    flag = f"--xla_force_host_platform_device_count={args.devices}"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}"
    print(json.dumps(replay(case, args.packed, args.devices)))


if __name__ == "__main__":
    main()
