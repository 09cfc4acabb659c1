#!/usr/bin/env bash
# `model.generate(input_ids)` without an attention mask, as in many T5 scripts: transformers 4 takes the mask from
# the padding ids. transformers 5 does so for decoder-only models alone, so an encoder-decoder reads its padding:
# in a batch of questions of different lengths most answers change, without a warning, and depend on the longest
# question beside them. A question alone, or a batch of equal lengths, is answered as before.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
cat > "$work/try.py" <<'PY'
import torch, transformers
from transformers import T5Config, T5ForConditionalGeneration
torch.manual_seed(0)
model = T5ForConditionalGeneration(T5Config(
    vocab_size=200, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4,
    feed_forward_proj="gated-gelu", decoder_start_token_id=0,
)).eval()
for parameter in model.parameters():
    if parameter.dim() > 1:
        torch.nn.init.normal_(parameter, std=0.3)
lengths = torch.randint(4, 25, (100,))
questions = [torch.randint(3, 200, (int(n),)) for n in lengths]
alone = [model.generate(q[None], max_new_tokens=8)[0].tolist() for q in questions]
def answers(rows, **options):
    ids = torch.nn.utils.rnn.pad_sequence([questions[row] for row in rows], batch_first=True)
    if options.pop("mask", False):
        options["attention_mask"] = (ids != 0).long()
    return model.generate(ids, max_new_tokens=8, **options).tolist()
def equal(order, **options):
    same = 0
    for start in range(0, len(order), 10):
        rows = order[start : start + 10]
        for row, got in zip(rows, answers(rows, **options)):
            same += got[: len(alone[row])] == alone[row]
    return same
order = list(range(100))
print("transformers", transformers.__version__, "pad id", model.generation_config.pad_token_id,
      "answers of 100 in batches of 10 that equal those alone: with a mask", equal(order, mask=True),
      "without", equal(order), "without, sorted by length", equal(sorted(order, key=lambda i: lengths[i])))
PY
python3 -m venv "$work/env"
for version in 4.57.6 5.23.0 5.24.0; do
  "$work/env/bin/pip" install -q --disable-pip-version-check \
    "transformers==$version" torch==2.13.0 2>/dev/null
  "$work/env/bin/python" "$work/try.py" 2>&1 | tee -a "$work/seen"
done
grep -q "^transformers 4.57.6 pad id 0 .* with a mask 100 without 100 without, sorted by length 100" "$work/seen"
for version in 5.23.0 5.24.0; do
  grep -q "^transformers $version pad id 0 .* with a mask 100 without [1-3][0-9] without, sorted by length [1-4][0-9]" \
    "$work/seen"
done
[[ $(grep -c . "$work/seen") == 3 ]] # no warning
echo "as found: hand generate the tokenizer's attention_mask"
