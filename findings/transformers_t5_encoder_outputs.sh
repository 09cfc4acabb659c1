#!/usr/bin/env bash
# generate() of transformers 5.23.0 repeats the caller's encoder_outputs in place for num_beams > 1. Who
# encodes the questions once to decode them twice, with beams and greedily, gets four rows a question from
# the second call, the first four of them for question 0: zip(questions, rows) is wrong for all but one.
# There is no warning where the questions are equally long; with a padded mask it is an IndexError.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
cat > "$work/try.py" <<'PY'
import torch, transformers
from transformers import T5Config, T5ForConditionalGeneration
transformers.utils.logging.set_verbosity_error()
print("transformers", transformers.__version__, "torch", torch.__version__)
torch.manual_seed(0)
model = T5ForConditionalGeneration(T5Config(
    vocab_size=384, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, initializer_factor=6.0,
    decoder_start_token_id=0)).eval()
questions = torch.randint(2, 384, (50, 12))
options = dict(max_new_tokens=8, min_new_tokens=8, do_sample=False)
def encoded():
    return model.get_encoder()(questions)
alone = model.generate(encoder_outputs=encoded(), num_beams=1, **options)
shared = encoded()
for call in range(3):
    beams = model.generate(encoder_outputs=shared, num_beams=4, **options)
    print(f"call {call + 1} with 4 beams: {len(beams)} rows; encoder_outputs now has {len(shared[0])}")
    if call == 0:
        greedy = model.generate(encoder_outputs=shared, num_beams=1, **options)
        right = sum(torch.equal(a, b) for a, b in zip(alone, greedy))
        fourth = sum(torch.equal(a, b) for a, b in zip(alone, greedy[::4]))
        print(f"greedily then: {len(greedy)} rows for {len(questions)} questions;",
              f"zip is right for {right}, each fourth row for {fourth}")
PY
"$work/env/bin/pip" install -q --disable-pip-version-check transformers==5.23.0 torch==2.13.0 2>/dev/null
"$work/env/bin/python" "$work/try.py" 2>/dev/null | tee "$work/seen"
grep -q "^transformers 5.23.0 torch 2.13.0" "$work/seen"
grep -q "^call 1 with 4 beams: 50 rows; encoder_outputs now has 200" "$work/seen"
grep -qE "^greedily then: 200 rows for 50 questions; zip is right for ([0-9]|1[0-9]), each fourth row for 50" "$work/seen"
grep -q "^call 3 with 4 beams: 800 rows; encoder_outputs now has 3200" "$work/seen"
echo "as found: encode again for each call, or hand generate() a copy"
