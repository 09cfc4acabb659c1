"""A student's confidence on every question of a pool."""

import itertools
from collections.abc import Callable, Iterable, Mapping

from sbs_jax.datasets.records import Record
from sbs_jax.inference import confidence
from sbs_jax.inference.predictor import Predictor
from sbs_jax.inference.student import find_run
from sbs_jax.utils.console import Progress

_CHUNK_BATCHES = 16


def confidences(
    model_dir: str, inputs: Mapping[str, Callable[[], Iterable[Record]]]
) -> dict[tuple[str, str], float]:
    """(Split, id) -> the probability of the student's label, as `sbs predict --confidence` has it.

    Raises UserError where MODEL_DIR holds no run.
    """
    student = find_run(model_dir)
    labels = confidence.closed_set(model_dir, student.checkpoint.step)
    predictor = Predictor(student, labels=labels)
    progress = Progress("confidence", unit="questions")
    sure: dict[tuple[str, str], float] = {}
    for split, read in inputs.items():
        records = iter(read())
        while chunk := list(itertools.islice(records, predictor.batch_size * _CHUNK_BATCHES)):
            answers = predictor.answer(chunk, with_rationales=False, confidence=True)
            for record, answer in zip(chunk, answers, strict=True):
                sure[split, record.id] = float(str(answer[confidence.CONFIDENCE]))
            progress.update(len(sure))
    return sure
