"""Stage 1: a teacher LLM's rationale and label for every input.

Reading order: `prompts` (the text to send) -> `requests` (the exact request and its key) ->
`journal` (answers so far) -> `client` and `runner` (sending) -> `replies` (a body of any shape) ->
`answer_parser` (text -> rationale and label) -> `voting` (several samples -> one answer, filters)
-> `report_card` -> `outputs` (the files) -> `annotate` (all of it in order).
"""
