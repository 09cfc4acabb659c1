"""ANLI, round 1: inference questions written against a model (Nie et al. 2020).

Source: datasets.zip of https://github.com/google-research/distilling-step-by-step at ef94426;
questions: https://github.com/facebookresearch/anli.
Splits: train 16,946, validation 1,000, test 1,000; all files of the release, in its order.
Teacher: PaLM 540B, few-shot chain of thought; accuracy on validation .668, on test .656. The
released completions may come from another prompt than the paper's baseline.
123 training completions hold no readable label, 122 no rationale.

Input: premise, EOS id, hypothesis, as for e-SNLI. Some premises and hypotheses end in a space: it
stays in the text. SentencePiece drops it, the fast Hugging Face tokenizer makes it one more piece,
so about 4% of the texts differ from the original by one id.
Labels: entailment, neutral, contradiction. Metric: the same text.
"""

from sbs_jax.datasets.registry import add_dataset
from sbs_jax.datasets.release import RELEASED

add_dataset(
    "anli1",
    prepare_command="sbs data --release PATH_OR_URL",
    metric=RELEASED["anli1"].metric,
    carve_validation=RELEASED["anli1"].carve_validation,
    split_by="row",  # the original's rule
    description=RELEASED["anli1"].description,
)
