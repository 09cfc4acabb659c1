"""ASDiv: 2,305 English word problems with numbers as answers (Miao et al. 2020).

Source: https://github.com/chaochun/nlu-asdiv-dataset, dataset/ASDiv.xml, brought by the user:
`sbs data --asdiv ASDiv.xml`. The original read it only to add it to SVAMP's training problems.
Splits: none are official. Of the 2,168 problems whose answer is a number, 217 drawn at random (10%,
seed 0) are the test; the rest are the training file, 10% of which become validation.
Teacher: no outputs were released. `asdiv_label` and `asdiv_finetune` work without; the other tasks
read DATA_DIR/asdiv/annotations.jsonl, teacher outputs by problem id: objects with id, rationale and
label, as `sbs annotate` writes them.

Input: body, "\\n", question. Label: the answer's first word, "9" of "9 (apples)", as in the
original. Metric: the same value, so that a teacher's "(7 + 2)" is right.
"""

from sbs_jax.datasets import asdiv
from sbs_jax.datasets.registry import add_dataset

add_dataset(
    "asdiv",
    prepare_command="sbs data --asdiv ASDiv.xml",
    annotations="annotations.jsonl",
    metric=asdiv.METRIC,
    carve_validation=asdiv.CARVE_VALIDATION,
    description="ASDiv (Miao et al. 2020): word problems with numbers as answers",
)
