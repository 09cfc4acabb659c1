"""Models of the Hugging Face hub, downloaded into the user's Hugging Face cache.

Only where an address says so, ``hf://OWNER/NAME[@REVISION]``: a mistyped folder never reaches the
network. huggingface_hub handles tokens, mirrors (HF_ENDPOINT), the cache and resuming.
"""

import re
from pathlib import Path

from sbs_jax.errors import UserError

SCHEME = "hf://"
_ADDRESS = re.compile(r"hf://([\w.-]+(?:/[\w.-]+)?)(?:@([\w./-]+))?")

# Safetensors where the model has them; pickled weights are for models that have nothing else.
_SMALL = ["config.json", "spiece.model"]
_SAFETENSORS = ["model*.safetensors", "model.safetensors.index.json"]
_PICKLED = ["pytorch_model*.bin", "pytorch_model.bin.index.json"]


def fetch(address: str) -> Path:
    """Returns the folder of the model's files; downloads only what the cache lacks.

    Args:
        address: ``hf://google/t5-v1_1-base``, or ``hf://google/t5-v1_1-base@REVISION``.

    Raises:
        UserError: no such model or revision, no network, or huggingface_hub is not installed.
    """
    match = _ADDRESS.fullmatch(address)
    if not match:
        raise UserError(f"{address}: not hf://OWNER/NAME or hf://OWNER/NAME@REVISION")
    name, revision = match.groups()
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise UserError(
            f"{address}: huggingface_hub is missing; pip install 'sbs_jax[export]', or download "
            "the model elsewhere and give its folder"
        ) from None
    try:
        folder = snapshot_download(name, revision=revision, allow_patterns=_SMALL + _SAFETENSORS)
        if not any(Path(folder).glob("*.safetensors")):
            folder = snapshot_download(name, revision=revision, allow_patterns=_SMALL + _PICKLED)
    except Exception as error:  # its own, the system's, and those of its HTTP library
        raise UserError(f"{address}: cannot be downloaded ({_reason(error)})") from None
    return Path(folder)


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2])[:200] or type(error).__name__
