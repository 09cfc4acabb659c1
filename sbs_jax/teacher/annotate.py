"""Stage 1 from input records to training files, in order.

1. `folder_settings` reserves the folder for the settings.
2. `ask` requests what the journal lacks; `load_batch` and `import_completions` import it.
3. `finish` reads the journal and writes the output files; it needs no teacher and can be repeated
   with another parser, vote or filter. `second_pass` asks for wrong answers again before that.
"""

import asyncio
import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from sbs_jax.datasets.records import Record
from sbs_jax.errors import UserError
from sbs_jax.teacher import (
    batch_api,
    cost_estimate,
    edits,
    existing_completions,
    folder_settings,
    journal,
    merging,
    outputs,
    requests,
)
from sbs_jax.teacher import second_pass as second
from sbs_jax.teacher.budget import Budget
from sbs_jax.teacher.client import Client
from sbs_jax.teacher.cost_estimate import Plan
from sbs_jax.teacher.journal import Journal
from sbs_jax.teacher.outputs import Inputs
from sbs_jax.teacher.parse_report import ParseReport
from sbs_jax.teacher.progress import Prices, Progress
from sbs_jax.teacher.prompts import Prompt
from sbs_jax.teacher.reader import TOLERANT, Reader, Rules
from sbs_jax.teacher.report_card import ReportCard
from sbs_jax.teacher.requests import Recipe, Request
from sbs_jax.teacher.runner import Asker, Outcome, missing
from sbs_jax.teacher.voting import Filters

Report = tuple[ParseReport, dict[str, ReportCard]]


@dataclasses.dataclass(frozen=True)
class Limits:
    """Limits on the load of a server and on the cost of its answers.

    Attributes:
        max_tokens_total, max_cost: of all passes of the folder, earlier runs included.
    """

    concurrency: int = 8
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    max_tokens_total: int | None = None
    max_cost: float | None = None


@dataclasses.dataclass(frozen=True)
class Job:
    """One folder of answers.

    Attributes:
        folder: holds journal and outputs.
        inputs: split name -> function that gives its records; called again for every pass.
        n: samples per record.
        shard: (index, count): ask only every count-th distinct request; the journals of all
            shards, in one folder, are one.
        first: the folder of the first pass; None where this is it.
    """

    folder: Path
    inputs: Inputs
    recipe: Recipe
    n: int = 1
    shard: tuple[int, int] | None = None
    first: Path | None = None

    @property
    def journal_name(self) -> str:
        if self.shard is None:
            return journal.NAME
        return f"journal-{self.shard[0]}-of-{self.shard[1]}.jsonl"

    @property
    def other_passes(self) -> list[Path]:
        """The folders of the other passes, which share its budget."""
        first = self.first or self.folder
        passes = (first, first / second.RETRIED, first / second.RATIONALIZED)
        return [folder for folder in passes if folder != self.folder]

    def records(self) -> Iterator[Record]:
        """The records of all inputs."""
        return itertools.chain.from_iterable(read() for read in self.inputs.values())

    def requests(self) -> Iterator[Request]:
        """The distinct requests of this shard."""
        index, count = self.shard or (0, 1)
        return itertools.islice(requests.unique(self.recipe, self.records()), index, None, count)


def check_inputs(folder: Path, inputs: dict[str, Path]) -> None:
    """Raises UserError where an output file would replace an input, or take another's name."""
    reserved = {Path(name).stem for name in (journal.NAME, outputs.RATIONALES, edits.NAME)}
    for split, path in inputs.items():
        if split in reserved or split.startswith("journal"):
            raise UserError(f"{path}: an input may not be called {path.name}; rename it")
        if path.resolve() == (folder / f"{split}.jsonl").resolve():
            raise UserError(f"{path}: --out would replace this input; choose another folder")


def plan(job: Job) -> Plan:
    """Computes what `ask` would send; reads the folder and writes nothing."""
    with Journal(job.folder) as existing:
        if not _is_free(job, existing):
            folder_settings.check(job.folder, job.recipe.settings())
        estimate = cost_estimate.plan(job.recipe, job.requests(), existing, job.n)
    estimate.records = sum(1 for _ in job.records())
    return estimate


def ask(
    job: Job,
    connect: Callable[[], Client],
    limits: Limits,
    prices: Prices,
) -> tuple[Outcome, Progress]:
    """Requests what is missing, within what the limits leave after all passes so far.

    Raises UserError where the folder belongs to other settings or another process, or the disk is
    full; everything answered by then is kept.
    """
    client = connect()
    with journal.writing(job.folder, job.journal_name) as written:
        folder_settings.claim(job.folder, job.recipe.settings(), _is_free(job, written))
        wanted = sum(1 for request in job.requests() if missing(written, request, job.n))
        progress = Progress(wanted, prices)
        if not wanted:
            return Outcome(), progress
        pending = (request for request in job.requests() if missing(written, request, job.n))
        before = _sum([written.spent, *map(_spent, job.other_passes)])
        budget = Budget(prices, limits.max_tokens_total, limits.max_cost, before)
        return asyncio.run(_ask(job, client, written, progress, pending, limits, budget)), progress


def _spent(folder: Path) -> tuple[int, int]:
    with Journal(folder) as answered:
        return answered.spent


def _sum(spent: Iterable[tuple[int, int]]) -> tuple[int, int]:
    """The (prompt, completion) tokens of all."""
    prompt, completion = zip(*spent, strict=True)
    return sum(prompt), sum(completion)


def _is_free(job: Job, written: Journal) -> bool:
    """Whether the folder's settings may change: nothing was answered, or asked elsewhere."""
    return job.shard is None and not len(written) and not batch_api.exported(job.folder)


async def _ask(
    job: Job,
    client: Client,
    written: journal.Writer,
    progress: Progress,
    pending: Iterable[Request],
    limits: Limits,
    budget: Budget,
) -> Outcome:
    async with client:
        asker = Asker(
            client,
            written,
            progress,
            job.n,
            limits.concurrency,
            limits.requests_per_minute,
            limits.tokens_per_minute,
            budget,
        )
        return await asker.run(pending)


def export_batch(job: Job) -> list[Path]:
    """Writes what is missing as files for the Batch API."""
    folder_settings.claim(job.folder, job.recipe.settings())
    with Journal(job.folder) as existing:
        return batch_api.export(job.folder, existing, job.requests(), job.recipe.api, job.n)


def load_batch(job: Job, paths: list[Path]) -> batch_api.Loaded:
    """Adds the Batch API's result files to the journal."""
    folder_settings.claim(job.folder, job.recipe.settings())
    with journal.writing(job.folder, job.journal_name) as written:
        return batch_api.load(written, job.requests(), job.n, paths)


def finish(
    job: Job,
    filters: Filters,
    rules: Rules = TOLERANT,
    explained: outputs.Explained | None = None,
) -> Report:
    """Reads the journal and writes the output files."""
    reading = (job.n, filters, rules)
    prompt = job.recipe.prompt
    return _finish(job.folder, job.inputs, prompt, _sha_of(job), reading, explained)


def import_completions(
    folder: Path,
    inputs: Inputs,
    prompt: Prompt,
    teacher: str,
    completions: Callable[[str], Iterable[str]],
    filters: Filters,
    rules: Rules = TOLERANT,
) -> Report:
    """Files for completions that exist: `completions(split)` gives one per record, in order.

    Raises UserError where the folder belongs to other settings or another process.
    """
    folder_settings.claim(folder, existing_completions.settings(prompt, teacher))
    with journal.writing(folder) as written:
        for split, records in inputs.items():
            pairs = zip(records(), completions(split), strict=True)
            existing_completions.add(written, teacher, pairs)
    return _finish(
        folder,
        inputs,
        prompt,
        lambda record: existing_completions.record_sha(teacher, record),
        (1, filters, rules),
    )


def _finish(
    folder: Path,
    inputs: Inputs,
    prompt: Prompt,
    sha_of: Callable[[Record], str],
    reading: tuple[int, Filters, Rules],
    explained: outputs.Explained | None = None,
) -> Report:
    n, filters, rules = reading
    with Journal(folder) as answered:
        reader = Reader(prompt, answered, sha_of, n, rules)
        report = ParseReport(answered.unreadable)
        cards = outputs.write(
            folder,
            inputs,
            prompt,
            lambda split, records, counts: reader.answers(records, counts),
            filters,
            report,
            explained,
        )
    return report, cards


def second_pass(
    job: Job, name: str, n: int, rules: Rules, done: outputs.Explained
) -> tuple[Job, dict[str, list[Record]]]:
    """The job that asks again what was answered wrong, and its records by split."""
    with Journal(job.folder) as answered:
        reader = Reader(job.recipe.prompt, answered, _sha_of(job), job.n, rules)
        records = second.wrong(reader, job.inputs, done)
    inputs: dict[str, Callable[[], Iterable[Record]]] = {
        split: functools.partial(list, rows) for split, rows in records.items()
    }
    recipe = second.recipe(job.recipe, name)
    return Job(job.folder / name, inputs, recipe, n, first=job.folder), records


def explanations(
    again: Job, records: dict[str, list[Record]], name: str, rules: Rules
) -> dict[tuple[str, str], tuple[str, str]]:
    """The rationales of second passes: (split, id) -> (rationale, name of the pass)."""
    with Journal(again.folder) as answered:
        return second.explanations(answered, again.recipe, again.n, rules, records, name)


def _sha_of(job: Job) -> Callable[[Record], str]:
    return lambda record: job.recipe.request(record).sha


def merge(
    folder: Path,
    inputs: Inputs,
    prompt: Prompt,
    folders: list[Path],
    filters: Filters,
    rationales: int = 1,
) -> tuple[Report, merging.Agreement]:
    """Merges several teachers' folders into one set of output files.

    Raises UserError for folders without answers, or FOLDER already holds one teacher's answers.
    """
    if any(folder.glob("journal*.jsonl")) or folder.resolve() in [f.resolve() for f in folders]:
        raise UserError(f"{folder}: holds answers of one teacher; choose another --out")
    agreement = merging.Agreement(prompt, merging.load(folders))
    folder.mkdir(parents=True, exist_ok=True)
    report = ParseReport()
    cards = outputs.write(
        folder,
        inputs,
        prompt,
        lambda split, records, counts: merging.answers(
            prompt, split, records, agreement, rationales
        ),
        filters,
        report,
    )
    merging.write_agreement(folder / merging.AGREEMENT, agreement)
    return (report, cards), agreement
