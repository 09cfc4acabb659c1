"""An experiment's data for upstream T5X: SeqIO tasks made with the macros' settings.

T5X draws label and rationale rows independently from a SeqIO mixture at equal rates; in our own
engine both rows of a question share an update.
"""

from typing import ClassVar

import seqio
import tensorflow as tf
from absl import flags

from sbs_jax.configs import TrainConfig
from sbs_jax.datasets import registry
from sbs_jax.datasets.methods import TASK_ID_FEATURE
from sbs_jax.errors import UserError
from sbs_jax.integrations import seqio_cache, seqio_tasks

TASK_IDS = "decoder_task_ids"

_TASK_IDS_SPEC = seqio.FeatureConverter.FeatureSpec(dtype=tf.int32)
# Both of T5X's launchers and of ours have it; there it names the folder of TFDS.
_DATA_FLAG = "tfds_data_dir"


class TaskIdConverter(seqio.EncDecFeatureConverter):
    """SeqIO's converter, packing included, plus ``decoder_task_ids`` [batch, targets].

    An id is 1 (label) or 2 (rationale) on every target token and 0 on padding, as in our batches.
    """

    TASK_FEATURES: ClassVar = {
        **seqio.EncDecFeatureConverter.TASK_FEATURES,
        TASK_ID_FEATURE: _TASK_IDS_SPEC,
    }
    MODEL_FEATURES: ClassVar = {
        **seqio.EncDecFeatureConverter.MODEL_FEATURES,
        TASK_IDS: _TASK_IDS_SPEC,
    }

    def _convert_example(self, features: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        ids = features[TASK_ID_FEATURE]
        return {**super()._convert_example(features), TASK_IDS: ids}

    def get_model_feature_lengths(self, task_feature_lengths: dict[str, int]) -> dict[str, int]:
        """Lengths of the model's features; task ids are as long as the targets."""
        lengths = super().get_model_feature_lengths(task_feature_lengths)
        return {**lengths, TASK_IDS: task_feature_lengths["targets"]}


def mixture(config: TrainConfig, use_cached: bool = False) -> str:
    """MIXTURE_OR_TASK_NAME, once SeqIO's tasks have the settings of the macros.

    Records are read from --tfds_data_dir, else from $SBS_DATA_DIR.

    Args:
        use_cached: USE_CACHED_TASKS: the training data come from a SeqIO cache, which is checked.

    Raises:
        UserError: for a name that is no task or mixture of ours, a cache of other settings, or a
            setting that T5X's network cannot have.
    """
    if config.shared_encoder:
        raise UserError(
            "SHARED_ENCODER = True: T5X's network starts every decoder alike and pairs each target "
            "with a separate encoding; leave it out, or train with sbs train"
        )
    seqio_tasks.configure(
        vocabulary=config.vocabulary,
        label_prefix=config.label_prefix,
        rationale_prefix=config.rationale_prefix,
        data_fraction=config.data_fraction,
        run=config.random_seed,
        task_ids=True,
        data_dir=_data_dir(),
    )
    selection = registry.resolve(config.mixture_or_task_name)
    for view in selection.views if use_cached else ():
        prefix = f"{(view.prefix or 'label').upper()}_PREFIX"
        seqio_cache.check(f"{selection.dataset.name}_{view.name}", prefix)
    return config.mixture_or_task_name


def _data_dir() -> str | None:
    parsed = flags.FLAGS.is_parsed() and _DATA_FLAG in flags.FLAGS
    return flags.FLAGS[_DATA_FLAG].value if parsed else None


def rows(config: TrainConfig) -> int:
    """Rows of an update: one for each task of every question.

    Without PACK these are BATCH_SIZE label and, in expectation, as many rationale sequences, which
    is what an update of our own engine holds. With PACK a row holds several sequences.
    """
    return config.batch_size * len(registry.resolve(config.mixture_or_task_name).views)


def train_lengths(config: TrainConfig) -> dict[str, int]:
    """TASK_FEATURE_LENGTHS and, for packing, that of the task ids."""
    return _with_task_ids(config.task_feature_lengths)


def eval_lengths(config: TrainConfig) -> dict[str, int]:
    """As `train_lengths`; T5X decodes as many tokens as targets are long."""
    lengths = config.task_feature_lengths
    longest = min(lengths["targets"], config.max_decode_length or lengths["targets"])
    return _with_task_ids({**lengths, "targets": longest})


def _with_task_ids(lengths: dict[str, int]) -> dict[str, int]:
    return {**lengths, TASK_ID_FEATURE: lengths["targets"]}
