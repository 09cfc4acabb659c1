"""Budgets: no call starts that may not fit, over all runs of a folder."""

import asyncio
import json

import pytest
from helpers import annotate_cli
from helpers.annotate_cli import rows
from helpers.stub_server import Raw, completion

from sbs_jax.cli import main
from sbs_jax.datasets.records import read_jsonl
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


def withheld(call, sample):
    """A completion that the server's filter withholds, and that is paid for."""
    body = completion(call, [""], "r")
    body["choices"][0]["finish_reason"] = "content_filter"
    return Raw(200, json.dumps(body).encode())


def test_calls_without_a_usable_answer_count_in_later_runs(stub, tmp_path, capsys):
    stub.script = withheld
    flags = {"limit": 3, "max_retries": 0}
    assert annotate_cli.run(stub, tmp_path, **flags) == 1
    used = 3 * 10 + sum(len(call.text) // 4 for call in stub.calls)
    assert len(stub.calls) == 3 and spent(tmp_path) == used
    assert annotate_cli.run(stub, tmp_path, **flags, max_tokens_total=used) == 1
    assert len(stub.calls) == 3
    assert f"(spent: {used:,} tokens)" in capsys.readouterr().err
    # Without an answer there is nothing to write, and nothing that binds to these settings.
    assert not (tmp_path / "out" / "rationales.jsonl").exists()
    assert annotate_cli.run(stub, tmp_path, **flags, model="other") == 1


def test_readers_of_answers_pass_over_calls_without_one(stub, tmp_path, capsys):
    out, whole = tmp_path / "out", tmp_path / "whole"
    assert annotate_cli.run(stub, tmp_path, out=whole) == 0
    asked = next(read_jsonl(tmp_path / "train.jsonl")).input
    stub.script = lambda call, sample: (
        withheld(call, sample)
        if call.text.endswith(f"{asked}\nA:")
        else annotate_cli.oracle(call, sample)
    )
    assert annotate_cli.run(stub, tmp_path) == 1
    capsys.readouterr()
    journal = rows(out / "journal.jsonl")
    assert ["withheld" in row.get("problem", "") for row in journal].count(True) == 1
    report = json.loads((out / "parse_report.json").read_text())
    assert (report["completions"], report["unanswered"], report["unreadable_lines"]) == (10, 2, 0)
    assert json.loads((out / "report_card.json").read_text())["train"]["accuracy"]["n"] == 10
    merge = ["annotate", "--task=demo", f"--input={tmp_path / 'train.jsonl'}", f"--merge={whole}"]
    assert main([*merge, f"--merge={out}", f"--out={tmp_path / 'merged'}"]) == 0
    assert [row["votes"] for row in rows(tmp_path / "merged" / "rationales.jsonl")][:2] == [1, 2]
    assert main(["review", str(out)]) == 0
    # What was withheld may still come, in a batch or directly.
    assert annotate_cli.run(stub, tmp_path, batch_export=True) == 0
    (request,) = rows(out / "batch" / "requests-001.jsonl")
    body = {"id": "b", "choices": [{"message": {"content": "m . So the answer is yes."}}]}
    result = {"custom_id": request["custom_id"], "response": {"status_code": 200, "body": body}}
    (tmp_path / "results.jsonl").write_text(json.dumps(result) + "\n")
    capsys.readouterr()
    assert annotate_cli.run(stub, tmp_path, batch_import=tmp_path / "results.jsonl") == 0
    assert "1 answers added, 0 known already" in capsys.readouterr().out
    assert rows(out / "rationales.jsonl")[0]["label"] == "yes"
    for name in ("train.jsonl", "rationales.jsonl"):
        assert rows(out / name)[1:10] == rows(whole / name)[1:10]
