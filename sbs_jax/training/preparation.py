"""Opens and checks what a run reads, before it writes or computes."""

import dataclasses

from sbs_jax.checkpoints import initial
from sbs_jax.checkpoints.manager import newest_checkpoint
from sbs_jax.configs import TrainConfig
from sbs_jax.distributed import multihost
from sbs_jax.distributed.partitioning import Partitioner
from sbs_jax.errors import UserError
from sbs_jax.evaluation import lengths
from sbs_jax.evaluation.evaluator import Evaluator
from sbs_jax.evaluation.lengths import Truncated
from sbs_jax.input_pipeline import data_check, pipeline
from sbs_jax.input_pipeline.batches import Batches
from sbs_jax.input_pipeline.vocabularies import Vocabulary
from sbs_jax.runs import layout, run_dir, score_identity
from sbs_jax.training.phases import Phases
from sbs_jax.utils.console import say


@dataclasses.dataclass(frozen=True)
class Run:
    """The parts of a run before its first step; `config.max_decode_length` is a number."""

    config: TrainConfig
    source: pipeline.Source
    fingerprints: dict[str, str]
    partitioner: Partitioner
    batches: Batches
    evaluator: Evaluator
    truncated: Truncated
    initial_params: dict | None


def prepare(config: TrainConfig, phases: Phases) -> Run:
    """Opens and checks everything a run reads, on all processes, before writing."""
    phases.end("imports")
    with multihost.all_or_none("preparation"):
        source = pipeline.Source.of(config)
        dataset = source.selection.dataset
        fingerprints = source.fingerprints() | score_identity.of_dataset(dataset)
        run_dir.refuse_another(config, fingerprints)
        _refuse_fewer_steps(config)
        partitioner = Partitioner.of(config.partitioner)
        phases.end("devices")
        config = lengths.resolve(config, source)
        batches = _batches(config, source, partitioner)
        evaluator = Evaluator(config, source, partitioner)
        for line in data_check.check(source, config):
            say(line)
        evaluator.open_splits()
        truncated = lengths.truncated(config, source)
        phases.end("data")
        initial_params = _initial_params(config, source.vocabulary)
    run_dir.check_same(config, fingerprints)
    return Run(
        config,
        source,
        fingerprints,
        partitioner,
        batches,
        evaluator,
        truncated,
        initial_params,
    )


def _refuse_fewer_steps(config: TrainConfig) -> None:
    done = newest_checkpoint(layout.checkpoints(config.model_dir))
    if done is not None and done > config.train_steps:
        raise UserError(
            f"TRAIN_STEPS = {config.train_steps}: {config.model_dir} has done {done} updates "
            "already; increase it, or choose another MODEL_DIR"
        )


def _batches(config: TrainConfig, source: pipeline.Source, partitioner: Partitioner) -> Batches:
    """This host's rows of the run's batches."""
    multiple = partitioner.batch_shards * config.partitioner.num_microbatches
    accelerator = partitioner.mesh.devices.flat[0].platform != "cpu"
    batches = pipeline.training_batches(source, config, multiple, accelerator)
    return batches.shard(*partitioner.host_block)


def _initial_params(config: TrainConfig, vocabulary: Vocabulary) -> dict | None:
    # A MODEL_DIR without checkpoints is a run that was killed early: it starts again from here.
    done = newest_checkpoint(layout.checkpoints(config.model_dir))
    if not config.initial_checkpoint_path or done is not None:
        return None
    return initial.load_params(config.initial_checkpoint_path, config.model, vocabulary)
