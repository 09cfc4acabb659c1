"""The PyTorch loops that `bench_gpu.py` compares with: a process that updates on demand.

    python benchmarks/gpu_torch.py FOLDER eager|compile|graphs

* ``eager``: the original's loop: each task in its own forward pass, dynamic padding.
* ``compile``: the same through torch.compile, all batches padded to the same widths.
* ``graphs``: both tasks in one forward pass of fixed widths, with CUDA graphs (reduce-overhead).

All: bfloat16 autocast on a GPU, SDPA, fused AdamW, clipping. Commands as in `gpu_ours.py`.
"""

import json
import pathlib
import sys
import time

import numpy as np
import torch
from transformers import AutoModelForSeq2SeqLM

FOLDER, VARIANT = pathlib.Path(sys.argv[1]), sys.argv[2]
CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"
FIXED = VARIANT != "eager"

torch.manual_seed(0)
torch.set_flush_denormal(True)
model = AutoModelForSeq2SeqLM.from_pretrained(FOLDER / "model").to(DEVICE)
assert model.lm_head.weight is not model.shared.weight, "the head must be a separate parameter"
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.0, fused=True)
if VARIANT == "compile":
    forward = torch.compile(model, dynamic=False)
elif VARIANT == "graphs":
    forward = torch.compile(model, dynamic=False, mode="reduce-overhead")
else:
    forward = model

stored = np.load(FOLDER / "questions.npz")
parts = {name: [row[row > 0] for row in stored[name]] for name in ("inputs", "label", "rationale")}
batches = stored["members"]
widths = {name: -(-max(map(len, rows)) // 8) * 8 for name, rows in parts.items()}


def padded(name: str, members: np.ndarray, fill: int, width: int = 0) -> torch.Tensor:
    rows = [parts[name][i] for i in members]
    width = width or (widths[name] if FIXED else max(map(len, rows)))
    out = np.full((len(rows), width), fill, np.int64)
    for place, row in enumerate(rows):
        out[place, : len(row)] = row
    return torch.from_numpy(out).to(DEVICE, non_blocking=True)


def mean_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.cross_entropy(
        logits.float().reshape(-1, logits.shape[-1]), labels.reshape(-1), ignore_index=-100
    )


def loss_of(members: np.ndarray) -> torch.Tensor:
    ids = padded("inputs", members, 0)
    with torch.autocast(DEVICE, torch.bfloat16, enabled=CUDA):
        if VARIANT == "graphs":
            width = widths["rationale"]
            labels = [padded(task, members, -100, width) for task in ("label", "rationale")]
            both = ids.repeat(2, 1)
            logits = forward(
                input_ids=both, attention_mask=(both > 0).long(), labels=torch.cat(labels)
            ).logits
            halves = zip(logits.chunk(2), labels, strict=True)
            return sum(0.5 * mean_loss(*half) for half in halves)
        mask = (ids > 0).long()
        return sum(
            0.5
            * forward(input_ids=ids, attention_mask=mask, labels=padded(task, members, -100)).loss
            for task in ("label", "rationale")
        )


def finish() -> None:
    if CUDA:
        torch.cuda.synchronize()


def update(index: int) -> torch.Tensor:
    if VARIANT == "graphs":
        torch.compiler.cudagraph_mark_step_begin()
    loss = loss_of(batches[index % len(batches)])
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss.detach()


done = 0
for line in sys.stdin:
    count = json.loads(line).get("updates", 0)
    finish()
    start = time.perf_counter()
    if count:
        model.train()
        for index in range(done, done + count):
            loss = update(index)
        done += count
    else:
        model.train(False)
        with torch.no_grad():
            loss = loss_of(batches[0])
    finish()
    seconds = time.perf_counter() - start
    peak = torch.cuda.max_memory_allocated() if CUDA else 0
    answer = {"seconds": seconds, "input_seconds": 0.0, "loss": float(loss), "peak_bytes": peak}
    print(json.dumps(answer), flush=True)
