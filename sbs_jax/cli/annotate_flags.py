"""The flags of `sbs annotate`."""

from typing import Any

from absl import flags

from sbs_jax.cli import flags as shared

FLAGS = flags.FlagValues()


def _define(kind: str, name: str, default: Any, text: str, **more: Any) -> None:
    getattr(flags, f"DEFINE_{kind}")(name, default, help=text, flag_values=FLAGS, **more)


_define("string", "task", None, "Built-in prompt, or the path of a prompt file.", required=True)
shared.paths_flag(FLAGS, "input", None, "Records; default: DATA_DIR/TASK/train.jsonl.")
shared.path(FLAGS, "out", None, "Folder of journal and results.")
shared.data_dir(FLAGS, "The folder `sbs data` wrote, for the default of --input")
shared.cache_dir(FLAGS)
_define("integer", "limit", None, "Use only the first N records of each input.", lower_bound=1)
_define(
    "enum",
    "select",
    None,
    "Ask only the --budget questions that --student is least sure of, and as many at random.",
    enum_values=["uncertain"],
)
shared.path(FLAGS, "student", None, "With --select: the MODEL_DIR of a student.")
_define("integer", "budget", None, "With --select: questions of each arm.", lower_bound=1)
_define("boolean", "dry_run", False, "Show prompts, number of requests and cost; send nothing.")
_define("boolean", "check_prompt", False, "Show exemplars, sizes and parse-back; read no input.")

_define(
    "enum",
    "teacher",
    "api",
    "A server, or the demo dataset's built-in teacher.",
    enum_values=["api", "embedded"],
)
shared.place(
    FLAGS, "import_released", None, "The released archive: take PaLM's completions from it."
)
_define("string", "base_url", None, "Address of the server; default: $OPENAI_BASE_URL or OpenAI.")
_define("string", "model", None, "Model name on the server.")
_define("enum", "api", "chat", "Which API to call.", enum_values=["chat", "completions"])
_define("string", "api_key_env", "OPENAI_API_KEY", "Environment variable that holds the key.")

_define("enum", "mode", "few_shot", "Prompt form.", enum_values=["few_shot", "zero_shot"])
_define("boolean", "label_given", False, "Give the gold label and request only an explanation.")
_define("integer", "n", 1, "Samples per record; the majority label wins.", lower_bound=1)
_define("float", "temperature", None, "Default: 0 for one sample, 0.7 for several.", lower_bound=0)
_define(
    "integer",
    "max_tokens",
    None,
    "Maximum tokens of a completion; default: the prompt's.",
    lower_bound=1,
)
_define(
    "enum",
    "effort",
    None,
    "How long a reasoning model thinks: the field reasoning_effort.",
    enum_values=["none", "minimal", "low", "medium", "high"],
)
_define("boolean", "structured", False, "Ask the server to enforce a JSON object with a label.")
_define("boolean", "logprobs", False, "Ask for token probabilities: how sure the model is.")
_define("string", "request_json", "{}", "Additional request fields as JSON; null removes a field.")

_define("integer", "concurrency", 8, "Maximum calls in flight.", lower_bound=1)
_define("float", "rpm", None, "Maximum requests per minute.", lower_bound=0.001)
_define("float", "tpm", None, "Maximum tokens per minute.", lower_bound=1)
_define(
    "float", "timeout", 120.0, "Seconds before a call without an answer fails.", lower_bound=0.001
)
_define("integer", "max_retries", 6, "Retries of a failed call.", lower_bound=0)
_define("float", "price_in", None, "Price per million prompt tokens.", lower_bound=0)
_define("float", "price_out", None, "Price per million completion tokens.", lower_bound=0)
_define(
    "integer",
    "max_tokens_total",
    None,
    "Stop before the answers in OUT, all runs together, take more tokens.",
    lower_bound=1,
)
_define(
    "float", "max_cost", None, "Stop before answers cost more; needs both prices.", lower_bound=0
)
_define("string", "shard", None, "I/N: process only part I (from 0) of N; then run once without.")
_define(
    "boolean", "batch_export", False, "Write missing requests as Batch API files; send nothing."
)
shared.paths_flag(FLAGS, "batch_import", None, "Import Batch API result files.")

_define(
    "enum",
    "gold",
    "checked",
    "Gold labels that no answer can match: refuse them, read what they mean, or take any.",
    enum_values=["checked", "meant", "any"],
)
_define(
    "enum",
    "parser",
    None,
    "How to read answers: any wording, or the exact format only.",
    enum_values=["tolerant", "exact"],
)
_define(
    "enum",
    "thoughts",
    "drop",
    "A model's thoughts: leave them out, or make them the rationale of answers without one.",
    enum_values=["drop", "rationale"],
)
_define(
    "integer",
    "max_rationale_tokens",
    None,
    "Shorten rationales to whole sentences of about this many tokens.",
    lower_bound=1,
)
_define(
    "integer",
    "rationales",
    1,
    "Keep up to this many rationales for the label, of as many samples or teachers.",
    lower_bound=1,
)
_define("boolean", "only_correct", False, "Drop rationales of wrong labels.")
_define("float", "min_agreement", 0.0, "Drop answers with a smaller fraction of votes.")
_define("float", "min_confidence", 0.0, "Drop answers with a less probable label.")
_define("integer", "min_words", 0, "Drop shorter rationales.")
_define("integer", "max_words", None, "Drop longer rationales.")
_define("boolean", "drop_leaks", False, "Drop rationales that state the label as the answer.")
_define("boolean", "drop_repeats", False, "Drop rationales that another question already has.")

_define(
    "integer",
    "retry_wrong",
    0,
    "Ask wrong answers again: this many samples at a higher temperature.",
    lower_bound=0,
)
_define("boolean", "rationalize", False, "Explain wrong answers with the gold label given.")
shared.paths_flag(FLAGS, "merge", None, "Vote over the --out folders of several teachers.")

# What is about asking a server, and nothing else.
ASKING = (
    *("dry_run", "base_url", "model", "api", "mode", "label_given", "n", "temperature"),
    *("max_tokens", "request_json", "shard", "batch_export", "batch_import", "effort"),
    *("max_tokens_total", "max_cost", "structured", "logprobs", "retry_wrong", "rationalize"),
    *("select", "student", "budget"),
)
