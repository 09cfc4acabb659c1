"""T5X's own T5, trained on our objective."""

import dataclasses
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from clu import metrics as clu_metrics
from t5x import decoding, models, optimizers
from t5x.examples.t5 import network

from sbs_jax.configs import T5Config, TrainConfig
from sbs_jax.datasets import registry
from sbs_jax.errors import UserError
from sbs_jax.integrations import seqio_tasks, t5x_settings
from sbs_jax.integrations.t5x_data import TASK_IDS, TaskIdConverter
from sbs_jax.training import losses

# In a batch: the whole update's target tokens of each task, repeated in every row, so that a
# micro-batch is normalised by them (`t5x_training.Trainer`).
TASK_COUNTS = "task_counts"

_OBJECTIVE_NEEDS = ("decoder_target_tokens", "decoder_loss_weights", TASK_IDS)
# They change how an update is computed, not what it is; T5X's network computes it in its own way.
_OF_OUR_MODEL = ("remat_policy", "scan_layers")
_NO_TOKENS = 1e-9  # keeps 0 tokens from being 0 / 0 in a log; next to one token it rounds away


class Student(models.EncoderDecoderModel):
    """A T5X model whose loss is `losses.weighted_loss`: each task is the mean over its own tokens.

    Args:
        optimizer_def: None where nothing is trained.
        decode_fn: T5X's sampler takes the likeliest token each time, as our engine does; its beam
            search with one beam may pass over an early end.
    """

    FEATURE_CONVERTER_CLS = TaskIdConverter

    def __init__(
        self,
        config: TrainConfig,
        optimizer_def: optimizers.OptimizerDef | None = None,
        decode_fn: Callable = decoding.temperature_sample,
    ) -> None:
        t5x_settings.check_command_line()
        t5x_settings.notice(config)
        vocabulary = seqio_tasks.seqio_vocabulary(config.vocabulary)
        super().__init__(
            module=network.Transformer(config=network_config(config.model)),
            input_vocabulary=vocabulary,
            output_vocabulary=vocabulary,
            optimizer_def=optimizer_def,
            decode_fn=decode_fn,
        )
        views = registry.resolve(config.mixture_or_task_name).views
        tasks = tuple(view.task_id.key for view in views)
        self._task_weights = losses.task_weights(tasks, config.alpha)

    def loss_fn(
        self,
        params: Mapping,
        batch: Mapping[str, jax.Array],
        dropout_rng: jax.Array | None,
    ) -> tuple[jax.Array, dict[str, clu_metrics.Metric]]:
        """The scalar to minimise, and T5X's metrics with loss and token accuracy of each task."""
        logits = self._compute_logits(params, batch, dropout_rng)
        needed = {name: batch[name] for name in _OBJECTIVE_NEEDS}
        loss_sums, num_correct = losses.task_sums(logits, needed)
        counts = losses.task_counts(needed)
        whole = batch[TASK_COUNTS][0] if TASK_COUNTS in batch else counts
        loss = losses.weighted_loss(loss_sums, whole, self._task_weights)
        metrics = self._compute_metrics(
            logits=logits,
            targets=batch["decoder_target_tokens"],
            mask=batch["decoder_loss_weights"],
            loss=loss,
            segment_ids=_segments(batch),
        )
        for task, name in enumerate(losses.TASKS):
            count = jnp.maximum(counts[task], _NO_TOKENS)
            for kind, sums in (("loss", loss_sums), ("accuracy", num_correct)):
                metrics[f"{name}/{kind}"] = clu_metrics.Average(total=sums[task], count=count)
        return loss, metrics


def network_config(config: T5Config) -> network.T5Config:
    """Our sizes as T5X's.

    Raises:
        UserError: for a setting that changes the result and that T5X's network has not.
    """
    known = {field.name for field in dataclasses.fields(network.T5Config)}
    values = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name in known:
            values[field.name] = value
        elif value != field.default and field.name not in _OF_OUR_MODEL:
            raise UserError(
                f"T5Config.{field.name} = {value!r}: T5X's network has no such setting; leave it "
                f"at {field.default!r} or train with sbs train"
            )
    return network.T5Config(**values, float32_attention_logits=True)


def _segments(batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """What T5X computes packing and padding from: segments, or the tokens of unpacked rows."""
    ending = "_segment_ids"
    segments = {
        name.removesuffix(ending): ids for name, ids in batch.items() if name.endswith(ending)
    }
    tokens = ("encoder_input_tokens", "decoder_target_tokens")
    return segments or {name: batch[name] != 0 for name in tokens}
