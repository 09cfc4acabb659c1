"""Stage 1: a teacher LLM's rationale and label for every input.

Reading order: `prompts` (what is asked) -> `requests` (the exact request and its key) -> `journal`
(what has been answered) -> `client` and `asking` (how it is asked) -> `ladder` (text -> rationale
and label) -> `voting` (several samples -> one answer, filters) -> `reportcard` -> `outputs` (the
files) -> `annotate` (all of it in order).
"""
