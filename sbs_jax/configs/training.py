"""One training run: its optimizer, its mesh and everything else that gin binds.

No framework is imported here, so that ``sbs train --dry_run`` answers at once.
"""

import dataclasses
from collections.abc import Sequence

from sbs_jax.configs.model import T5Config
from sbs_jax.configs.validation import (
    ABOVE_0,
    BELOW_1,
    COUNT,
    FRACTION,
    FROM_0,
    Rule,
    check,
    described,
    one_of,
    require,
    setting,
)
from sbs_jax.utils.paths import expand

# T5X's names; `training.schedules.create_learning_rate_scheduler` says what they mean.
LEARNING_RATE_FACTORS = (
    "constant",
    "linear_warmup",
    "linear_decay",
    "rsqrt_decay",
    "rsqrt_normalized_decay",
    "decay_every",
    "cosine_decay",
)
# The factors that hold LEARNING_RATE; without one the rate starts at 1, with two at its square.
_BASE_RATES = ("constant", "linear_decay")

MESH_AXES = ("data", "fsdp", "model")

AxisRules = Sequence[tuple[str, str | tuple[str, ...] | None]]

# Logical axis (T5X's names) to mesh axis or axes. A mesh axis is used once per array: an
# activation's "embed" stays whole where "batch" took fsdp.
DEFAULT_RULES: AxisRules = (
    ("batch", ("data", "fsdp")),
    ("vocab", "model"),
    ("mlp", "model"),
    ("heads", "model"),
    ("joined_kv", "model"),
    ("embed", "fsdp"),
    ("kv", None),
    ("length", None),
    ("relpos_buckets", None),
)

_LOGICAL_AXES = ", ".join(axis for axis, _ in DEFAULT_RULES)
_PAIR = (
    f'("LOGICAL_AXIS", AXIS), LOGICAL_AXIS one of {_LOGICAL_AXES}, '
    f"AXIS one of {', '.join(MESH_AXES)} or None"
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """An optimizer preset and its schedule; `training.optimizers` explains the names.

    Attributes:
        preset: OPTIMIZER: adamw, adamw_hf (the original's) or adafactor.
        learning_rate: LEARNING_RATE, the rate that the factors scale.
        factors: LEARNING_RATE_FACTORS, T5X's names joined by ``*``; linear_decay alone is the
            paper's schedule.
        warmup_steps: WARMUP_STEPS.
        steps_per_cycle: updates of one cycle of cosine_decay; None: TRAIN_STEPS - WARMUP_STEPS.
        steps_per_decay: updates after which decay_every halves the rate.
        end_factor: END_FACTOR, the fraction of the learning rate at which linear_decay ends.
        b2: ADAM_B2.
        weight_decay: WEIGHT_DECAY, decoupled, on every parameter.
        clip_norm: maximum of the global gradient norm; None or 0 does not clip.
    """

    preset: str = setting("adamw", macro="OPTIMIZER", rule=one_of("adamw", "adamw_hf", "adafactor"))
    learning_rate: float = setting(5e-5, macro="LEARNING_RATE", rule=ABOVE_0)
    factors: str = setting("linear_decay", macro="LEARNING_RATE_FACTORS")
    warmup_steps: int = setting(0, macro="WARMUP_STEPS", rule=FROM_0)
    steps_per_cycle: int | None = setting(None, rule=COUNT)
    steps_per_decay: int = setting(20_000, rule=COUNT)
    end_factor: float = setting(0.0, macro="END_FACTOR", rule=FRACTION)
    b1: float = setting(0.9, rule=BELOW_1)
    b2: float = setting(0.999, macro="ADAM_B2", rule=BELOW_1)
    eps: float = setting(1e-8, rule=FROM_0)
    weight_decay: float = setting(0.0, macro="WEIGHT_DECAY", rule=FROM_0)
    clip_norm: float | None = setting(1.0, rule=FROM_0)

    def __post_init__(self) -> None:
        check(self)
        for name in self.factor_names:
            known = ", ".join(LEARNING_RATE_FACTORS)
            require(name in LEARNING_RATE_FACTORS, "LEARNING_RATE_FACTORS", name, known)
        rates = [name for name in self.factor_names if name in _BASE_RATES]
        one = f"a product with one base rate, {' or '.join(_BASE_RATES)}"
        require(len(rates) == 1, "LEARNING_RATE_FACTORS", self.factors, one)

    @property
    def factor_names(self) -> list[str]:
        """The single factors of `factors`, which are multiplied."""
        return [name.strip() for name in self.factors.split("*")]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PartitionerConfig:
    """Sizes of the mesh; the data axis takes the remaining devices.

    Attributes:
        num_partitions: devices over which heads, mlp and vocabulary are split (T5X's name).
        fsdp: devices over which parameters and optimizer slots are split in addition.
        num_microbatches: groups in which a batch is processed, to save memory; changes no result.
        logical_axis_rules: extra (logical axis, mesh axis) pairs, applied before `DEFAULT_RULES`.
    """

    num_partitions: int = setting(1, rule=COUNT)
    fsdp: int = setting(1, rule=COUNT)
    num_microbatches: int = setting(1, rule=COUNT)
    logical_axis_rules: tuple[tuple[str, str | None], ...] = setting(
        (), rule=described(f"pairs {_PAIR}")
    )

    def __post_init__(self) -> None:
        check(self)
        for rule in self.logical_axis_rules:
            good = rule[0] in dict(DEFAULT_RULES) and rule[1] in (*MESH_AXES, None)
            require(good, "PartitionerConfig.logical_axis_rules", rule, _PAIR)

    @property
    def rules(self) -> AxisRules:
        """All rules, the most specific ones first."""
        return (*self.logical_axis_rules, *DEFAULT_RULES)


_LENGTHS = Rule(
    lambda lengths: set(lengths) == {"inputs", "targets"} and min(lengths.values()) > 1,
    '{"inputs": tokens, "targets": tokens} alone, both above 1',
)
# jax folds more bits than these away when it makes a key.
_SEED = Rule(lambda seed: 0 <= seed < 2**32, "from 0 to below 2**32")
_ROW_LENGTHS = Rule(lambda lengths: min(lengths) > 0, "(inputs, targets), both above 0")
_ON_NONFINITE = Rule(lambda name: name in ("stop", "skip", "reduce"), "'stop', 'skip' or 'reduce'")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One run. Each field's description begins with the macro that sets it, if it has one.

    Attributes:
        model_dir: MODEL_DIR. The same command with the same folder continues the run.
        mixture_or_task_name: MIXTURE_OR_TASK_NAME; `sbs tasks` lists them.
        task_feature_lengths: TASK_FEATURE_LENGTHS, {"inputs": .., "targets": ..}: tokens after
            which a sequence is truncated, its EOS kept.
        train_steps: TRAIN_STEPS, counted from the start of fine-tuning.
        model: MODEL.
        vocabulary: VOCABULARY: "t5", "mt5", "bytes", "demo" or the path of a SentencePiece model.
        initial_checkpoint_path: INITIAL_CHECKPOINT_PATH, or None to start from random parameters.
        batch_size: BATCH_SIZE, examples per step; each brings its label and its rationale.
        alpha: ALPHA, the weight of the label task against the rationale task.
        data_fraction: DATA_FRACTION of the training examples, by the original's rule.
        random_seed: RANDOM_SEED of parameters, data order, dropout and data fraction.
        eval_period: EVAL_PERIOD, steps between evaluations on validation, and checkpoints.
        eval_batch_size: examples decoded at a time.
        eval_num_examples: EVALUATOR_NUM_EXAMPLES, the maximum number of examples per split; None
            evaluates all.
        max_decode_length: MAX_DECODE_LENGTH, the maximum number of new tokens of a decoded answer;
            None takes the longest label target of the training file (`evaluation.lengths`).
        output_rationale: OUTPUT_RATIONALE: the final predictions file holds the student's
            rationales too.
        rationales: RATIONALES, of an example with several: "draw" trains on one per epoch, drawn
            from (RANDOM_SEED, epoch, id), "all" on all of them, "first" on the first.
        label_prefix, rationale_prefix: LABEL_PREFIX, RATIONALE_PREFIX.
        shared_encoder: SHARED_ENCODER, ours and not the paper's: a question is encoded once,
            without a prefix, and the decoder's first token names the task.
        max_unknown: maximum fraction of unknown ids in questions, labels or rationales of the
            training data.
        pack: PACK several sequences into a row; changes the speed, never the result.
        row_lengths: (encoder, decoder) tokens of a packed row; None chooses them.
        log_period: steps between two lines of metrics.jsonl.
        keep_latest: number of newest checkpoints kept.
        keep_best: number of checkpoints kept in addition, the best on validation.
        checkpoint_period: CHECKPOINT_PERIOD, steps between checkpoints without an evaluation;
            None saves with every evaluation only.
        on_nonfinite: "stop" at a step whose loss or gradient is not finite, or "skip" it:
            parameters and optimizer slots stay as they were, or "reduce": skip it and halve the
            learning rate for the rest of the run. The tenth in a row stops the run.
    """

    model_dir: str = setting(macro="MODEL_DIR", path=expand)
    mixture_or_task_name: str = setting(macro="MIXTURE_OR_TASK_NAME")
    task_feature_lengths: dict[str, int] = setting(macro="TASK_FEATURE_LENGTHS", rule=_LENGTHS)
    train_steps: int = setting(macro="TRAIN_STEPS", rule=COUNT)
    model: T5Config = setting(macro="MODEL")
    vocabulary: str = setting(macro="VOCABULARY", path=expand)
    initial_checkpoint_path: str | None = setting(
        None, macro="INITIAL_CHECKPOINT_PATH", path=expand
    )
    optimizer: OptimizerConfig = OptimizerConfig()
    partitioner: PartitionerConfig = PartitionerConfig()
    batch_size: int = setting(64, macro="BATCH_SIZE", rule=COUNT)
    alpha: float = setting(0.5, macro="ALPHA", rule=FRACTION)
    data_fraction: float = setting(
        1.0, macro="DATA_FRACTION", rule=Rule(lambda x: 0 < x <= 1, "above 0, to 1")
    )
    random_seed: int = setting(0, macro="RANDOM_SEED", rule=_SEED)
    eval_period: int = setting(1000, macro="EVAL_PERIOD", rule=COUNT)
    eval_batch_size: int = setting(64, rule=COUNT)
    eval_num_examples: int | None = setting(None, macro="EVALUATOR_NUM_EXAMPLES", rule=COUNT)
    max_decode_length: int | None = setting(None, macro="MAX_DECODE_LENGTH", rule=COUNT)
    output_rationale: bool = setting(False, macro="OUTPUT_RATIONALE")
    rationales: str = setting("draw", macro="RATIONALES", rule=one_of("draw", "all", "first"))
    label_prefix: str = setting("[label] ", macro="LABEL_PREFIX")
    rationale_prefix: str = setting("[rationale] ", macro="RATIONALE_PREFIX")
    shared_encoder: bool = setting(False, macro="SHARED_ENCODER")
    max_unknown: float = setting(0.1, rule=FRACTION)
    pack: bool = setting(True, macro="PACK")
    row_lengths: tuple[int, int] | None = setting(None, rule=_ROW_LENGTHS)
    log_period: int = setting(50, rule=COUNT)
    keep_latest: int = setting(1, rule=COUNT)
    keep_best: int = setting(1, rule=COUNT)
    checkpoint_period: int | None = setting(None, macro="CHECKPOINT_PERIOD", rule=COUNT)
    on_nonfinite: str = setting("stop", rule=_ON_NONFINITE)

    def __post_init__(self) -> None:
        check(self)
        for name in ("label_prefix", "rationale_prefix") if self.shared_encoder else ():
            value = getattr(self, name)
            without = "left out with SHARED_ENCODER = True, which puts no prefix before a question"
            require(value == getattr(TrainConfig, name), name.upper(), value, without)
