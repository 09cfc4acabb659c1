"""Print the gin search path that upstream T5X needs to launch our experiments.

RUN is train (the default), eval or infer, after the module of T5X:

  python -m t5x.train --gin_search_paths=$(sbs t5x_path) \\
      --gin_file=experiments/cqa_step_by_step.gin --gin.MODEL_DIR=\\"runs/cqa\\"
  python -m t5x.eval --gin_search_paths=$(sbs t5x_path eval) \\
      --gin_file=experiments/cqa_step_by_step.gin \\
      --gin.CHECKPOINT_PATH=\\"runs/cqa/checkpoint_250\\" --gin.EVAL_OUTPUT_DIR=\\"eval\\"
"""

from absl import flags

from sbs_jax.errors import UserError
from sbs_jax.utils import paths

FLAGS = flags.FlagValues()
ARGUMENTS = "[RUN]"

_FOLDERS = {"train": "t5x", "eval": "t5x_eval", "infer": "t5x_infer"}


def main(argv: list[str]) -> None:
    """Prints the folders, with commas between them."""
    run = argv[0] if argv else "train"
    if run not in _FOLDERS:
        raise UserError(f"{run}: T5X has no such run; use {', '.join(_FOLDERS)}")
    gin = paths.gin_dir()
    print(f"{gin / 'engines' / _FOLDERS[run]},{gin}")
