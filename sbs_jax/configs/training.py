"""Everything a run can be told, as plain dataclasses: what gin binds, checks and writes down.

No framework is imported here, so that `sbs train --dry_run` answers at once.
"""

import dataclasses
import math
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

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

# Of the feed-forward block; `layers` holds the functions.
ACTIVATIONS = ("gelu", "relu", "linear")

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

# Fields that gin files set through a macro, which errors then name; test_configs.py compares.
MACROS = {
    "preset": "OPTIMIZER",
    "factors": "LEARNING_RATE_FACTORS",
    "b2": "ADAM_B2",
    "eval_num_examples": "EVALUATOR_NUM_EXAMPLES",
    **{
        name.lower(): name
        for name in (
            *("MODEL_DIR", "MIXTURE_OR_TASK_NAME", "TASK_FEATURE_LENGTHS", "TRAIN_STEPS", "MODEL"),
            *("VOCABULARY", "INITIAL_CHECKPOINT_PATH", "BATCH_SIZE", "ALPHA", "DATA_FRACTION"),
            *("RANDOM_SEED", "EVAL_PERIOD", "CHECKPOINT_PERIOD", "OUTPUT_RATIONALE", "PACK"),
            *("LABEL_PREFIX", "RATIONALE_PREFIX", "DTYPE", "PARAM_DTYPE", "REMAT_POLICY"),
            *("SCAN_LAYERS", "DROPOUT_RATE", "LEARNING_RATE", "WARMUP_STEPS", "END_FACTOR"),
            *("WEIGHT_DECAY", "STUDY_DIR"),
        )
    },
}

# What a value must be beyond its type: a test, and the test in words.
_Rule = tuple[Callable[[Any], bool], str]

_COUNT: _Rule = (lambda n: n > 0, "a whole number above 0")
_ABOVE_0: _Rule = (lambda x: x > 0, "more than 0")
_FROM_0: _Rule = (lambda x: x >= 0, "0 or more")
_BELOW_1: _Rule = (lambda x: 0 <= x < 1, "from 0 to below 1")
_DTYPE: _Rule = (lambda name: name in ("float32", "bfloat16"), "float32 or bfloat16")

_KINDS = {int: "a whole number", float: "a number", str: "a string", bool: "True or False"}


def _one_of(names: Sequence[str]) -> _Rule:
    return (lambda name: name in names, f"one of {', '.join(names)}")


def _require(condition: bool, macro: str, value: object, rule: str) -> None:
    if not condition:
        raise UserError(f"{macro} = {value!r}: must be {rule}")


def _check(config: Any, rules: Mapping[str, _Rule]) -> None:
    """Holds every field of a config against its annotation, then against its rule.

    Afterwards whole numbers are floats where floats are annotated and lists are tuples where tuples
    are: what is equal then reads and hashes alike, and jit can take a config as static.
    """
    for field in dataclasses.fields(config):
        macro = MACROS.get(field.name, f"{type(config).__name__}.{field.name}")
        value = getattr(config, field.name)
        holds, words = rules.get(field.name, (lambda _: True, ""))
        _require(_is_a(value, field.type), macro, value, _in_words(field.type, words))
        value = _normal(value, field.type)
        object.__setattr__(config, field.name, value)
        _require(value is None or holds(value), macro, value, words)


def _is_a(value: object, kind: Any) -> bool:
    """As isinstance, for the annotations of the classes below; a list may stand for a tuple."""
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin is types.UnionType:
        return any(_is_a(value, part) for part in parts)
    if origin in (tuple, Sequence):
        if not isinstance(value, tuple | list):
            return False
        each = _of_items(kind, len(value))
        return len(value) == len(each) and all(map(_is_a, value, each))
    if origin in (dict, Mapping):
        return isinstance(value, dict) and all(
            _is_a(key, parts[0]) and _is_a(item, parts[1]) for key, item in value.items()
        )
    if kind is float:
        return type(value) in (int, float) and math.isfinite(value)
    return isinstance(value, kind) and not (kind is int and isinstance(value, bool))


def _of_items(kind: Any, count: int) -> Sequence[Any]:
    """The annotations of the items of a tuple or sequence of so many."""
    parts = typing.get_args(kind)
    return parts if typing.get_origin(kind) is tuple and parts[-1] is not ... else parts[:1] * count


def _normal(value: Any, kind: Any) -> Any:
    """A value that is of this kind, with floats and tuples where the kind has them."""
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin is types.UnionType:
        return _normal(value, next(part for part in parts if _is_a(value, part)))
    if origin in (tuple, Sequence):
        return tuple(map(_normal, value, _of_items(kind, len(value))))
    return float(value) if kind is float else value


def _in_words(kind: Any, words: str) -> str:
    """What a value of another kind should have been; `words` where its rule tells that better."""
    parts = set(typing.get_args(kind)) - {type(None)}
    if typing.get_origin(kind) is types.UnionType and len(parts) == 1:
        return f"{_in_words(parts.pop(), words)} or None"
    if isinstance(kind, type) and typing.get_origin(kind) is None:
        article = "an" if kind.__name__[0] in "AEIOU" else "a"
        return _KINDS.get(kind, f"{article} {kind.__name__}")
    return words


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
        policies = ("none", "minimal", "full")
        sizes = ("vocab_size", "emb_dim", "num_heads", "num_encoder_layers", "num_decoder_layers")
        names = ", ".join(ACTIVATIONS)
        rules = {
            **dict.fromkeys((*sizes, "head_dim", "mlp_dim"), _COUNT),
            "mlp_activations": (_are_activations, f"a tuple of one or two of {names}"),
            "dropout_rate": _BELOW_1,
            "dtype": _DTYPE,
            "param_dtype": _DTYPE,
            "remat_policy": _one_of(policies),
        }
        _check(self, rules)
        fits = not self.scan_layers or self.remat_policy != "none"
        _require(fits, "REMAT_POLICY", "none", "minimal or full with SCAN_LAYERS = True")


def _are_activations(names: Sequence[str]) -> bool:
    return len(names) in (1, 2) and set(names) <= set(ACTIVATIONS)


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """An optimizer preset and its schedule; see `optimizers` for the meaning of the names.

    Attributes:
        preset: adamw, adamw_hf (the original's) or adafactor.
        factors: T5X's learning-rate factors; linear_decay alone is the paper's schedule.
        end_factor: what linear_decay ends at, as a share of the learning rate.
        weight_decay: decoupled, on every parameter.
        clip_norm: bound of the global gradient norm; None or 0 does not clip.
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
        rules = {
            "preset": _one_of(("adamw", "adamw_hf", "adafactor")),
            "learning_rate": _ABOVE_0,
            "b1": _BELOW_1,
            "b2": _BELOW_1,
            **dict.fromkeys(("warmup_steps", "end_factor", "eps", "weight_decay"), _FROM_0),
            "clip_norm": _FROM_0,
        }
        _check(self, rules)
        for name in self.factor_names:
            known = ", ".join(LEARNING_RATE_FACTORS)
            _require(name in LEARNING_RATE_FACTORS, "LEARNING_RATE_FACTORS", name, known)

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
            (`DEFAULT_RULES`).
    """

    num_partitions: int = 1
    fsdp: int = 1
    num_microbatches: int = 1
    logical_axis_rules: tuple[tuple[str, str | None], ...] = ()

    def __post_init__(self) -> None:
        logical = ", ".join(axis for axis, _ in DEFAULT_RULES)
        meaning = (
            f'("LOGICAL_AXIS", AXIS), LOGICAL_AXIS one of {logical}, '
            f"AXIS one of {', '.join(MESH_AXES)} or None"
        )
        counts = dict.fromkeys(("num_partitions", "fsdp", "num_microbatches"), _COUNT)
        _check(self, {**counts, "logical_axis_rules": (lambda _: True, f"pairs {meaning}")})
        for rule in self.logical_axis_rules:
            good = rule[0] in dict(DEFAULT_RULES) and rule[1] in (*MESH_AXES, None)
            _require(good, "PartitionerConfig.logical_axis_rules", rule, meaning)

    @property
    def rules(self) -> AxisRules:
        """All rules, those that win first."""
        return (*self.logical_axis_rules, *DEFAULT_RULES)


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
        row_lengths: (encoder, decoder) tokens of a packed row; None chooses them.
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
        counts = ("train_steps", "batch_size", "eval_period", "eval_batch_size", "log_period")
        kept = ("keep_latest", "keep_best", "checkpoint_period")
        rules = {
            **dict.fromkeys((*counts, *kept, "eval_num_examples", "max_decode_length"), _COUNT),
            "task_feature_lengths": (
                lambda lengths: all(lengths.get(name, 0) > 1 for name in ("inputs", "targets")),
                '{"inputs": tokens, "targets": tokens}, both above 1',
            ),
            "alpha": (lambda alpha: 0 <= alpha <= 1, "from 0 to 1"),
            "data_fraction": (lambda fraction: 0 < fraction <= 1, "above 0, to 1"),
            # More bits would be lost on the way into a key of jax.
            "random_seed": (lambda seed: 0 <= seed < 2**32, "from 0 to below 2**32"),
            "row_lengths": (lambda lengths: min(lengths) > 0, "(inputs, targets), both above 0"),
            "on_nonfinite": (
                lambda name: name in ("stop", "skip", "reduce"),
                "'stop', 'skip' or 'reduce'",
            ),
        }
        _check(self, rules)


# What tells the runs of a study apart.
CELL_MACROS = ("MODEL_DIR", "DATA_FRACTION", "RANDOM_SEED")


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
        rules = {
            "arms": (bool, '{"NAME": "experiments/FILE.gin", ...}'),
            "fractions": (_each_once, "values, each once, such as (0.25, 1.0)"),
            "seeds": (_each_once, "values, each once, such as (0, 1, 2)"),
            "bindings": (lambda _: True, "a list of strings, 'NAME = VALUE'"),
            "arm_bindings": (lambda _: True, "{ARM: a list of strings, 'NAME = VALUE'}"),
            "workers": _COUNT,
        }
        _check(self, rules)
        for arm in self.arms:  # a folder is named after it
            good = re.fullmatch(r"[\w-]+", arm)
            _require(bool(good), "StudyConfig.arms", arm, "named with letters, digits, _ and -")
        self._check_bindings("StudyConfig.bindings", self.bindings)
        for arm, bindings in self.arm_bindings.items():
            known = f"about one of the arms, {', '.join(self.arms)}"
            _require(arm in self.arms, "StudyConfig.arm_bindings", arm, known)
            self._check_bindings("StudyConfig.arm_bindings", bindings)

    def _check_bindings(self, name: str, bindings: Sequence[str]) -> None:
        rule = f"without {', '.join(CELL_MACROS)}, which the study sets itself"
        for binding in bindings:
            good = binding.partition("=")[0].strip() not in CELL_MACROS
            _require(good, name, binding, rule)


def _each_once(values: Sequence[Any]) -> bool:
    return 0 < len(values) == len(set(values))
