"""What a run tells while it trains: metrics.jsonl, TensorBoard events and a progress line."""

import json
from collections.abc import Mapping
from pathlib import Path

from sbs_jax.utils import console
from sbs_jax.utils.console import duration, say


class MetricsLog:
    """Appends one JSON object per logged step, the same scalars to TensorBoard, a line to stderr.

    Of several processes the first writes, the others write nothing.

    A run that continues from `start_step` first drops the lines of later steps: those updates are
    done again, and a step stands in the file once.
    """

    def __init__(self, model_dir: Path, start_step: int, train_steps: int) -> None:
        self.path = model_dir / "metrics.jsonl"
        self._events = None
        self._train_steps = train_steps
        if not console.is_primary():
            return
        from tensorboardX import SummaryWriter  # seconds of protobuf imports; only a run needs it

        self._drop_after(start_step)
        self._events = SummaryWriter(str(model_dir / "train"), purge_step=start_step + 1)

    def _drop_after(self, step: int) -> None:
        if not self.path.exists():
            return
        kept = []
        for line in self.path.read_text(encoding="utf-8").splitlines():
            try:
                logged = json.loads(line)["step"]
            except (ValueError, KeyError):
                continue  # the torn last line of a killed run
            if logged <= step:
                kept.append(line + "\n")
        partial = self.path.with_suffix(".tmp")
        partial.write_text("".join(kept), encoding="utf-8")
        partial.replace(self.path)

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """One object of metrics.jsonl and one point per TensorBoard curve."""
        if self._events is None:
            return
        rounded = {name: float(f"{value:.9g}") for name, value in scalars.items()}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **rounded}) + "\n")
        for name, value in rounded.items():
            self._events.add_scalar(name, value, step)

    def progress(self, step: int, scalars: Mapping[str, float], seconds_left: float | None) -> None:
        """One line: step, losses per task and, once it is known, speed and the time left."""
        losses = "  ".join(
            f"{name.removesuffix('/loss')} {value:.4f}"
            for name, value in scalars.items()
            if name.endswith("loss")
        )
        pace = ""
        if seconds_left is not None:
            speed = scalars["examples_per_second"]
            pace = f"  {speed:.1f} examples/s  ETA {duration(seconds_left)}"
        say(f"step {step}/{self._train_steps}  {losses}{pace}")

    def close(self) -> None:
        if self._events is not None:
            self._events.close()
