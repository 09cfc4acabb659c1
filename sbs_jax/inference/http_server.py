"""Serves a trained student over HTTP: POST /predict, GET /healthz, the API's description at /docs.

FastAPI checks requests and describes the API; this module says what the fields are.
"""

import asyncio
from typing import Annotated, Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from sbs_jax import __version__
from sbs_jax.datasets.records import Record
from sbs_jax.inference.batcher import Batcher, Full

MOST_INPUTS = 1024
_MOST_CHARACTERS = 100_000

_Input = Annotated[
    str,
    StringConstraints(strip_whitespace=False, pattern=r"\S", max_length=_MOST_CHARACTERS),
]


class Questions(BaseModel):
    """The questions of a request."""

    model_config = ConfigDict(extra="forbid")

    inputs: list[_Input] = Field(
        min_length=1,
        max_length=MOST_INPUTS,
        description="Questions, without task prefix.",
        examples=[["Where do you store a loaf?"]],
    )
    rationale: bool = Field(default=False, description="Give the student's rationales too.")


class Answer(BaseModel):
    """The student's answer to one question."""

    label: str
    rationale: str | None = Field(default=None, description="If it was asked for.")
    truncated: bool = Field(description="Whether the student read only the question's beginning.")


class Answers(BaseModel):
    """One answer per input, in their order."""

    answers: list[Answer]


class Health(BaseModel):
    """Which student answers."""

    status: str
    mixture: str
    step: int


def app(batcher: Batcher, health: Health, explains: bool) -> FastAPI:
    """The endpoints.

    Args:
        batcher: answers; errors of its `ask` become status 500.
        health: what /healthz returns while the batcher lives.
        explains: whether the student gives rationales.
    """
    server = FastAPI(title="A student of sbs_jax", version=__version__)

    @server.exception_handler(RequestValidationError)
    async def refuse(request: Request, error: RequestValidationError) -> JSONResponse:
        # FastAPI's own answer repeats the input, and is status 500 where that holds NaN or half of
        # a surrogate pair, which a response cannot.
        faults = [
            {name: fault[name] for name in ("loc", "msg", "type")} for fault in error.errors()
        ]
        return JSONResponse({"detail": faults}, 422)

    @server.get("/healthz")
    def healthz() -> Health:
        """Whether the student answers; 503 if not."""
        if not batcher.is_alive():
            raise HTTPException(503, "the student has stopped; start sbs serve again")
        return health

    @server.post("/predict")
    async def predict(questions: Questions) -> Answers:
        """Labels (and rationales) of questions; those of several callers are answered together."""
        if questions.rationale and not explains:
            raise HTTPException(400, "this student was not trained to give rationales")
        records = [Record(str(i), text, "") for i, text in enumerate(questions.inputs)]
        try:
            futures = batcher.put(records, questions.rationale)
        except Full:
            reason = f"too many questions wait; a request has at most {batcher.capacity}"
            raise HTTPException(503, reason, {"Retry-After": "1"}) from None
        answers: list[dict[str, Any]] = await asyncio.gather(*map(asyncio.wrap_future, futures))
        return Answers(answers=[Answer(**answer) for answer in answers])

    return server
