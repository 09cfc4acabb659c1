#!/usr/bin/env bash
# transformers 5 cannot make a T5 v1.1 from a configuration. T5Config(tie_word_embeddings=False) says True
# at once, and the model made from it has its head tied and saves no lm_head.weight; only
# scale_decoder_outputs=False remembers what was asked for (mT5's and UMT5's have not even that). Setting
# the attribute afterwards unties encoder and decoder too: three embeddings for one, that train apart; and
# the False that is saved is read as True again. transformers 4.57.6 has one embedding and one head.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
cat > "$work/try.py" <<'PY'
import json, pathlib, sys, safetensors, transformers
from transformers import MT5Config, T5Config, T5ForConditionalGeneration, UMT5Config
transformers.utils.logging.set_verbosity_error(); transformers.utils.logging.disable_progress_bar()
version, folder = transformers.__version__, pathlib.Path(sys.argv[1])
for made in (T5Config, MT5Config, UMT5Config):
    tied = made(tie_word_embeddings=False).tie_word_embeddings
    print(version, f"{made.__name__}(tie_word_embeddings=False) is {tied}")
def show(name, config):
    model = T5ForConditionalGeneration(config)
    embeddings = (model.shared, model.encoder.embed_tokens, model.decoder.embed_tokens)
    count = len({id(embedding.weight) for embedding in embeddings})
    tied = any(model.lm_head.weight is embedding.weight for embedding in embeddings)
    model.save_pretrained(folder / name)
    with safetensors.safe_open(folder / name / "model.safetensors", "np") as file:
        kept = "lm_head.weight" in file.keys()
    says = json.loads((folder / name / "config.json").read_text())["tie_word_embeddings"]
    print(version, f"{name}: {count} embedding(s), head {'tied' if tied else 'of its own'},",
          f"lm_head.weight {'saved' if kept else 'not saved'}, config.json says {says},",
          f"read again {T5Config.from_pretrained(folder / name).tie_word_embeddings}")
small = dict(vocab_size=32, d_model=8, d_kv=4, d_ff=16, num_layers=1, num_heads=2)
config = T5Config(**small, feed_forward_proj="gated-gelu", tie_word_embeddings=False)
show("as made", config)
config.tie_word_embeddings = False
show("set afterwards", config)
PY
for version in 5.23.0 4.57.6; do
  "$work/env/bin/pip" install -q --disable-pip-version-check \
    "transformers==$version" torch==2.13.0 2>/dev/null
  "$work/env/bin/python" "$work/try.py" "$work/$version" | tee -a "$work/seen"
done
for made in T5 MT5 UMT5; do
  grep -q "^5.23.0 ${made}Config(tie_word_embeddings=False) is True" "$work/seen"
done
grep -q "^5.23.0 as made: 1 .* tied, lm_head.weight not saved, .* says True, read again True" "$work/seen"
grep -q "^5.23.0 set afterwards: 3 .* own, lm_head.weight saved, .* says False, read again True" "$work/seen"
grep -q "^4.57.6 T5Config(tie_word_embeddings=False) is False" "$work/seen"
grep -q "^4.57.6 as made: 1 .* own, lm_head.weight saved, .* says False, read again False" "$work/seen"
echo "as found: make a T5 v1.1 by loading one, and look for lm_head.weight in what is saved"
