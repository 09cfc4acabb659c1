#!/usr/bin/env bash
# Outlines leaves answers out that its pattern allows. Where a shorter answer is already complete, its default
# backend (outlines-core) permits only tokens that complete another one at once: after "2" of the pattern
# [0-9]+([.][0-9]+)? a "." is forbidden, so that a teacher or student held to numbers never says 2.5, and of
# Literal["no", "not sure"] the second is never said, in either order; of Literal["1", "10"] not even where 10
# is one token. Nothing is told: the end is allowed. [0-9]+[.]?[0-9]*, complete at every step, is obeyed.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install -q --disable-pip-version-check outlines==1.3.3 outlines-core==0.2.14 2>/dev/null
cat > "$work/try.py" <<'PY'
import re
from importlib.metadata import version
from typing import Literal
from outlines.types.dsl import python_types_to_terms, to_regex
from outlines_core import Guide, Index, Vocabulary
print("outlines", version("outlines"), "outlines-core", version("outlines-core"))
letters = "abcdefghijklmnopqrstuvwxyz0123456789.- "
pieces = sorted(set(letters) | {" sure", "not", "no", "entail", "entailment"[6:], "10"})
end = len(pieces)
def said(pattern, answer):
    """Can the answer be written token by token, whichever way it is cut, and end there?"""
    index = Index(pattern, Vocabulary(end, {piece: [id] for id, piece in enumerate(pieces)}))
    def follow(prefix, state):
        moves = index.get_transitions().get(state) or {}
        if prefix == answer:
            return end in moves
        return any(answer.startswith(prefix + pieces[token]) and follow(prefix + pieces[token], moves[token])
                   for token in moves if token != end)
    return follow("", index.get_initial_state())
def report(name, pattern, answers):
    assert all(re.fullmatch(pattern, answer) for answer in answers)
    found = [answer for answer in answers if said(pattern, answer)]
    print(f"{name}: {len(found)} of {len(answers)} allowed, {found[:3]}")
numbers = [f"{number / 4:g}" for number in range(400)]
report("[0-9]+([.][0-9]+)?", "[0-9]+([.][0-9]+)?", numbers)
report("[0-9]+[.]?[0-9]*", "[0-9]+[.]?[0-9]*", numbers)
for choices in (Literal["no", "not sure"], Literal["not sure", "no"], Literal["entail", "entailment"],
                Literal["1", "10"], Literal["yes", "not sure"]):
    names = list(choices.__args__)
    report(f"Literal{names}", to_regex(python_types_to_terms(choices)), names)
guide = Guide(Index("[0-9]+([.][0-9]+)?", Vocabulary(end, {p: [i] for i, p in enumerate(pieces)})))
guide.advance(pieces.index("2"))
print("after 2:", sorted([*pieces, "END"][token] for token in guide.get_tokens()))
PY
"$work/env/bin/python" "$work/try.py" | tee "$work/seen"
grep -q "^outlines 1.3.3 outlines-core 0.2.14" "$work/seen"
grep -qF "[0-9]+([.][0-9]+)?: 100 of 400 allowed" "$work/seen"
grep -qF "[0-9]+[.]?[0-9]*: 400 of 400 allowed" "$work/seen"
grep -qF "Literal['no', 'not sure']: 1 of 2 allowed, ['no']" "$work/seen"
grep -qF "Literal['not sure', 'no']: 1 of 2 allowed, ['no']" "$work/seen"
grep -qF "Literal['1', '10']" "$work/seen"
grep -qF "Literal['yes', 'not sure']: 2 of 2 allowed" "$work/seen"
echo "as found: try every answer against the constraint before a run, or constrain with a trie of token ids"
