"""Writes a student as a folder that transformers, and whatever reads its folders, can deploy."""

from pathlib import Path

from sbs_jax.checkpoints import convert
from sbs_jax.checkpoints.formats import hf, hf_write
from sbs_jax.checkpoints.formats.hf_tokenizer import TOKENIZER_CONFIG
from sbs_jax.errors import UserError
from sbs_jax.export import model_card
from sbs_jax.inference.student import Student
from sbs_jax.runs.layout import CONFIG_GIN
from sbs_jax.utils.files import atomic_folder


def write(student: Student, destination: str) -> bool:
    """Writes weights, tokenizer, generation settings and a model card; then reads it again.

    ``model.generate(**inputs)`` decodes greedily, up to the length of the run's longest output: a
    rationale gets as many tokens as from `sbs predict`.

    Returns:
        Whether the logits of a fixed input were compared besides the parameters.

    Raises:
        UserError: the folder is there or cannot be written, or came out different; or a kind of
            vocabulary that transformers cannot load.
    """
    asking = student.asking
    generation: dict[str, object] = {"do_sample": False, "num_beams": 1}
    if asking:
        generation["max_new_tokens"] = asking.longest
    with atomic_folder(destination) as partial:
        hf_write.write(
            partial,
            student.checkpoint,
            generation=generation,
            input_length=asking.input_length if asking else None,
        )
        if not (partial / TOKENIZER_CONFIG).exists():
            raise UserError(
                f"--vocabulary {student.checkpoint.vocabulary!r}: transformers can be given no "
                "tokenizer for this kind of SentencePiece model; take --to=stablehlo"
            )
        name = Path(destination).resolve().name
        card = model_card.hugging_face(student, name)
        (partial / "README.md").write_text(card, encoding="utf-8")
        if student.config_gin:
            (partial / CONFIG_GIN).write_text(student.config_gin, encoding="utf-8")
        return convert.compare(student.checkpoint, hf.read(str(partial)))
