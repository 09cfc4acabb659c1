"""e-SNLI: SNLI with human explanations, which are not used here; the teacher's are.

Source: datasets.zip of https://github.com/google-research/distilling-step-by-step at ef94426
(teacher outputs); questions: Camburu et al. 2018, https://github.com/OanaMariaCamburu/e-SNLI.
Splits: train 549,367, validation 9,842, test 9,824; all files of the release, in its order.
Teacher: PaLM 540B, few-shot chain of thought; accuracy on validation .7317, on test .7299.
8,593 training completions hold no readable label; some labels are cut by the decoding budget
("entailment\\n\\nPre") and stay as the original keeps them: they count as wrong.

Input: premise, EOS id, hypothesis. Each side is tokenised as if it stood alone, because the
original joins them with the tokenizer's EOS text; a space before it would change the ids.
Labels: entailment, neutral, contradiction. Metric: the same text.
"""

from sbs_jax.datasets.registry import add_dataset
from sbs_jax.datasets.release import RELEASED

add_dataset(
    "esnli",
    prepare_command="sbs data --release PATH_OR_URL",
    metric=RELEASED["esnli"].metric,
    carve_validation=RELEASED["esnli"].carve_validation,
    split_by="row",  # the original's rule
    description=RELEASED["esnli"].description,
)
