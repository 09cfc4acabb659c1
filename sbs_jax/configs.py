"""Everything a run can be told, as plain dataclasses: what gin binds, checks and writes down.

No framework is imported here, so that `sbs train --dry_run` answers at once.
"""

import dataclasses
from collections.abc import Mapping, Sequence

from sbs_jax.errors import UserError

# T5X's names; `optimizers.create_learning_rate_scheduler` says what they mean.
LEARNING_RATE_FACTORS = (
    "constant",
    "linear_warmup",
    "linear_decay",
    "rsqrt_decay",
    "rsqrt_normalized_decay",
    "decay_every",
    "cosine_decay",
)


MESH_AXES = ("data", "fsdp", "model")


def _is_mesh_axis(value: object) -> bool:
    return value is None or value in MESH_AXES


def _require(condition: bool, macro: str, value: object, rule: str) -> None:
    if not condition:
        raise UserError(f"{macro} = {value!r}: must be {rule}")


@dataclasses.dataclass(frozen=True)
class T5Config:
    """Sizes of a T5; field names are T5X's ``network.T5Config``.

    Attributes:
        vocab_size: embedding rows V, a multiple of 128 in all public checkpoints.
        mlp_activations: one entry for T5 1.0 (``("relu",)``), two for the gated v1.1 block.
        logits_via_embedding: T5 1.0 ties the logits to the embedding and scales them by D**-0.5.
        dtype: of the computation; softmax and logits are float32 always.
        param_dtype: of the matrices between the updates. "bfloat16" halves their memory; updates
            are then rounded stochastically (`rounding`), optimizer slots stay float32.
        remat_policy: what a layer keeps for the backward pass: "none" keeps all it needs,
            "minimal" the results of its matrix products with parameters, "full" its input alone.
        scan_layers: compile one layer of a stack and loop over it. The program of a deep model is
            made faster, and remat and fsdp really work layer by layer; costs a copy of the layers'
            parameters in dtype. Needs a remat policy: a loop would keep every value in between.
    """

    vocab_size: int
    emb_dim: int
    num_heads: int
    num_encoder_layers: int
    num_decoder_layers: int
    head_dim: int
    mlp_dim: int
    mlp_activations: tuple[str, ...] = ("gelu", "linear")
    dropout_rate: float = 0.0
    logits_via_embedding: bool = False
    dtype: str = "float32"
    param_dtype: str = "float32"
    remat_policy: str = "none"
    scan_layers: bool = False

    def __post_init__(self) -> None:
        # gin has no tuples of its own, and a config must be hashable: jit takes it as static.
        object.__setattr__(self, "mlp_activations", tuple(self.mlp_activations))
        for macro, dtype in (("DTYPE", self.dtype), ("PARAM_DTYPE", self.param_dtype)):
            _require(dtype in ("float32", "bfloat16"), macro, dtype, "float32 or bfloat16")
        policies = ("none", "minimal", "full")
        known = self.remat_policy in policies
        _require(known, "REMAT_POLICY", self.remat_policy, f"one of {', '.join(policies)}")
        fits = not self.scan_layers or self.remat_policy != "none"
        _require(fits, "REMAT_POLICY", "none", "minimal or full with SCAN_LAYERS = True")
        _require(0 <= self.dropout_rate < 1, "DROPOUT_RATE", self.dropout_rate, "from 0 to below 1")


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """An optimizer preset and its schedule; see `optimizers` for the meaning of the names.

    Attributes:
        preset: adamw, adamw_hf (the original's) or adafactor.
        factors: T5X's learning-rate factors; linear_decay alone is the paper's schedule.
        end_factor: what linear_decay ends at, as a share of the learning rate.
        weight_decay: decoupled, on every parameter.
        clip_norm: bound of the global gradient norm; None does not clip.
    """

    preset: str = "adamw"
    learning_rate: float = 5e-5
    factors: str = "linear_decay"
    warmup_steps: int = 0
    end_factor: float = 0.0
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0
    clip_norm: float | None = 1.0

    def __post_init__(self) -> None:
        presets = ("adamw", "adamw_hf", "adafactor")
        _require(self.preset in presets, "OPTIMIZER", self.preset, f"one of {', '.join(presets)}")
        for name in self.factor_names:
            known = ", ".join(LEARNING_RATE_FACTORS)
            _require(name in LEARNING_RATE_FACTORS, "LEARNING_RATE_FACTORS", name, known)
        _require(self.learning_rate > 0, "LEARNING_RATE", self.learning_rate, "more than 0")
        _require(self.warmup_steps >= 0, "WARMUP_STEPS", self.warmup_steps, "0 or more")

    @property
    def factor_names(self) -> list[str]:
        """The single factors of `factors`, which are multiplied."""
        return [name.strip() for name in self.factors.split("*")]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PartitionerConfig:
    """Sizes of the mesh; the data axis takes the devices that are left.

    Attributes:
        num_partitions: devices over which heads, mlp and vocabulary are split (T5X's name).
        fsdp: devices over which parameters and optimizer slots are split besides.
        num_microbatches: groups in which a batch is worked, to save memory; changes no result.
        logical_axis_rules: extra (logical axis, mesh axis) pairs, before the default ones
            (`partitioning.DEFAULT_RULES`).
    """

    num_partitions: int = 1
    fsdp: int = 1
    num_microbatches: int = 1
    logical_axis_rules: tuple[tuple[str, str | None], ...] = ()

    def __post_init__(self) -> None:
        for name in ("num_partitions", "fsdp", "num_microbatches"):
            value = getattr(self, name)
            _require(isinstance(value, int) and value > 0, name, value, "a whole number above 0")
        for rule in self.logical_axis_rules:
            good = isinstance(rule, tuple | list) and len(rule) == 2 and _is_mesh_axis(rule[1])
            meaning = f'("LOGICAL_AXIS", AXIS), AXIS one of {", ".join(MESH_AXES)} or None'
            _require(good, "logical_axis_rules", rule, meaning)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One run. The macro that sets a field stands behind it.

    Attributes:
        model_dir: MODEL_DIR. The same command with the same folder continues the run.
        mixture_or_task_name: MIXTURE_OR_TASK_NAME; `sbs tasks` lists them.
        task_feature_lengths: TASK_FEATURE_LENGTHS, {"inputs": .., "targets": ..}: tokens after
            which a sequence is cut, its EOS kept.
        train_steps: TRAIN_STEPS, updates in all.
        model: MODEL.
        vocabulary: VOCABULARY: "t5", "mt5", "bytes", "demo" or the path of a SentencePiece model.
        initial_checkpoint_path: INITIAL_CHECKPOINT_PATH, or None to start from random parameters.
        batch_size: BATCH_SIZE, questions per update; each brings its label and its rationale.
        alpha: ALPHA, the weight of the label task against the rationale task.
        data_fraction: DATA_FRACTION of the training questions, by the original's rule.
        random_seed: RANDOM_SEED of parameters, data order, dropout and data fraction.
        eval_period: EVAL_PERIOD, updates between evaluations on validation, and checkpoints.
        eval_batch_size: questions decoded at a time.
        eval_num_examples: EVALUATOR_NUM_EXAMPLES, at most so many of a split; None for all.
        max_decode_length: most new tokens of a decoded answer; None for the targets' length.
        output_rationale: OUTPUT_RATIONALE: the final predictions file holds the student's
            rationales too.
        label_prefix, rationale_prefix: LABEL_PREFIX, RATIONALE_PREFIX.
        pack: PACK several sequences into a row; changes the speed, never the result.
        row_lengths: ROW_LENGTHS, (encoder, decoder) tokens of a packed row; None chooses them.
        log_period: updates between two lines of metrics.jsonl.
        keep_latest: newest checkpoints kept.
        keep_best: checkpoints kept besides, the best on validation.
        checkpoint_period: CHECKPOINT_PERIOD, updates between checkpoints without an evaluation;
            None saves with every evaluation only.
        on_nonfinite: "stop" at an update whose loss or gradient is not finite, or "skip" it:
            parameters and optimizer slots stay as they were, or "reduce": skip it and halve the
            learning rate for the rest of the run. The tenth in a row stops the run.
    """

    model_dir: str
    mixture_or_task_name: str
    task_feature_lengths: dict[str, int]
    train_steps: int
    model: T5Config
    vocabulary: str
    initial_checkpoint_path: str | None = None
    optimizer: OptimizerConfig = OptimizerConfig()
    partitioner: PartitionerConfig = PartitionerConfig()
    batch_size: int = 64
    alpha: float = 0.5
    data_fraction: float = 1.0
    random_seed: int = 0
    eval_period: int = 1000
    eval_batch_size: int = 64
    eval_num_examples: int | None = None
    max_decode_length: int | None = 63
    output_rationale: bool = False
    label_prefix: str = "[label] "
    rationale_prefix: str = "[rationale] "
    pack: bool = True
    row_lengths: tuple[int, int] | None = None
    log_period: int = 50
    keep_latest: int = 1
    keep_best: int = 1
    checkpoint_period: int | None = None
    on_nonfinite: str = "stop"

    def __post_init__(self) -> None:
        for macro, value in (
            ("MODEL_DIR", self.model_dir),
            ("MIXTURE_OR_TASK_NAME", self.mixture_or_task_name),
            ("VOCABULARY", self.vocabulary),
            ("INITIAL_CHECKPOINT_PATH", self.initial_checkpoint_path or ""),
            ("LABEL_PREFIX", self.label_prefix),
            ("RATIONALE_PREFIX", self.rationale_prefix),
        ):
            _require(isinstance(value, str), macro, value, "a string")
        lengths = self.task_feature_lengths
        for name in ("inputs", "targets"):
            good = isinstance(lengths, dict) and isinstance(lengths.get(name), int)
            _require(
                good and lengths[name] > 1,
                "TASK_FEATURE_LENGTHS",
                lengths,
                '{"inputs": tokens, "targets": tokens}, both above 1',
            )
        for macro, value in (
            ("TRAIN_STEPS", self.train_steps),
            ("BATCH_SIZE", self.batch_size),
            ("EVAL_PERIOD", self.eval_period),
            ("CHECKPOINT_PERIOD", self.checkpoint_period or 1),
            ("TrainConfig.keep_latest", self.keep_latest),
            ("TrainConfig.keep_best", self.keep_best),
        ):
            _require(isinstance(value, int) and value > 0, macro, value, "a whole number above 0")
        handled = self.on_nonfinite in ("stop", "skip", "reduce")
        rule = "'stop', 'skip' or 'reduce'"
        _require(handled, "TrainConfig.on_nonfinite", self.on_nonfinite, rule)
        _require(0 <= self.alpha <= 1, "ALPHA", self.alpha, "from 0 to 1")
        _require(0 < self.data_fraction <= 1, "DATA_FRACTION", self.data_fraction, "above 0, to 1")
        _require(isinstance(self.model, T5Config), "MODEL", self.model, "a T5Config")


@dataclasses.dataclass(frozen=True, kw_only=True)
class StudyConfig:
    """A grid of runs: every arm on every fraction of the data with every seed.

    Attributes:
        study_dir: STUDY_DIR. The same command with the same folder does what is missing.
        arms: the gin files of an experiment (a name or a list) by the name of what is compared.
            ``standard`` and ``step_by_step`` are names the report knows.
        fractions: DATA_FRACTION of the runs.
        seeds: RANDOM_SEED of the runs: two or more, or there is no interval over seeds.
        bindings: gin bindings of all runs, e.g. ``TRAIN_STEPS = 300``.
        arm_bindings: more of them, by arm.
        workers: runs trained side by side. With more than one each gets a CPU thread of its own
            and no accelerator; one run uses every device there is.
    """

    study_dir: str
    arms: Mapping[str, str | Sequence[str]]
    fractions: Sequence[float] = (1.0,)
    seeds: Sequence[int] = (0, 1, 2)
    bindings: Sequence[str] = ()
    arm_bindings: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)
    workers: int = 1

    def __post_init__(self) -> None:
        _require(isinstance(self.study_dir, str), "STUDY_DIR", self.study_dir, "a string")
        rule = '{"NAME": "experiments/FILE.gin", ...}'
        _require(isinstance(self.arms, dict) and bool(self.arms), "arms", self.arms, rule)
        for name in ("fractions", "seeds"):
            values = getattr(self, name)
            good = bool(values) and len(set(values)) == len(values)
            _require(good, name, values, "values, each once")
        for arm in self.arm_bindings:
            known = ", ".join(self.arms)
            _require(arm in self.arms, "arm_bindings", arm, f"about one of the arms, {known}")
        good = isinstance(self.workers, int) and self.workers > 0
        _require(good, "workers", self.workers, "a whole number above 0")
