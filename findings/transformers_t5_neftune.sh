#!/usr/bin/env bash
# neftune_noise_alpha of the Trainer does nothing for a T5 in transformers 5.24.0. The noise is added by a
# hook on the module that get_input_embeddings() returns, model.shared; there encoder and decoder have
# embeddings of their own, which share its weight, and shared is never called. Losses and weights are those of
# a run without noise, to the last bit, also with an alpha of 500. In 4.57.6 the three are one module, and the
# noise is there (for T5 and mT5; BART has none in either). Any hook on get_input_embeddings() is as silent.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
cat > "$work/try.py" <<'PY'
import sys, torch, transformers
from transformers import (BartConfig, BartForConditionalGeneration, ByT5Tokenizer, DataCollatorForSeq2Seq,
                          MT5Config, MT5ForConditionalGeneration, Seq2SeqTrainer, Seq2SeqTrainingArguments,
                          T5Config, T5ForConditionalGeneration)
transformers.utils.logging.set_verbosity_error(); transformers.utils.logging.disable_progress_bar()
tokenizer = ByT5Tokenizer()
rows = [{"input_ids": tokenizer(f"question {i}").input_ids, "labels": tokenizer(f"answer {i}").input_ids}
        for i in range(40)]
small = dict(vocab_size=384, d_model=32, decoder_start_token_id=0)
t5 = dict(small, d_kv=8, d_ff=32, num_layers=1, num_heads=2, dropout_rate=0.0)
bart = dict(small, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2,
            encoder_ffn_dim=32, decoder_ffn_dim=32, dropout=0.0, pad_token_id=0, eos_token_id=1)
def train(make, alpha):
    torch.manual_seed(0)
    model = make()
    calls = []
    model.get_input_embeddings().register_forward_hook(lambda *_: calls.append(1))
    trainer = Seq2SeqTrainer(model, Seq2SeqTrainingArguments(
        sys.argv[1], per_device_train_batch_size=4, max_steps=10, learning_rate=1e-2, logging_steps=10,
        neftune_noise_alpha=alpha, save_strategy="no", report_to=[], disable_tqdm=True, use_cpu=True),
        train_dataset=rows, data_collator=DataCollatorForSeq2Seq(tokenizer, model=model))
    trainer.train()
    return (trainer.state.log_history[0]["loss"], len(calls),
            torch.nn.utils.parameters_to_vector(model.parameters()).detach())
for name, make in (("T5", lambda: T5ForConditionalGeneration(T5Config(**t5))),
                   ("mT5", lambda: MT5ForConditionalGeneration(MT5Config(**t5))),
                   ("BART", lambda: BartForConditionalGeneration(BartConfig(**bart)))):
    plain, _, weights = train(make, None)
    for alpha in (5.0, 500.0):
        loss, calls, moved = train(make, alpha)
        print(f"{transformers.__version__} {name}, alpha {alpha:g}: loss {loss:.3f}, without noise {plain:.3f},"
              f" same weights {torch.equal(weights, moved)}, calls of the embedding {calls}")
PY
for version in 5.24.0 4.57.6; do
  "$work/env/bin/pip" install -q --disable-pip-version-check \
    "transformers==$version" torch==2.13.0 accelerate==1.15.0 2>/dev/null
  "$work/env/bin/python" "$work/try.py" "$work/$version" 2>/dev/null | grep "^$version" | tee -a "$work/seen"
done
seen() { grep -q "^$1" "$work/seen" || { echo "changed: no line '$1'"; exit 1; }; }
for alpha in 5 500; do
  for model in T5 mT5; do
    seen "5.24.0 $model, alpha $alpha: .* same weights True, calls of the embedding 0$"
    seen "4.57.6 $model, alpha $alpha: .* same weights False, calls of the embedding 20$"
  done
  for version in 5.24.0 4.57.6; do
    seen "$version BART, alpha $alpha: .* same weights True, calls of the embedding 0$"
  done
done
echo "as found: for a T5 hook encoder.embed_tokens and decoder.embed_tokens yourself"
