"""Stage 2: the loop, the train step, the paper's loss, optimizers."""
