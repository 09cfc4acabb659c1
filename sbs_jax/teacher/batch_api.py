"""The OpenAI Batch API as files: requests out, answers in, through the same journal.

A batch costs half and answers within a day. `export` writes what the journal lacks; the files are
uploaded and the results downloaded with the provider's own tools (docs/annotate.md has the
commands); `load` adds the results. Keys are those of direct calls, so both ways share one journal
(elsewhere they do not: https://github.com/safety-research/safety-tooling/issues/43).

Format: https://platform.openai.com/docs/guides/batch (one JSON object per line; ``custom_id``
comes back with the answer; at most 50,000 requests and 200 MB a file).
"""

import collections
import dataclasses
import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from sbs_jax.errors import UserError
from sbs_jax.teacher import replies, server_errors
from sbs_jax.teacher.journal import Journal, Writer
from sbs_jax.teacher.replies import Reply, Unreadable
from sbs_jax.teacher.requests import Api, Request
from sbs_jax.teacher.runner import journal_rows, missing
from sbs_jax.utils import jsonl
from sbs_jax.utils.files import write_bytes

FOLDER = "batch"
MOST_REQUESTS = 50_000
MOST_BYTES = 190_000_000

_URLS: dict[Api, str] = {"chat": "/v1/chat/completions", "completions": "/v1/completions"}


def export(
    folder: Path, journal: Journal, requests: Iterable[Request], api: Api, n: int
) -> list[Path]:
    """Writes FOLDER/batch/requests-NNN.jsonl for what the journal lacks; returns the files.

    Raises UserError where an earlier export is there: it may be under way, and paid for.
    """
    target = folder / FOLDER
    if exported(folder):
        raise UserError(
            f"{target}: holds an earlier export; import its results with --batch_import, "
            "then delete the folder"
        )
    target.mkdir(parents=True, exist_ok=True)
    files: list[Path] = []
    for lines in _parts(_lines(journal, requests, api, n)):
        path = target / f"requests-{len(files) + 1:03d}.jsonl"
        write_bytes(path, b"".join(lines))
        files.append(path)
    return files


def exported(folder: Path) -> bool:
    """Whether requests of this folder were exported: they may be under way."""
    return any((folder / FOLDER).glob("requests-*.jsonl"))


def _lines(journal: Journal, requests: Iterable[Request], api: Api, n: int) -> Iterator[bytes]:
    for request in requests:
        samples = len(missing(journal, request, n))
        if samples:
            body = request.body | ({"n": samples} if samples > 1 else {})
            call = {"custom_id": request.sha, "method": "POST", "url": _URLS[api], "body": body}
            yield json.dumps(call).encode() + b"\n"


def _parts(lines: Iterable[bytes]) -> Iterator[list[bytes]]:
    part: list[bytes] = []
    size = 0
    for line in lines:
        if part and (len(part) == MOST_REQUESTS or size + len(line) > MOST_BYTES):
            yield part
            part, size = [], 0
        part.append(line)
        size += len(line)
    if part:
        yield part


@dataclasses.dataclass
class Loaded:
    """What a file of results held."""

    added: int = 0
    known: int = 0
    strangers: int = 0
    errors: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)

    def __str__(self) -> str:
        parts = [f"{self.added} answers added", f"{self.known} known already"]
        if self.strangers:
            parts.append(f"{self.strangers} answer no record of this input and settings")
        parts += [f"{count} failed: {why}" for why, count in self.errors.most_common()]
        return ", ".join(parts)


def load(journal: Writer, requests: Iterable[Request], n: int, paths: Iterable[Path]) -> Loaded:
    """Adds the successful answers of result files to the journal; loading twice adds nothing.

    Raises UserError (file and line) for a file that is none of results.
    """
    loaded = Loaded()
    answers: dict[str, list[Reply]] = {}
    for path in paths:
        for sha, reply in _results(path, loaded):
            answers.setdefault(sha, []).append(reply)
    for request in requests:
        for reply in answers.pop(request.sha, ()):
            samples = missing(journal, request, n)
            if not samples or reply.response_id in _response_ids(journal, request, n):
                loaded.known += 1
                continue
            rows = journal_rows(request, samples, reply)
            journal.add(rows)
            loaded.added += len(rows)
    loaded.strangers = len(answers)
    return loaded


def _response_ids(journal: Journal, request: Request, n: int) -> set[Any]:
    rows = (journal.get(request.key(sample)) for sample in range(n))
    return {row.get("response_id") for row in rows if row}


def _results(path: Path, loaded: Loaded) -> Iterator[tuple[str, Reply]]:
    """(custom_id, reply) of every line with an answer; counts the others in `loaded`.

    Raises UserError for a file that begins with anything but a result.
    """
    known = False
    with jsonl.opened(path) as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            result = _result(line)
            if result is None and not known:
                raise UserError(
                    f"{path}:{number}: not a result of the Batch API; give the file it returned"
                )
            known = True
            reply, why = _reply(result) if result else (None, _no_result(line, number))
            if result is None or reply is None:
                loaded.errors[why] += 1
                continue
            # Without an id an answer is known by its bytes.
            response_id = reply.response_id or hashlib.sha256(line).hexdigest()
            yield result["custom_id"], dataclasses.replace(reply, response_id=response_id)


def _result(line: bytes) -> dict[str, Any] | None:
    """The object of one line, or None where it is no result."""
    result = server_errors.parsed(line.decode("utf-8", "replace"))
    known = isinstance(result, dict) and isinstance(result.get("custom_id"), str)
    return result if known and {"response", "error"} & result.keys() else None


def _no_result(line: bytes, number: int) -> str:
    torn = not line.endswith(b"\n")
    return "the last line is torn off" if torn else f"line {number} is no result"


def _reply(result: dict[str, Any]) -> tuple[Reply | None, str]:
    """The reply of one result, or why it has none."""
    status, body = _answered(result.get("response"))
    error = server_errors.words(result.get("error"))
    if error or not 200 <= status < 300 or server_errors.status_in(body):
        return None, error or server_errors.words(body) or "unknown error"
    try:
        reply = replies.read_response(body)
    except Unreadable as problem:
        return None, f"no completion in the answer ({problem})"
    answers = tuple(choice for choice in reply.choices if not choice.problem)
    if not answers:
        return None, reply.choices[0].problem
    return dataclasses.replace(reply, choices=answers), ""


def _answered(response: Any) -> tuple[int, Any]:
    """Status and body of a response; some services give the body alone, or as text."""
    response = response if isinstance(response, dict) else {}
    status = str(response.get("status_code", 200))
    body = response if "choices" in response else response.get("body")
    body = server_errors.parsed(body) if isinstance(body, str) else body
    return int(status) if status.isdecimal() else 0, body
