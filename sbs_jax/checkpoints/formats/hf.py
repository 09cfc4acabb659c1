"""Reads Hugging Face's T5 folders: T5 v1.1, Flan-T5, mT5 and ByT5 (untied), T5 1.0 (tied).

Every Linear is transposed; relative_attention_bias of block 0 is the stack's, transposed; the
embedding is ``shared.weight``. Source: transformers' T5 module names, checked by the trajectories.
Weights are safetensors, or PyTorch's own files, which `torch_file` reads without unpickling them.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from sbs_jax.checkpoints.formats import foreign_files, hf_vocabulary, torch_file
from sbs_jax.checkpoints.formats.params import (
    Checkpoint,
    LazyArray,
    as_float32,
    config_of,
)
from sbs_jax.configs import T5Config
from sbs_jax.errors import UserError

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
SHARED, LM_HEAD = "shared.weight", "lm_head.weight"
PICKLE, PICKLE_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"

_ATTENTION = {"q": "query", "k": "key", "v": "value", "o": "out"}
_SUBLAYERS = {
    ("encoder", "0"): ("attention", "pre_attention_layer_norm"),
    ("encoder", "1"): ("mlp", "pre_mlp_layer_norm"),
    ("decoder", "0"): ("self_attention", "pre_self_attention_layer_norm"),
    ("decoder", "1"): ("encoder_decoder_attention", "pre_cross_attention_layer_norm"),
    ("decoder", "2"): ("mlp", "pre_mlp_layer_norm"),
}
_HF_SUBLAYERS = {
    ("encoder", "0"): "SelfAttention",
    ("encoder", "1"): "DenseReluDense",
    ("decoder", "0"): "SelfAttention",
    ("decoder", "1"): "EncDecAttention",
    ("decoder", "2"): "DenseReluDense",
}
_BLOCK = re.compile(r"(encoder|decoder)\.block\.(\d+)\.layer\.(\d)\.(\w+)\.(?:(\w+)\.)?weight")
_TRANSPOSED = ("kernel", "rel_embedding")
# The last tensor of every encoder; a wrapper's prefix comes before this name.
_ANCHOR = "encoder.final_layer_norm.weight"
# Copies of shared.weight, which some files carry in addition to it or instead of it.
_COPIES = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
# The first T5 files hold this table, which no version of the model has ever used.
_UNUSED = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
_DTYPES = {
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}

# What config.json may say, because the model computes exactly that.
_FIXED = {
    "relative_attention_num_buckets": 32,
    "relative_attention_max_distance": 128,
    "layer_norm_epsilon": 1e-6,
    "is_encoder_decoder": True,
    "decoder_start_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 0,
}
# feed_forward_proj -> the value of dense_act_fn that transformers derives from it.
_DENSE_ACTIVATIONS = {"relu": "relu", "gated-gelu": "gelu_new", "gated-gelu_new": "gelu_new"}
_GATED = ("gated-gelu", "gated-gelu_new")
_FIELDS = {
    "d_model": "emb_dim",
    "d_kv": "head_dim",
    "d_ff": "mlp_dim",
    "num_heads": "num_heads",
    "num_layers": "num_encoder_layers",
    "num_decoder_layers": "num_decoder_layers",
    "vocab_size": "vocab_size",
}


def parameter_path(name: str) -> tuple[str, ...] | None:
    """Our path of a Hugging Face tensor name, or None for a name T5 does not have."""
    match name:
        case "shared.weight":
            return ("token_embedder", "embedding")
        case "lm_head.weight":
            return ("decoder", "logits_dense", "kernel")
        case "encoder.final_layer_norm.weight":
            return ("encoder", "encoder_norm", "scale")
        case "decoder.final_layer_norm.weight":
            return ("decoder", "decoder_norm", "scale")
    match = _BLOCK.fullmatch(name)
    if not match or match.group(1, 3) not in _SUBLAYERS:
        return None
    stack, block, layer, module, part = match.groups()
    if part == "relative_attention_bias":
        return (stack, "relpos_bias", "rel_embedding") if (block, layer) == ("0", "0") else None
    sublayer, norm = _SUBLAYERS[stack, layer]
    if module == "layer_norm":
        return (stack, f"layers_{block}", norm, "scale")
    return (stack, f"layers_{block}", sublayer, _ATTENTION.get(part, str(part)), "kernel")


def tensor_names(config: T5Config) -> dict[str, str]:
    """{our name: Hugging Face's} of every parameter of a model, in Hugging Face's order."""
    names = {"/".join(parameter_path(name) or ()): name for name in _names(config)}
    if config.logits_via_embedding:
        del names["decoder/logits_dense/kernel"]
    return names


def _names(config: T5Config) -> Iterator[str]:
    yield SHARED
    gated = len(config.mlp_activations) == 2
    mlp = ("wi_0", "wi_1", "wo") if gated else ("wi", "wo")
    layers = {"encoder": config.num_encoder_layers, "decoder": config.num_decoder_layers}
    for stack, count in layers.items():
        for block in range(count):
            for (of, layer), module in _HF_SUBLAYERS.items():
                if of != stack:
                    continue
                prefix = f"{stack}.block.{block}.layer.{layer}"
                for part in mlp if module == "DenseReluDense" else _ATTENTION:
                    yield f"{prefix}.{module}.{part}.weight"
                if block == 0 and layer == "0":
                    yield f"{prefix}.{module}.relative_attention_bias.weight"
                yield f"{prefix}.layer_norm.weight"
        yield f"{stack}.final_layer_norm.weight"
    yield LM_HEAD


def read(path: str) -> Checkpoint:
    """The checkpoint in a folder (``config.json`` and weights), or in one file of weights.

    Raises UserError for another architecture, pickled weights that are more than tensors, damaged
    files, and names or shapes that do not make a T5.
    """
    place = Path(path)
    if place.is_dir():
        foreign_files.refuse_adapter(place)
    settings = _settings(place) if place.is_dir() else {}
    _refuse_other_models(settings, path)
    tensors = _tensors(place)
    foreign_files.refuse_adapter_names(tensors, path)
    tensors = _without_prefix(tensors)
    _refuse_encoder_alone(tensors, path)
    _drop_copies(tensors, path)
    _settle_logits(tensors, settings, path)
    params = {}
    for name, tensor in tensors.items():
        parts = parameter_path(name)
        ours = "/".join(parts) if parts else name  # an unknown name is reported unchanged
        transposed = parts is not None and parts[-1] in _TRANSPOSED
        params[ours] = _transposed(tensor) if transposed else tensor
    config = config_of(params, path, _dropout_rate(settings, path))
    _check_sizes(settings, config, path)
    vocabulary, added = hf_vocabulary.read(place, settings) if place.is_dir() else (None, {})
    return Checkpoint("hf", path, params, config, vocabulary=vocabulary, added_tokens=added)


def _settings(folder: Path) -> dict:
    path = folder / CONFIG
    if not path.is_file():
        step = foreign_files.next_step(folder) or "copy the whole folder of the model"
        raise UserError(f"{folder}: no {CONFIG}; {step}")
    return hf_vocabulary.json_object(path)


def _refuse_other_models(settings: dict, path: str) -> None:
    where = f"{path}/{CONFIG}"
    kind = settings.get("model_type", "t5")
    if kind == "umt5":
        raise UserError(
            f"{where}: umT5 has a table of relative positions in every layer, T5 one per stack; "
            "it is not supported: take T5 v1.1, Flan-T5, mT5 or ByT5"
        )
    if kind not in ("t5", "mt5"):
        raise UserError(f"{where}: model_type is {kind!r}; only t5 and mt5 are supported")
    if settings.get("quantization_config"):
        raise UserError(f"{where}: a quantised model; take the original weights")
    activation = _activation(settings)
    if activation not in _DENSE_ACTIVATIONS:
        raise UserError(
            f"{where}: feed_forward_proj is {activation!r}; only relu and gated-gelu are supported"
        )
    derived = {
        "is_gated_act": activation in _GATED,
        "dense_act_fn": _DENSE_ACTIVATIONS[activation],
    }
    for name, value in derived.items():
        if settings.get(name) not in (None, value):
            raise UserError(
                f"{where}: feed_forward_proj is {activation!r}, but {name} is {settings[name]!r}; "
                "correct the one that is not what the model was trained with"
            )
    for name, value in _FIXED.items():
        # mT5's files say null for some; null means the default.
        if settings.get(name) not in (None, value, [value]):
            raise UserError(f"{where}: {name} is {settings[name]!r}; only {value} is supported")


def _activation(settings: Mapping) -> str:
    """feed_forward_proj, or the default of transformers' class for the model."""
    default = "gated-gelu" if settings.get("model_type") == "mt5" else "relu"
    return str(settings.get("feed_forward_proj") or default)


def _tensors(place: Path) -> dict[str, LazyArray]:
    """Every tensor by its name in the files; names and shapes are read now, numbers later."""
    tensors: dict[str, LazyArray] = {}
    for file in _files(place):
        foreign_files.refuse_pointer(file)
        if file.suffix == ".bin":
            stored = torch_file.read(file).items()
            tensors |= {name: as_float32(tensor, name, str(file)) for name, tensor in stored}
            continue
        with _opened(file) as opened:
            for name in opened.keys():  # noqa: SIM118 (no mapping: it only has keys)
                piece = opened.get_slice(name)
                shape, code = tuple(piece.get_shape()), piece.get_dtype()
                if code not in _DTYPES:
                    raise UserError(
                        f"{file}: {name} is {code}; only F32, F16 and BF16 are supported"
                    )
                tensor = LazyArray(shape, _DTYPES[code], _reader(file, name))
                tensors[name] = as_float32(tensor, name, str(file))
    return tensors


def _files(place: Path) -> list[Path]:
    if place.is_file():
        return [place]
    for single, index in ((WEIGHTS, INDEX), (PICKLE, PICKLE_INDEX)):
        if (place / single).is_file():
            return [place / single]
        if (place / index).is_file():
            names = hf_vocabulary.json_object(place / index).get("weight_map")
            if not isinstance(names, dict) or not all(map(_plain, names.values())):
                raise UserError(f"{place / index}: weight_map must name files of this folder")
            return [place / name for name in sorted(set(names.values()))]
    step = foreign_files.next_step(place) or "copy the whole folder of the model"
    raise UserError(f"{place}: no {WEIGHTS}; {step}")


def _plain(name: object) -> bool:
    return isinstance(name, str) and bool(re.fullmatch(r"[\w-][\w.-]*\.(safetensors|bin)", name))


def _opened(file: Path) -> Any:
    from safetensors import SafetensorError, safe_open

    try:
        return safe_open(file, framework="numpy")
    except FileNotFoundError:
        raise UserError(f"{file}: missing; copy the whole folder of the model") from None
    except (SafetensorError, OSError) as error:
        raise UserError(f"{file}: damaged or cut short ({error}); copy it again") from None


def _reader(file: Path, name: str) -> Callable[[], np.ndarray]:
    def read_tensor() -> np.ndarray:
        with _opened(file) as opened:
            return opened.get_tensor(name)

    return read_tensor


def _transposed(tensor: LazyArray) -> LazyArray:
    return LazyArray(tensor.shape[::-1], tensor.dtype, lambda: tensor.read().T)


def _without_prefix(tensors: dict[str, LazyArray]) -> dict[str, LazyArray]:
    """The tensors by T5's names where a wrapper put one prefix before all of them.

    ``module.`` is DistributedDataParallel's, ``_orig_mod.`` torch.compile's, ``model.`` that of
    many a training script.
    """
    anchors = [name for name in tensors if name.endswith(f".{_ANCHOR}")]
    if len(anchors) != 1:
        return tensors
    prefix = anchors[0].removesuffix(_ANCHOR)
    if not all(name.startswith(prefix) for name in tensors):
        return tensors  # other tensors too: their names end the reading
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}


def _refuse_encoder_alone(tensors: Mapping[str, LazyArray], path: str) -> None:
    if _ANCHOR in tensors and not any(name.startswith("decoder.") for name in tensors):
        raise UserError(
            f"{path}: holds an encoder without a decoder (as T5EncoderModel saves); take the whole "
            "model"
        )


def _drop_copies(tensors: dict[str, LazyArray], path: str) -> None:
    """Keeps the first of shared.weight and its copies, after checking that they are equal."""
    tensors.pop(_UNUSED, None)
    for name in _COPIES:
        copy = tensors.pop(name, None)
        if copy is None:
            continue
        if not _equal(tensors.setdefault(SHARED, copy), copy):
            raise UserError(f"{path}: {name} differs from {SHARED}; T5 has one embedding")


def _settle_logits(tensors: dict[str, LazyArray], settings: Mapping, path: str) -> None:
    """Keeps lm_head.weight exactly if the logits have a separate kernel.

    transformers 5 writes ``tie_word_embeddings: true`` whatever the model, and marks T5 1.0, whose
    logits are scaled, by ``scale_decoder_outputs``; without lm_head.weight it uses shared.weight.
    """
    tied = settings.get("tie_word_embeddings", True) if settings else LM_HEAD not in tensors
    if SHARED not in tensors:
        if not (tied and LM_HEAD in tensors):
            return  # no T5: the names are reported later
        tensors[SHARED] = tensors[LM_HEAD]  # of tied tensors some programs save the last alone
    # transformers' mT5 never scales; its own files are all untied.
    scaled = settings.get("scale_decoder_outputs", tied and settings.get("model_type") != "mt5")
    if LM_HEAD not in tensors:
        if not tied:
            raise UserError(
                f"{path}: {LM_HEAD} is missing, though {CONFIG} says tie_word_embeddings: false; "
                "the file was saved incompletely: take the original one"
            )
        if not scaled:
            tensors[LM_HEAD] = tensors[SHARED]
    elif scaled:
        if not _equal(tensors[LM_HEAD], tensors[SHARED]):
            raise UserError(
                f"{path}: {CONFIG} ties the logits to the embedding, but {LM_HEAD} differs from "
                f"{SHARED}; set tie_word_embeddings: false if the model is a T5 v1.1"
            )
        del tensors[LM_HEAD]


def _equal(a: LazyArray, b: LazyArray) -> bool:
    return a is b or (a.shape == b.shape and np.array_equal(a.read(), b.read()))


def _dropout_rate(settings: Mapping, path: str) -> float | None:
    rate = settings.get("dropout_rate")
    if rate is not None and not (isinstance(rate, int | float) and 0 <= rate < 1):
        raise UserError(
            f"{path}/{CONFIG}: dropout_rate is {rate!r}; it must be a number from 0 to below 1"
        )
    return rate


def _check_sizes(settings: Mapping, config: T5Config, path: str) -> None:
    for name, field in _FIELDS.items():
        stated = settings.get(name)
        if stated is not None and stated != getattr(config, field):
            raise UserError(
                f"{path}/{CONFIG}: {name} is {stated!r}, the tensors have {getattr(config, field)}"
            )
    gated = _activation(settings) in _GATED
    if settings and gated != (len(config.mlp_activations) == 2):
        raise UserError(
            f"{path}/{CONFIG}: feed_forward_proj does not fit the tensors, which are those of "
            f"{'gated-gelu' if not gated else 'relu'}"
        )
