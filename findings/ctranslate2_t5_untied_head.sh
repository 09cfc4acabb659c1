#!/usr/bin/env bash
# CTranslate2 converts a T5 v1.1 wrongly where transformers 5 loads it. Its converter divides the logits by
# sqrt(d_model) if the configuration says tie_word_embeddings, as T5 1.0 needs; transformers 5 says so of
# every T5, whatever its config.json says. The head's weights are right and greedy ids are unchanged, so
# that nothing is seen at first; scores are others, beams choose others, and sampling is as at a
# temperature of sqrt(d_model). With transformers 4.57.6 the same folder is converted right.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
cat > "$work/make.py" <<'PY'
import sys, torch
from transformers import ByT5Tokenizer, T5Config, T5ForConditionalGeneration
torch.manual_seed(0)
sizes = dict(vocab_size=384, d_model=64, d_kv=16, d_ff=64, num_layers=1, num_heads=4)
kind = dict(feed_forward_proj="gated-gelu", tie_word_embeddings=False, decoder_start_token_id=0)
config = T5Config(**sizes, **kind)
T5ForConditionalGeneration(config).save_pretrained(sys.argv[1])
ByT5Tokenizer().save_pretrained(sys.argv[1])
PY
cat > "$work/try.py" <<'PY'
import sys, ctranslate2, torch, transformers
transformers.utils.logging.set_verbosity_error(); transformers.utils.logging.disable_progress_bar()
folder, *converted = sys.argv[1:]
model = transformers.T5ForConditionalGeneration.from_pretrained(folder).eval()
tokenizer = transformers.ByT5Tokenizer.from_pretrained(folder)
questions = [tokenizer(f"question {i}?").input_ids for i in range(50)]
tokens = [tokenizer.convert_ids_to_tokens(ids) for ids in questions]
answer = tokenizer("an answer").input_ids
with torch.no_grad():
    logits = model(input_ids=torch.tensor(questions[:1]), labels=torch.tensor([answer])).logits[0]
logs = torch.log_softmax(logits, -1)[range(len(answer)), answer]
print(f"transformers {transformers.__version__}: log-probability of an answer {logs.sum():.1f}")
greedy, beams = [], []
for name in converted:
    translator = ctranslate2.Translator(name, compute_type="float32")
    (scored,) = translator.score_batch(tokens[:1], [tokenizer.convert_ids_to_tokens(answer[:-1])])
    print(f"ctranslate2 {ctranslate2.__version__}, {name}: log-probability {sum(scored.log_probs):.1f}")
    for width, found in ((1, greedy), (4, beams)):
        results = translator.translate_batch(tokens, beam_size=width, max_decoding_length=8)
        found.append([result.hypotheses[0] for result in results])
for name, (one, other) in (("greedy", greedy), ("4 beams", beams)):
    print(f"{name}: {sum(a != b for a, b in zip(one, other))} of {len(one)} answers differ")
PY
cd "$work"
for version in 4.57.6 5.23.0; do
  env/bin/pip install -q --disable-pip-version-check \
    "transformers==$version" torch==2.13.0 ctranslate2==4.8.5 2>/dev/null
  [[ $version == 5.23.0 ]] || env/bin/python make.py model
  env/bin/ct2-transformers-converter --model model --output_dir "by transformers $version" &> converter
  env/bin/pip list --format=freeze --disable-pip-version-check | grep "^transformers"
done
env/bin/python try.py model "by transformers 4.57.6" "by transformers 5.23.0" 2>/dev/null | tee seen
grep -q "^transformers 5.23.0: log-probability of an answer -237.9" seen
grep -q "^ctranslate2 4.8.5, by transformers 4.57.6: log-probability -237.9" seen
grep -q "^ctranslate2 4.8.5, by transformers 5.23.0: log-probability -61.9" seen
grep -q "^greedy: 0 of 50 answers differ" seen
grep -qE "^4 beams: [2-5][0-9] of 50 answers differ" seen
echo "as found: convert a T5 v1.1 with transformers 4, and compare a score, not greedy ids alone"
