"""CommonsenseQA in the edition of CoS-E 1.11: a question and five choices.

Source: datasets.zip of https://github.com/google-research/distilling-step-by-step at ef94426;
questions: https://github.com/salesforce/cos-e (Rajani et al. 2019).
Splits: the file of 9,741 training questions gives train 8,766 and validation 975 (10%, seed 0,
carved after subsampling as in the original); test 1,221 is CoS-E's validation file, since the
labels of its test questions are not public.
Teacher: PaLM 540B, few-shot chain of thought; accuracy on train .7426, on test .7723.
3 training completions hold no readable label.

Input: question, then "\\nAnswer Choices:" and "\\n(a) choice" ... "\\n(e) choice". The line ends
are the original's; T5's SentencePiece turns each into a space, a byte vocabulary keeps it.
Label: the text of the choice, not its letter. Metric: the same text.
"""

from sbs_jax.datasets.registry import add_dataset
from sbs_jax.datasets.release import RELEASED

add_dataset(
    "cqa",
    prepare_command="sbs data --release PATH_OR_URL",
    metric=RELEASED["cqa"].metric,
    carve_validation=RELEASED["cqa"].carve_validation,
    split_by="row",  # the original's rule
    description=RELEASED["cqa"].description,
)
