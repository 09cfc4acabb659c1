"""SVAMP: word problems of one or two steps; the answer is the equation, not the number.

Source: datasets.zip of https://github.com/google-research/distilling-step-by-step at ef94426;
problems: https://github.com/arkilpatel/SVAMP (Patel et al. 2021).
Splits: the file of 800 training problems gives train 720 and validation 80 (10%, seed 0, carved
after subsampling as in the original); test 200. The two files are RandomState(0).permutation(1000)
of SVAMP.json.
Teacher: PaLM 540B, few-shot chain of thought; accuracy on train .7325, on test .7400. (.7350 on
train by the original's evaluation, in which Python's `and` is an operator.)
13 training completions hold no readable label, 11 no rationale.

Input: the story, "\\n", the question. Label: "( 10.0 * 45.0 )", spaces around everything, as in the
release; the teacher writes "(10 * 45)". Neither is changed: the metric compares values.
Metric: both equations have a value and it is the same (`equations.equal`).
"""

from sbs_jax.datasets.registry import add_dataset
from sbs_jax.datasets.release import RELEASED

add_dataset(
    "svamp",
    prepare_command="sbs data --release PATH_OR_URL",
    metric=RELEASED["svamp"].metric,
    carve_validation=RELEASED["svamp"].carve_validation,
    split_by="row",  # the original's rule
    description=RELEASED["svamp"].description,
)
