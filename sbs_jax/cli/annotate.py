"""Stage 1: ask a teacher for a rationale and a label of every input.

The teacher is any server with OpenAI's API (vLLM, llama.cpp, Ollama, transformers serve, Gemini,
OpenAI): --base_url says where, the environment variable OPENAI_API_KEY holds the key if one is
needed. Every answer is kept in OUT/journal.jsonl as it comes: the same command continues after any
interruption and never asks twice. Look first: --dry_run sends nothing and shows prompts and cost.

Examples:
  sbs annotate --task=cqa --input=data/cqa/train.jsonl --out=ann/cqa --model=gpt-5-mini --dry_run
  sbs annotate --task=svamp --out=ann/svamp --base_url=http://localhost:8000/v1 --model=MODEL --n=5
  sbs annotate --task=my_prompt.json --input=mine.jsonl --out=ann/mine --model=gpt-5-mini
  sbs annotate --task=demo --teacher=embedded --out=ann/demo
  sbs annotate --task=cqa --import_released=datasets.zip --out=ann/cqa_palm
"""

import functools
import itertools
import json
import pathlib
import sys
from collections.abc import Callable, Iterable
from typing import Any

from sbs_jax.cli.annotate_flags import ASKING, FLAGS
from sbs_jax.datasets import tables
from sbs_jax.datasets.records import Record, read_table
from sbs_jax.errors import UserError
from sbs_jax.utils import paths


def main(argv: list[str]) -> int | None:
    """Asks (or imports), then writes the output files; returns 1 if answers are still missing."""
    from sbs_jax.teacher import prompt_check, prompts

    prompt = prompts.load(FLAGS.task)
    if FLAGS.check_prompt:
        print(prompt_check.describe(prompt, _prices(), _rules().strictness))
        return None
    if not FLAGS.out:
        raise UserError("--out is required: the folder of journal and results")
    folder = pathlib.Path(FLAGS.out)
    if FLAGS.merge:
        _merged(prompt, folder)
        return None
    if FLAGS.import_released or FLAGS.teacher == "embedded":
        _imported(prompt, folder)
        return None
    return _annotate(prompt, folder)


def _annotate(prompt: Any, folder: pathlib.Path) -> int | None:
    from sbs_jax.teacher import annotate, cost_estimate, journal, prompt_check

    rules = _rules()
    recipe = _recipe(prompt)
    prompt_check.check(recipe.prompt, rules.strictness)
    inputs = _gold(prompt, _inputs(folder))
    chosen = _selection(folder, inputs)
    job = annotate.Job(
        folder, chosen.inputs(inputs) if chosen else inputs, recipe, FLAGS.n, _shard()
    )
    prices = _prices()
    if FLAGS.dry_run:
        print(cost_estimate.describe(annotate.plan(job), job.recipe, prices, job.n))
        return None
    if FLAGS.batch_export:
        _exported(annotate.export_batch(job))
        return None
    if FLAGS.batch_import:
        result_files = [pathlib.Path(path) for path in FLAGS.batch_import]
        print(annotate.load_batch(job, result_files))
        _report(annotate.finish(job, _filters(), rules), folder)
        _arms(chosen, job)
        return None
    outcome, progress = annotate.ask(job, _connect, _limits(job.recipe), prices)
    print(progress.line(), file=sys.stderr)
    if job.shard:
        print(f"{folder / job.journal_name}: run once without --shard when all shards are done")
    elif journal.holds_answers(folder):
        explained = {} if _has_ended(outcome) else _second_passes(job, outcome)
        _report(annotate.finish(job, _filters(), rules, explained), folder)
        _arms(chosen, job)
    return _ended(outcome, folder)


def _selection(folder: pathlib.Path, inputs: Any) -> Any:
    """The questions that --select chooses out of the inputs; None for all."""
    from sbs_jax.teacher import selection

    named = [name for name in ("select", "student", "budget") if FLAGS[name].value is not None]
    if not named:
        return None
    if len(named) < 3:
        raise UserError(f"--{named[0]}: --select, --student and --budget belong together: give all")

    def make() -> selection.Selection:
        from sbs_jax.inference import uncertainty

        sure = uncertainty.confidences(FLAGS.student, inputs)
        return selection.choose(sure, FLAGS.budget, FLAGS.student)

    chosen = selection.kept(folder, FLAGS.student, FLAGS.budget, make, write=not FLAGS.dry_run)
    print(chosen, file=sys.stderr)
    return chosen


def _arms(chosen: Any, job: Any) -> None:
    from sbs_jax.teacher import selection

    if chosen:
        for path in selection.write_arms(job.folder, chosen, job.inputs):
            print(path)


def _has_ended(outcome: Any) -> bool:
    return bool(outcome.stopped or outcome.budget or outcome.interrupted)


def _second_passes(job: Any, outcome: Any) -> dict[tuple[str, str], tuple[str, str]]:
    """Asks wrong answers again, as the flags say; adds to `outcome` what went wrong."""
    from sbs_jax.teacher import annotate
    from sbs_jax.teacher.second_pass import RATIONALIZED, RETRIED

    explained: dict[tuple[str, str], tuple[str, str]] = {}
    for name, n in ((RETRIED, FLAGS.retry_wrong), (RATIONALIZED, int(FLAGS.rationalize))):
        if not n or _has_ended(outcome):
            continue
        again, records = annotate.second_pass(job, name, n, _rules(), explained)
        if not records:
            continue
        second, progress = annotate.ask(again, _connect, _limits(again.recipe), _prices())
        print(f"{name}: {progress.line()}", file=sys.stderr)
        outcome.add(second)
        explained |= annotate.explanations(again, records, name, _rules())
    return explained


def _merged(prompt: Any, folder: pathlib.Path) -> None:
    """Writes the votes of several teachers."""
    from sbs_jax.teacher import annotate

    _refuse(ASKING, "--merge reads answers that exist")
    inputs = _gold(prompt, _inputs(folder))
    folders = [pathlib.Path(path) for path in FLAGS.merge]
    report, agreement = annotate.merge(folder, inputs, prompt, folders, _filters(), _rationales())
    print(agreement)
    _report(report, folder)


def _refuse(names: Iterable[str], why: str) -> None:
    for name in names:
        if FLAGS[name].present:
            raise UserError(f"--{name}: has no effect, {why}; leave it out")


def _gold(prompt: Any, inputs: Any) -> Any:
    """The inputs with gold labels that an answer can match, as --gold asks for."""
    from sbs_jax.teacher import gold

    if FLAGS.gold == "meant":
        inputs = {
            split: lambda read=read: gold.read(prompt, read()) for split, read in inputs.items()
        }
    if FLAGS.gold != "any":
        gold.check(prompt, inputs)
    return inputs


def _imported(prompt: Any, folder: pathlib.Path) -> None:
    from sbs_jax.teacher import annotate

    _refuse(ASKING, "these completions exist")
    inputs, teacher, completions = _released() if FLAGS.import_released else _embedded(folder)
    report = annotate.import_completions(
        folder, inputs, prompt, teacher, completions, _filters(), _rules()
    )
    _report(report, folder)


def _embedded(folder: pathlib.Path) -> tuple[dict, str, Callable[[str], Iterable[str]]]:
    """The demo dataset and the completions of its embedded teacher."""
    from sbs_jax.datasets import demo

    if FLAGS.task != "demo":
        raise UserError(f"--teacher=embedded: it knows the task demo only, not {FLAGS.task}")
    if FLAGS.input:
        inputs = _inputs(folder)
    else:
        splits = demo.VERBS_PER_SPLIT
        inputs = {s: _limited(functools.partial(demo.questions, s)) for s in splits}
    return inputs, "embedded", lambda split: demo.annotate(inputs[split]())


def _released() -> tuple[dict, str, Callable[[str], Iterable[str]]]:
    """A dataset of the released archive and PaLM's completions."""
    from sbs_jax.datasets.release import RELEASED, Release

    name = FLAGS.task
    if FLAGS.input:
        raise UserError("--input: --import_released brings its own inputs; leave one of them out")
    if name not in RELEASED:
        raise UserError(f"--import_released: it holds {', '.join(RELEASED)}, not {name}")
    release = Release(FLAGS.import_released, paths.cache_home() / "downloads")
    splits = [s for s in release.splits(name) if any(True for _ in release.completions(name, s))]
    if not splits:
        raise UserError(f"{FLAGS.import_released}: holds no completions for {name}")
    inputs = {split: _limited(functools.partial(release.records, name, split)) for split in splits}
    texts = functools.partial(release.completions, name)
    return inputs, "PaLM 540B (released)", lambda split: itertools.islice(texts(split), FLAGS.limit)


def _inputs(folder: pathlib.Path) -> dict[str, Callable[[], Iterable[Record]]]:
    """Split name (the file's) -> its records; raises UserError for unusable files."""
    from sbs_jax.teacher import annotate

    inputs = FLAGS.input or [paths.data_dir(FLAGS.data_dir) / FLAGS.task / "train.jsonl"]
    files: dict[str, pathlib.Path] = {}
    for path in map(pathlib.Path, inputs):
        name = tables.stem(path)
        if name in files:
            raise UserError(f"--input: {files[name]} and {path} have the same name")
        if not path.is_file():
            raise UserError(f"{path}: no such file; give --input a file of records")
        if not path.stat().st_size:
            raise UserError(f"{path}: the file is empty; it must hold records, one a line")
        files[name] = path
    annotate.check_inputs(folder, files)
    return {split: _limited(functools.partial(read_table, path)) for split, path in files.items()}


def _limited(read: Callable[[], Iterable[Record]]) -> Callable[[], Iterable[Record]]:
    return lambda: itertools.islice(read(), FLAGS.limit)


def _recipe(prompt: Any) -> Any:
    from sbs_jax.teacher import structured
    from sbs_jax.teacher.requests import Recipe

    if not FLAGS.model:
        raise UserError("--model is required: the name of the model as the server knows it")
    temperature = FLAGS.temperature
    if temperature is None:
        temperature = 0.7 if FLAGS.n > 1 else 0.0
    extra = _request_fields()
    if FLAGS.logprobs:
        extra = {"logprobs": True if FLAGS.api == "chat" else 1} | extra
    if FLAGS.structured:
        prompt = structured.prompt_for(prompt)
    return Recipe(
        prompt=prompt,
        model=FLAGS.model,
        api=FLAGS.api,
        mode=FLAGS.mode,
        label_given=FLAGS.label_given,
        temperature=temperature,
        max_tokens=FLAGS.max_tokens or prompt.max_tokens,
        extra=tuple(extra.items()),
        structured=FLAGS.structured,
    )


def _request_fields() -> dict[str, Any]:
    """The fields that the user adds to every request."""
    try:
        extra = json.loads(FLAGS.request_json, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise UserError(f"--request_json: not valid JSON ({error})") from None
    if not isinstance(extra, dict) or extra.keys() & {"model", "messages", "prompt", "n", "stream"}:
        raise UserError("--request_json: expected an object without model, messages, prompt, n")
    for name in ("max_tokens", "max_completion_tokens"):
        bound = extra.get(name)
        if bound is not None and (type(bound) is not int or bound < 1):
            raise UserError(f"--request_json: {name} must be a whole number above 0, or null")
    effort = {"reasoning_effort": FLAGS.effort} if FLAGS.effort else {}
    return effort | extra


def _no_number(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def _connect() -> Any:
    from sbs_jax.teacher.client import Client

    fixed = _request_fields()
    fixed |= {name: FLAGS[name].value for name in ("temperature",) if FLAGS[name].present}
    return Client(
        FLAGS.base_url, FLAGS.api, FLAGS.timeout, FLAGS.max_retries, FLAGS.api_key_env, fixed
    )


def _limits(recipe: Any) -> Any:
    from sbs_jax.teacher import usage
    from sbs_jax.teacher.annotate import Limits

    if FLAGS.max_cost is not None and None in (FLAGS.price_in, FLAGS.price_out):
        raise UserError("--max_cost: give --price_in and --price_out as well")
    for name in ("max_cost", "max_tokens_total"):
        if FLAGS[name].value is not None and not usage.bound(recipe.parameters()):
            raise UserError(f"--{name}: needs a bound of every answer; leave max_tokens as it is")
    return Limits(FLAGS.concurrency, FLAGS.rpm, FLAGS.tpm, FLAGS.max_tokens_total, FLAGS.max_cost)


def _prices() -> Any:
    from sbs_jax.teacher.progress import Prices

    return Prices(FLAGS.price_in, FLAGS.price_out)


def _filters() -> Any:
    from sbs_jax.teacher.voting import Filters

    return Filters(
        FLAGS.only_correct,
        FLAGS.min_agreement,
        FLAGS.min_words,
        FLAGS.max_words,
        FLAGS.drop_leaks,
        FLAGS.drop_repeats,
        FLAGS.min_confidence,
    )


def _rules() -> Any:
    from sbs_jax.teacher.reader import Rules

    # Existing completions are known through their exact parsers; the default repeats those labels.
    imported = FLAGS.import_released or FLAGS.teacher == "embedded"
    return Rules(
        FLAGS.parser or ("exact" if imported else "tolerant"),
        FLAGS.thoughts == "rationale",
        FLAGS.max_rationale_tokens,
        _rationales(),
    )


def _rationales() -> int:
    samples = len(FLAGS.merge) if FLAGS.merge else FLAGS.n
    if FLAGS.rationales > samples:
        raise UserError(
            f"--rationales={FLAGS.rationales}: a sample gives one rationale, and there are "
            f"{samples}; raise --n, or merge as many teachers"
        )
    return FLAGS.rationales


def _shard() -> tuple[int, int] | None:
    if FLAGS.shard is None:
        return None
    index, slash, count = FLAGS.shard.partition("/")
    if not slash or not index.isdecimal() or not count.isdecimal() or int(index) >= int(count):
        raise UserError(f"--shard={FLAGS.shard}: expected I/N with I from 0 to N-1, as 0/4")
    return int(index), int(count)


def _exported(files: list[pathlib.Path]) -> None:
    for path in files:
        print(path)
    print(
        "Upload these as a batch, then run again with --batch_import=RESULTS.jsonl"
        if files
        else "Nothing is missing."
    )


def _report(report: Any, folder: pathlib.Path) -> None:
    """Prints counts and the report cards."""
    parsed, cards = report
    print(parsed)
    for split, card in cards.items():
        print(f"{split}\n{card}")
    print(f"Wrote {', '.join(str(folder / f'{split}.jsonl') for split in cards)} and reports")


def _ended(outcome: Any, folder: pathlib.Path) -> int | None:
    """Prints a line for each missing answer file; returns the exit status."""
    for (record, _), why in list(outcome.too_long.items())[:5]:
        print(f"record {record}: too long for the model, left out ({why})", file=sys.stderr)
    again = f"what was answered is in {folder}; the same command continues"
    if outcome.interrupted:
        print(again, file=sys.stderr)
        raise KeyboardInterrupt
    if outcome.stopped:
        raise UserError(f"{outcome.stopped}; what was answered is kept in {folder}")
    if outcome.budget:
        print(f"{outcome.budget}; raise it and run again: {again}", file=sys.stderr)
    if outcome.failures:
        (record, _), why = next(iter(outcome.failures.items()))
        print(
            f"{len(outcome.failures)} records failed, first {record}: {why}; {again}",
            file=sys.stderr,
        )
    return 1 if outcome.failures or outcome.budget else None
