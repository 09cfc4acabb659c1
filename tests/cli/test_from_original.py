"""Every flag of the original's run.py: translated into a configuration, or refused."""

import shlex

import pytest

from sbs_jax.cli import from_original
from sbs_jax.configs import TrainConfig, gin_loader
from sbs_jax.errors import UserError


def config_of(command: str, folder) -> TrainConfig:
    """The configuration of the gin file that the verb prints, through gin itself."""
    (folder / "same.gin").write_text(from_original.translate(shlex.split(command)).gin())
    return gin_loader.build("configs.TrainConfig", gin_loader.load([str(folder / "same.gin")], []))


TRANSLATED = [
    ("", "mixture_or_task_name", "cqa_step_by_step"),
    ("--model_type standard", "mixture_or_task_name", "cqa_finetune"),
    ("--model_type standard --label_type llm", "mixture_or_task_name", "cqa_distill"),
    ("--label_type llm", "mixture_or_task_name", "cqa_step_by_step_llm"),
    ("--dataset svamp", "mixture_or_task_name", "svamp_step_by_step"),
    ("--dataset esnli", "mixture_or_task_name", "esnli_step_by_step"),
    ("--dataset anli1", "mixture_or_task_name", "anli1_step_by_step"),
    ("--dataset asdiv", "mixture_or_task_name", "svamp_asdiv_step_by_step"),
    ("--dataset asdiv --model_type standard", "mixture_or_task_name", "svamp_asdiv_finetune"),
    ("--max_steps 500", "train_steps", 500),
    ("--max_steps=500", "train_steps", 500),
    ("--eval_steps 50", "eval_period", 50),
    ("--batch_size 16 --grad_steps 2", "batch_size", 32),
    ("--batch_size 16 --grad_steps 2", "partitioner.num_microbatches", 2),
    ("--lr 1e-4", "optimizer.learning_rate", 1e-4),
    ("--optimizer_name AdamW", "optimizer.preset", "adamw_hf"),
    ("--subsample 0.25", "data_fraction", 0.25),
    ("--run 3", "random_seed", 3),
    ("--alpha 0.3", "alpha", 0.3),
    ("", "label_prefix", "predict: "),
    ("", "rationale_prefix", "explain: "),
    ("--max_input_length 512", "task_feature_lengths", {"inputs": 512, "targets": 256}),
    ("--gen_max_len 128", "max_decode_length", 127),
    ("--bf16", "model.dtype", "bfloat16"),
    ("", "model.dtype", "float32"),
    ("--output_rationale", "output_rationale", True),
    ("--llm palm --no_log --parallelize --local_rank -1", "alpha", 0.5),
    ("", "initial_checkpoint_path", "hf://google/t5-v1_1-base"),
    ("--from_pretrained google/flan-t5-xl", "model.emb_dim", 2048),
    ("--from_pretrained google/t5-v1_1-small", "model.emb_dim", 512),
    ("--from_pretrained t5-3b", "model.mlp_dim", 16384),
    ("--from_pretrained google/byt5-small", "vocabulary", "bytes"),
    ("--from_pretrained ./mine", "initial_checkpoint_path", "./mine"),
    ("--from_pretrained you/model", "initial_checkpoint_path", "hf://you/model"),
]


@pytest.mark.parametrize(("flags", "field", "value"), TRANSLATED)
def test_a_flag_is_translated(tmp_path, flags, field, value):
    config = config_of(f"python run.py --dataset cqa {flags}", tmp_path)
    for name in field.split("."):
        config = getattr(config, name)
    assert config == value


REFUSED = [
    ("--llm gpt", "were never released"),
    ("--llm None", "run.py fails with it; leave it out"),
    ("--optimizer_name adafactor", "names folders with it"),
    ("--local_rank 0", "--multiprocess_gpu"),
    ("--dataset imdb", "invalid choice: 'imdb'"),
    ("--model_type pinto", "invalid choice: 'pinto'"),
    ("--label_type both", "invalid choice: 'both'"),
    ("--max_steps many", "invalid int value"),
    ("--batchsize 8", "did you mean --batch_size?"),
]


@pytest.mark.parametrize(("flags", "words"), REFUSED)
def test_a_flag_without_a_counterpart_is_refused_with_the_reason(flags, words):
    with pytest.raises(UserError) as error:
        from_original.translate(shlex.split(f"run.py --dataset cqa {flags}"))
    assert words in str(error.value) and "\n" not in str(error.value)


def test_every_flag_of_run_py_is_tested():
    known = {
        option for action in from_original._parser()._actions for option in action.option_strings
    }
    tried = " ".join(["--dataset", *(row[0] for row in (*TRANSLATED, *REFUSED))])
    assert len(known) == 21 and all(flag in tried for flag in known)


def test_the_command_is_what_the_gin_file_is(tmp_path):
    equivalent = from_original.translate(shlex.split("--dataset cqa --alpha 0.3 --run 2"))
    verb, *words = shlex.split(equivalent.command().replace("\\\n", " "))[1:]
    files = [w.partition("=")[2] for w in words if w.startswith("--gin_file=")]
    bindings = [w.removeprefix("--gin.") for w in words if w.startswith("--gin.")]
    by_command = gin_loader.build("configs.TrainConfig", gin_loader.load(files, bindings))
    assert verb == "train" and by_command == config_of(
        "--dataset cqa --alpha 0.3 --run 2", tmp_path
    )
