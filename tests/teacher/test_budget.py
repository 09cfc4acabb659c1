"""Budgets: no call starts that may not fit, over all runs of a folder."""

import asyncio

import pytest
from helpers import annotate_cli
from helpers.annotate_cli import rows

from sbs_jax.teacher.budget import Budget
from sbs_jax.teacher.progress import Prices, money
from sbs_jax.teacher.usage import Usage

FREE, PRICED = Prices(), Prices(1.0, 2.0)


def calls(budget, used, at_once=1, most=(10, 10)):
    """How many of ten calls start, where each uses `used` tokens."""

    async def one():
        if not await budget.reserve(*most):
            return 0
        await asyncio.sleep(0)
        await budget.settle(*most, Usage(*used))
        return 1

    async def run():
        started = 0
        for _ in range(10 // at_once):
            started += sum(await asyncio.gather(*(one() for _ in range(at_once))))
        return started

    return asyncio.run(run())


@pytest.mark.parametrize(
    ("prices", "tokens", "cost", "spent", "used", "started"),
    [
        (FREE, 100, None, (0, 0), (10, 10), 5),
        (FREE, 100, None, (0, 0), (10, 2), 7),  # the eighth might need 20 of the last 16
        (FREE, 100, None, (60, 20), (10, 10), 1),
        (FREE, 19, None, (0, 0), (10, 10), 0),
        (FREE, None, None, (0, 0), (10, 10), 10),
        (PRICED, None, 150e-6, (0, 0), (10, 10), 5),
        (PRICED, None, 150e-6, (0, 60), (10, 10), 1),
        (PRICED, 40, 1.0, (0, 0), (10, 10), 2),
    ],
)
@pytest.mark.parametrize("at_once", [1, 5])
def test_what_fits_starts(prices, tokens, cost, spent, used, started, at_once):
    assert calls(Budget(prices, tokens, cost, spent), used, at_once) == started


def spent(folder):
    usages = [row["usage"] for row in rows(folder / "out" / "journal.jsonl")]
    return sum(sum(usage.values()) for usage in usages)


def test_a_run_stops_at_its_budget_and_goes_on_with_a_larger_one(stub, tmp_path, capsys):
    annotate_cli.run(stub, tmp_path, limit=1)
    one = spent(tmp_path)
    assert annotate_cli.run(stub, tmp_path, max_tokens_total=4 * one) == 1
    said = capsys.readouterr()
    assert f"the budget of {4 * one:,} tokens has no room for another call (spent: " in said.err
    assert "records have no answer yet" in said.out
    calls = len(stub.calls)
    assert 1 < calls < 10 and spent(tmp_path) <= 4 * one
    assert annotate_cli.run(stub, tmp_path, max_tokens_total=4 * one) == 1
    assert len(stub.calls) == calls  # earlier runs count
    assert annotate_cli.run(stub, tmp_path, max_tokens_total=100 * one) == 0
    assert len(stub.calls) == 10


def test_money_needs_prices(stub, tmp_path, capsys):
    assert annotate_cli.run(stub, tmp_path, max_cost=1) == 2
    assert "--price_in" in capsys.readouterr().err
    assert annotate_cli.run(stub, tmp_path, max_cost=1e-9, price_in=1, price_out=1) == 1
    assert not stub.calls
    line = "the budget of $0.0000000010 has no room for another call (spent: $0.0000, 0 tokens)"
    assert line in capsys.readouterr().err


@pytest.mark.parametrize(
    ("cost", "text"),
    [(0.0, "$0.0000"), (1e-5, "$0.000010"), (0.00126, "$0.0013"), (1234.5, "$1,234.5000")],
)
def test_money_shows_two_digits_at_least(cost, text):
    assert money(cost) == text


def test_a_budget_counts_every_bound_and_needs_one(stub, tmp_path, capsys):
    unbounded = {"request_json": '{"max_tokens": null}', "max_tokens_total": 10**6}
    assert annotate_cli.run(stub, tmp_path, **unbounded) == 2
    assert "--max_tokens_total: needs a bound" in capsys.readouterr().err
    other = '{"max_tokens": null, "max_completion_tokens": 100000}'
    assert annotate_cli.run(stub, tmp_path, request_json=other, max_tokens_total=50_000) == 1
    assert (
        "the budget of 50,000 tokens has no room for another call (spent: "
        in capsys.readouterr().err
    )
    assert not stub.calls
