"""Estimates what a run would send and cost, without sending anything."""

import dataclasses
import statistics
from collections.abc import Iterable

from sbs_jax.teacher import usage
from sbs_jax.teacher.journal import Journal
from sbs_jax.teacher.progress import Prices, money
from sbs_jax.teacher.requests import CHARACTERS_PER_TOKEN, Recipe, Request
from sbs_jax.teacher.runner import missing

EXAMPLES = 3


@dataclasses.dataclass
class Plan:
    """Counts of a run to come; tokens are estimates (characters / 4)."""

    records: int = 0
    distinct: int = 0
    pending: int = 0
    samples: int = 0
    prompt_tokens: int = 0
    likely_tokens: int = 0
    most_tokens: int = 0
    examples: list[Request] = dataclasses.field(default_factory=list)


def plan(recipe: Recipe, distinct: Iterable[Request], journal: Journal, n: int) -> Plan:
    """Counts what is missing. Raises UserError where a record does not fit the prompt."""
    estimate = Plan()
    shown = [recipe.prompt.write_completion(exemplar) for exemplar in recipe.prompt.exemplars]
    budget = usage.bound(recipe.parameters()) or recipe.max_tokens
    likely = statistics.mean(map(len, shown)) / CHARACTERS_PER_TOKEN if shown else budget
    for request in distinct:
        estimate.distinct += 1
        samples = len(missing(journal, request, n))
        if not samples:
            continue
        estimate.pending += 1
        estimate.samples += samples
        estimate.prompt_tokens += request.prompt_tokens
        if len(estimate.examples) < EXAMPLES:
            estimate.examples.append(request)
    estimate.likely_tokens = round(estimate.samples * min(likely, budget))
    estimate.most_tokens = estimate.samples * budget
    return estimate


def describe(estimate: Plan, recipe: Recipe, prices: Prices, n: int) -> str:
    """The plan as text, with the first requests in full."""
    likely = prices.cost(estimate.prompt_tokens, estimate.likely_tokens)
    most = prices.cost(estimate.prompt_tokens, estimate.most_tokens)
    cost = money(likely)
    if most is not None:
        cost = f"about {cost}, at most {money(most)}; half of it through --batch_export"
    shots = len(recipe.prompt.exemplars) if recipe.mode == "few_shot" else 0
    lines = [
        f"task {recipe.prompt.name}, model {recipe.model}, {recipe.api} API, {shots} exemplars"
        + (", labels given" if recipe.label_given else ""),
        f"parameters: {recipe.parameters()}",
        f"records: {estimate.records} ({estimate.distinct} distinct), {n} sample(s) each",
        f"requests to send: {estimate.pending} for {estimate.samples} completions",
        f"tokens: about {estimate.prompt_tokens:,} in (characters / {CHARACTERS_PER_TOKEN}, each "
        f"request once), about {estimate.likely_tokens:,} and at most {estimate.most_tokens:,} out",
        f"cost: {cost}",
    ]
    for number, request in enumerate(estimate.examples, start=1):
        lines += [f"--- request {number} (record {request.id})", _shown(request)]
    return "\n".join(lines)


def _shown(request: Request) -> str:
    if "prompt" in request.body:
        return request.body["prompt"]
    return "\n".join(f"[{m['role']}]\n{m['content']}" for m in request.body["messages"])
