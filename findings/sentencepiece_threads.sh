#!/usr/bin/env bash
# SentencePiece's num_threads, which stands for speed, decides the ids of a unigram vocabulary: each
# thread adds up its share of the expected counts in float32, so that scores, and with them the order of
# the pieces, follow from how many shares there are. Training again with as many threads gives the same.
# The text is Python's own help, so that the numbers change a little with the version of Python.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install -q --disable-pip-version-check sentencepiece==0.2.3 2>/dev/null
cat > "$work/try.py" <<'PY'
import importlib.metadata, io, pydoc_data.topics, sentencepiece
print("sentencepiece", importlib.metadata.version("sentencepiece"))
lines = [line for text in pydoc_data.topics.topics.values() for line in text.splitlines() if line.strip()]
def train(**flags):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=model, vocab_size=1000, minloglevel=2, **flags
    )
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
def pieces(model): return [model.id_to_piece(i) for i in range(model.get_piece_size())]
one = train(num_threads=1)
for flags in ({"num_threads": 1}, {"num_threads": 4}, {"num_threads": 16}, {}):
    model, again = train(**flags), train(**flags)
    moved = sum(a != b for a, b in zip(pieces(model), pieces(one)))
    wrong = sum(model.decode(one.encode(line)) != one.decode(one.encode(line)) for line in lines)
    cut = sum(model.encode(line, out_type=str) != one.encode(line, out_type=str) for line in lines)
    print(f"{flags or 'default'} against 1: of {len(pieces(model))} ids {moved} are other pieces;",
          f"of {len(lines)} lines {cut} are cut otherwise, {wrong} encoded by 1 are decoded wrong;",
          f"again: {'the same' if pieces(again) == pieces(model) else 'another'}")
same = pieces(train()) == pieces(train(num_threads=16))
print(f"default and 16: {'the same' if same else 'others'}")
PY
"$work/env/bin/python" "$work/try.py" | tee "$work/seen"
grep -q "^sentencepiece 0.2.3" "$work/seen"
grep -q "^{'num_threads': 1} against 1: of 1000 ids 0 are other pieces; .* again: the same" "$work/seen"
for threads in 4 16; do  # at least 20 ids and 100 lines, whatever the text
  line="^\{'num_threads': $threads\} .* ids ([2-9][0-9]|[0-9]{3}) are .* [0-9]{3,} encoded .* the same"
  grep -qE "$line" "$work/seen"
done
grep -q "^default and 16: the same" "$work/seen"
echo "as found: write num_threads down with the other flags, and keep the model with its checkpoints"
