"""A checkpoint of any format as named arrays, read one at a time.

Names are T5X's, joined by ``/``: ``decoder/layers_0/mlp/wi_0/kernel``. Opening a checkpoint reads
names and shapes only, so that models larger than memory can be converted array by array.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping

import jax
import numpy as np

from sbs_jax.configs import T5Config
from sbs_jax.errors import UserError
from sbs_jax.models.t5 import init_params

_DROPOUT_RATE = 0.1  # of every public T5, where a checkpoint does not say
_EMBEDDING = "token_embedder/embedding"
_SHOWN = 3  # names in an error message


@dataclasses.dataclass(frozen=True)
class LazyArray:
    """An array on disk.

    Attributes:
        dtype: of what `read` returns.
        read: reads it; raises UserError if it is damaged.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]

    @property
    def size(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """The parameters of a T5 in one of the formats.

    Attributes:
        kind: hf, t5x or sbs.
        params: float32 arrays by name; exactly those of `config`.
        step: updates done.
        vocabulary: what `vocabularies.load` takes, or None if the checkpoint does not say.
        added_tokens: {token: id} of its tokenizer that `vocabulary` does not hold; an id that no
            file gives is None.
        read_together: reads arrays by name at once, where that is faster than one after another.
    """

    kind: str
    path: str
    params: Mapping[str, LazyArray]
    config: T5Config
    step: int = 0
    vocabulary: str | None = None
    added_tokens: Mapping[str, int | None] = dataclasses.field(default_factory=dict)
    read_together: Callable[[Iterable[str]], Mapping[str, np.ndarray]] | None = None

    @property
    def size(self) -> int:
        """Number of parameters."""
        return sum(array.size for array in self.params.values())


def as_float32(array: LazyArray, name: str, path: str) -> LazyArray:
    """The array widened to float32, which holds every bfloat16 and float16 exactly.

    Raises UserError for numbers of another kind, such as a quantised model's.
    """
    if array.dtype == np.float32:
        return array
    if array.dtype.name not in ("bfloat16", "float16"):
        raise UserError(
            f"{path}: {name} is {array.dtype.name}; parameters must be float32, bfloat16 or float16"
        )
    return LazyArray(array.shape, np.dtype(np.float32), lambda: array.read().astype(np.float32))


def nested(arrays: Mapping[str, object]) -> dict:
    """{"a/b": x} -> {"a": {"b": x}}."""
    tree: dict = {}
    for name, array in arrays.items():
        *parents, last = name.split("/")
        node = tree
        for key in parents:
            node = node.setdefault(key, {})
        node[last] = array
    return tree


def read_arrays(checkpoint: Checkpoint) -> dict[str, np.ndarray]:
    """All parameters by name, float32, in memory. Raises UserError if an array is damaged."""
    if checkpoint.read_together is None:
        return {name: array.read() for name, array in checkpoint.params.items()}
    values = checkpoint.read_together(checkpoint.params)
    return {name: value.astype(np.float32, copy=False) for name, value in values.items()}


def read_all(checkpoint: Checkpoint) -> dict:
    """The same as a nested tree."""
    return nested(read_arrays(checkpoint))


def infer_config(params: dict, **overrides: object) -> T5Config:
    """Infers the model's sizes from the shapes of a nested parameter tree."""
    encoder, decoder = params["encoder"], params["decoder"]
    vocab_size, emb_dim = params["token_embedder"]["embedding"].shape
    num_heads = encoder["relpos_bias"]["rel_embedding"].shape[0]
    mlp = encoder["layers_0"]["mlp"]
    gated = "wi_0" in mlp
    sizes = {
        "vocab_size": vocab_size,
        "emb_dim": emb_dim,
        "num_heads": num_heads,
        "num_encoder_layers": sum(name.startswith("layers_") for name in encoder),
        "num_decoder_layers": sum(name.startswith("layers_") for name in decoder),
        "head_dim": encoder["layers_0"]["attention"]["query"]["kernel"].shape[1] // num_heads,
        "mlp_dim": mlp["wi_0" if gated else "wi"]["kernel"].shape[1],
        "mlp_activations": ("gelu", "linear") if gated else ("relu",),
        "logits_via_embedding": "logits_dense" not in decoder,
    }
    return T5Config(**{**sizes, **overrides})


def config_of(
    params: Mapping[str, LazyArray], path: str, dropout_rate: float | None = None
) -> T5Config:
    """The sizes of a checkpoint. Raises UserError unless it holds a T5 and nothing else."""
    dropout_rate = _DROPOUT_RATE if dropout_rate is None else dropout_rate
    try:
        config = infer_config(nested(params), dropout_rate=dropout_rate)
    except (KeyError, ValueError, IndexError, TypeError, AttributeError, ZeroDivisionError):
        some = ", ".join(sorted(params)[:_SHOWN]) or "nothing"
        raise UserError(f"{path}: not the parameters of a T5 (it holds {some}, ...)") from None
    check_fits(params, config, path)
    return config


def shapes_of(config: T5Config) -> dict[str, tuple[int, ...]]:
    """Shape of every parameter of a model, by name."""
    tree = jax.eval_shape(lambda: init_params(config, jax.random.key(0)))
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {"/".join(key.key for key in path): leaf.shape for path, leaf in leaves}


def check_fits(params: Mapping[str, LazyArray], config: T5Config, path: str) -> None:
    """Raises UserError, naming what is missing, unknown or of another shape."""
    wanted = shapes_of(config)
    missing = sorted(wanted.keys() - params.keys())
    unknown = sorted(params.keys() - wanted.keys())
    if missing or unknown:
        raise UserError(
            f"{path}: its names do not match the model's: {_some('missing', missing)}; "
            f"{_some('unknown', unknown)}; choose the model file of the same kind and size"
        )
    shapes = {name: tuple(array.shape) for name, array in params.items()}
    rows = shapes[_EMBEDDING][0]
    if shapes != wanted and shapes == shapes_of(dataclasses.replace(config, vocab_size=rows)):
        raise UserError(
            f"{path}: its embedding has {rows} rows and the model {config.vocab_size}; set "
            f"VOCAB_SIZE = {rows}"
        )
    for name, shape in wanted.items():
        if shapes[name] != shape:
            raise UserError(
                f"{path}: {name} is {list(shapes[name])} there and {list(shape)} in the "
                "model; choose the model file of the same size"
            )


def _some(word: str, names: list[str]) -> str:
    if not names:
        return f"none {word}"
    dots = ", ..." if len(names) > _SHOWN else ""
    return f"{len(names)} {word} ({', '.join(names[:_SHOWN])}{dots})"
