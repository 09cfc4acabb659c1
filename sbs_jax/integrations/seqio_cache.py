"""Refuses a SeqIO cache made with other settings: SeqIO finds a cache by the task's name alone."""

from typing import Any

import seqio

from sbs_jax.datasets.registry import TRAIN
from sbs_jax.errors import UserError

_MAKE_AGAIN = "make the cache again with these settings, or set USE_CACHED_TASKS = False"


def check(name: str, prefix_macro: str) -> None:
    """Compares the cached training split of a task with what its settings give now.

    Compared are the number of examples and, of the first cached one, its text and tokens.

    Args:
        prefix_macro: LABEL_PREFIX or RATIONALE_PREFIX, whichever the task's inputs begin with.

    Raises:
        UserError: naming the setting that differs, and the cache.
    """
    task = seqio.TaskRegistry.get(name)
    count = task.get_cached_stats(TRAIN)["examples"]
    now = {
        example["id"]: example
        for example in task.source.get_dataset(TRAIN, shuffle=False).as_numpy_iterator()
    }
    where = f"the cache of {name} in {task.cache_dir}"
    if count != len(now):
        raise UserError(
            f"{where} holds {count} training examples, DATA_FRACTION and the data give "
            f"{len(now)}; {_MAKE_AGAIN}"
        )
    cached = _first(task)
    if cached["id"] not in now:
        raise UserError(
            f"{where} holds other questions: DATA_FRACTION, RANDOM_SEED or the data differ; "
            f"{_MAKE_AGAIN}"
        )
    for feature, macro in (("inputs", prefix_macro), ("targets", "MIXTURE_OR_TASK_NAME")):
        _check_feature(task, feature, cached, now[cached["id"]][feature], where, macro)


def _first(task: seqio.Task) -> dict[str, Any]:
    examples = task.get_dataset(None, TRAIN, use_cached=True, shuffle=False)
    return next(examples.take(1).as_numpy_iterator())


def _check_feature(
    task: seqio.Task,
    feature: str,
    cached: dict[str, Any],
    text: bytes,
    where: str,
    macro: str,
) -> None:
    before = cached[f"{feature}_pretokenized"]
    if before != text:
        raise UserError(
            f"{where} was made with another {macro} or other data: {before.decode()!r}, now "
            f"{text.decode()!r}; {_MAKE_AGAIN}"
        )
    vocabulary = task.output_features[feature].vocabulary
    # A text may hold EOS inside, which the vocabulary's own encoding does not write.
    ids = [token for token in cached[feature].tolist() if token != vocabulary.eos_id]
    if vocabulary.decode(ids) != vocabulary.decode(vocabulary.encode(text.decode())):
        raise UserError(f"{where} was made with another VOCABULARY; {_MAKE_AGAIN}")
