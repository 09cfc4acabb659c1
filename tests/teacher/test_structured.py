"""JSON that a server enforces: the schema, the prompt, and servers that know other forms."""

import json

import pytest
from helpers import annotate_cli
from helpers.annotate_cli import rows
from helpers.stub_server import Raw, error

from sbs_jax.datasets.records import Record, read_jsonl
from sbs_jax.teacher import prompts, structured

pytest.importorskip("openai")
CQA = Record("1", "Where?\nAnswer Choices:\n(a) bank\n(b) sea", "sea")

ENUMS = [
    ("esnli", Record("1", "p</s>h", "neutral"), ["contradiction", "entailment", "neutral"]),
    ("demo", Record("1", "q", "yes"), ["no", "yes"]),
    ("cqa", CQA, ["(a) bank", "(b) sea"]),
    ("svamp", Record("1", "q", "(1)"), None),
    ("asdiv", Record("1", "q", "(1)"), None),
]


@pytest.mark.parametrize(("name", "record", "options"), ENUMS)
def test_the_schema_lists_the_possible_labels(name, record, options):
    schema = structured.schema(prompts.load(name), record)
    assert sorted(schema["properties"]["answer"].get("enum", [])) == (options or [])
    assert schema["required"] == ["rationale", "answer"]


@pytest.mark.parametrize("name", prompts.names())
def test_the_prompt_shows_json(name):
    prompt = structured.prompt_for(prompts.load(name))
    for exemplar in prompt.exemplars:
        answer = json.loads(prompt.write_completion(exemplar))
        assert answer["rationale"] == exemplar.rationale and exemplar.label in answer["answer"]


def form_of(body):
    """The form a server of this test sees in a request."""
    kind = body.get("response_format", {}).get("type", "")
    if kind == "json_object" and "schema" in body["response_format"]:
        return "json_object with schema"
    return kind or ("guided_json" if "guided_json" in body else "none")


FORMS = ["json_schema", "json_object with schema", "guided_json", "json_object", "none"]


def server(knows, refusal):
    def script(call, sample):
        if form_of(call.body) not in (*knows, "none"):
            return refusal
        return json.dumps({"rationale": "It is so.", "answer": "yes"})

    return script


REFUSALS = [
    error(400, "response_format of this type is not supported"),
    Raw(422, b'{"detail": [{"loc": ["body", "guided_json"], "msg": "Extra inputs: schema"}]}'),
]


@pytest.mark.parametrize("known", FORMS)
@pytest.mark.parametrize("refusal", REFUSALS)
def test_forms_are_tried_in_order_and_told(stub, tmp_path, capsys, known, refusal):
    stub.script = server([known], refusal)
    assert annotate_cli.run(stub, tmp_path, structured=True, concurrency=1) == 0
    place = FORMS.index(known)
    assert [form_of(call.body) for call in stub.calls[: place + 1]] == FORMS[: place + 1]
    assert len(stub.calls) == 10 + place  # each refused once
    assert capsys.readouterr().err.count("the server refuses the schema") == place
    records = list(read_jsonl(tmp_path / "out" / "train.jsonl"))
    assert {(r.rationale, r.llm_label) for r in records} == {("It is so.", "yes")}
    report = json.loads((tmp_path / "out" / "parse_report.json").read_text())
    assert report["outcomes"] == {"json": 12}


def test_a_server_that_breaks_on_schemas(stub, tmp_path):
    stub.script = server(["json_object with schema"], error(500, "oops", Retry_After="0.01"))
    assert annotate_cli.run(stub, tmp_path, structured=True, max_retries=0, concurrency=1) == 0
    assert len(stub.calls) == 11


def test_the_folder_keeps_the_form(stub, tmp_path, capsys):
    stub.script = server(["json_schema"], REFUSALS[0])
    annotate_cli.run(stub, tmp_path, structured=True, limit=2)
    assert rows(tmp_path / "out" / "journal.jsonl")[0]["params"]["response_format"]
    assert annotate_cli.run(stub, tmp_path) == 2
    assert "structured was true, now null" in capsys.readouterr().err
