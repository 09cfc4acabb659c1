#!/usr/bin/env bash
# A T5 held to its labels by Outlines answers by other tokens than it was trained on. SentencePiece puts a space
# before every text, and "maybe" is the piece "▁maybe"; Outlines takes that for " maybe", which Literal["maybe",
# ...] does not allow, and leaves it to spell the label by pieces from the middle of words, m + a + y + b + e. A
# student that answers 100 of 100 questions right when it is free falls to 16 of three labels, by either backend;
# all answers look well formed. With its labels' own ids as the only ones allowed it has 100 again.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install -q --disable-pip-version-check outlines==1.3.3 outlines-core==0.2.14 xgrammar==0.2.9 \
  transformers==5.23.0 torch==2.13.0 sentencepiece==0.2.3 protobuf 2>/dev/null
cat > "$work/try.py" <<'PY'
import json, os, random
from importlib.metadata import version
from typing import Literal
import outlines, sentencepiece, torch, transformers
transformers.utils.logging.set_verbosity_error()
print(*(f"{name} {version(name)}" for name in ("outlines", "xgrammar", "transformers")))
colours = "red green blue black white old new big small round".split()
things = "ball house car tree book lamp door box hat cup".split()
labels = ["yes", "no", "maybe"]
questions = [f"is the {colour} {thing} in the park?" for colour in colours for thing in things]
random.seed(0)
golds = [random.choice(labels) for _ in questions]
os.makedirs("student")
flags = dict(pad_id=0, eos_id=1, unk_id=2, bos_id=-1, num_threads=1, minloglevel=2, hard_vocab_limit=False)
sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(questions + labels * 20), model_prefix="student/spiece", vocab_size=80, **flags)
settings = {"tokenizer_class": "T5Tokenizer", "extra_ids": 0}
tokens = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
for name, content in (("tokenizer_config", settings | tokens), ("config", {"model_type": "t5"})):
    with open(f"student/{name}.json", "w") as file:
        json.dump(content, file)
tokenizer = transformers.AutoTokenizer.from_pretrained("student")
torch.manual_seed(0)
sizes = dict(d_model=64, d_kv=16, d_ff=128, num_layers=2, num_heads=4, dropout_rate=0.0)
model = transformers.T5ForConditionalGeneration(
    transformers.T5Config(vocab_size=len(tokenizer), decoder_start_token_id=0, **sizes))
inputs = tokenizer(questions, padding=True, return_tensors="pt")
targets = tokenizer(golds, padding=True, return_tensors="pt").input_ids
targets[targets == 0] = -100
optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
for _ in range(500):
    model(**inputs, labels=targets).loss.backward()
    optimizer.step()
    optimizer.zero_grad()
model.eval()
def report(name, answers):
    answers = [answer.strip() for answer in answers]
    right = sum(answer == gold for answer, gold in zip(answers, golds))
    print(f"{name}: {right} of {len(golds)} right, {sum(a in labels for a in answers)} are labels")
def decoded(**how):
    return tokenizer.batch_decode(model.generate(**inputs, max_new_tokens=10, **how), skip_special_tokens=True)
report("free", decoded())
print("trained on:", [tokenizer.convert_ids_to_tokens(tokenizer(label).input_ids) for label in labels])
for backend in ("outlines_core", "xgrammar"):
    held = outlines.Generator(
        outlines.from_transformers(model, tokenizer), Literal["yes", "no", "maybe"], backend=backend)
    report(f"Literal, {backend}", held.batch(questions, max_new_tokens=10))
spellings = [tokenizer(label).input_ids for label in labels]
def trie(row, ids):
    said = ids.tolist()[1:]
    ways = {s[len(said)] for s in spellings if s[:len(said)] == said and len(s) > len(said)}
    return sorted(ways) or [0]
report("held to the labels' ids", decoded(prefix_allowed_tokens_fn=trie))
PY
cd "$work" && HF_HUB_OFFLINE=1 HF_HOME="$work" env/bin/python try.py 2> errors | tee seen || { tail -3 errors; exit 1; }
grep -q "^outlines 1.3.3 xgrammar 0.2.9 transformers 5.23.0" seen
grep -q "^free: 100 of 100 right, 100 are labels" seen
grep -qE "^Literal, outlines_core: [1-6]?[0-9] of 100 right, 100 are labels" seen
grep -qE "^Literal, xgrammar: [1-6]?[0-9] of 100 right, 100 are labels" seen
grep -q "^held to the labels' ids: 100 of 100 right, 100 are labels" seen
echo "as found: hold a T5 to its labels by their ids (prefix_allowed_tokens_fn), not by their letters"
