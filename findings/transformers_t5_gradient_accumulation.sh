#!/usr/bin/env bash
# The Trainer of transformers 5.23.0 multiplies the gradient of a T5 by gradient_accumulation_steps. It takes
# any model whose forward has **kwargs for one that divides its loss by num_items_in_batch, and then does not
# divide by the steps; T5's has, and returns the mean of the micro-batch all the same. Eight micro-batches of
# a row are a step eight times as long as one batch of eight; the logged loss, and the grad_norm that
# max_grad_norm clips, are eight times as large, eval_loss is right. BART is hit, too. With label smoothing
# the Trainer computes the loss and all is right, as is everything in transformers 4.57.6.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
cat > "$work/try.py" <<'PY'
import sys, torch, transformers
from transformers import (BartConfig, BartForConditionalGeneration, ByT5Tokenizer, DataCollatorForSeq2Seq,
                          Seq2SeqTrainer, Seq2SeqTrainingArguments, T5Config, T5ForConditionalGeneration)
transformers.utils.logging.set_verbosity_error(); transformers.utils.logging.disable_progress_bar()
small = dict(vocab_size=384, d_model=16, decoder_start_token_id=0)
def t5():
    return T5ForConditionalGeneration(T5Config(
        **small, d_kv=8, d_ff=32, num_layers=1, num_heads=2, dropout_rate=0.0))
def bart():
    return BartForConditionalGeneration(BartConfig(
        **small, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2,
        encoder_ffn_dim=32, decoder_ffn_dim=32, dropout=0.0, pad_token_id=0, eos_token_id=1))
tokenizer = ByT5Tokenizer()
rows = [{"input_ids": tokenizer(f"question {i}").input_ids, "labels": tokenizer(f"answer {i}").input_ids}
        for i in range(8)]
def step(name, make, size, smoothing=0.0, told=False):
    torch.manual_seed(0)
    model = make()
    before = torch.nn.utils.parameters_to_vector(model.parameters()).detach().clone()
    trainer = Seq2SeqTrainer(model, Seq2SeqTrainingArguments(
        sys.argv[1], per_device_train_batch_size=size, gradient_accumulation_steps=8 // size, max_steps=1,
        logging_steps=1, optim="sgd", learning_rate=1e-3, lr_scheduler_type="constant", max_grad_norm=1e9,
        label_smoothing_factor=smoothing, save_strategy="no", report_to=[], disable_tqdm=True,
        use_cpu=True), train_dataset=rows, data_collator=DataCollatorForSeq2Seq(tokenizer, model=model))
    if told:
        trainer.model_accepts_loss_kwargs = False
    trainer.train()
    moved = (torch.nn.utils.parameters_to_vector(model.parameters()) - before).norm()
    log, loss = trainer.state.log_history[0], trainer.evaluate(rows)["eval_loss"]
    print(f"{transformers.__version__} {name}, {8 // size} x {size} rows: loss {log['loss']:.2f},",
          f"grad_norm {log['grad_norm']:.2f}, step {1000 * moved:.2f}, eval_loss {loss:.2f}")
    return moved
for name, make, *rest in (("T5", t5), ("T5 smoothed", t5, 0.1), ("T5 told", t5, 0.0, True), ("BART", bart)):
    one, many = (step(name, make, size, *rest) for size in (8, 1))
    print(f"{transformers.__version__} {name}: 8 x 1 rows go {many / one:.1f} times as far as 1 x 8")
PY
for version in 5.23.0 4.57.6; do
  "$work/env/bin/pip" install -q --disable-pip-version-check \
    "transformers==$version" torch==2.13.0 accelerate==1.15.0 2>/dev/null
  "$work/env/bin/python" "$work/try.py" "$work/$version" 2>/dev/null | grep "^$version" | tee -a "$work/seen"
done
loss() { sed -n "s/^$1: loss \([0-9.]*\), .*/\1/p" "$work/seen"; }
[[ $(loss "5.23.0 T5, 1 x 8 rows") == 6.8* && $(loss "5.23.0 T5, 8 x 1 rows") == 54.6* ]]
grep -q "^5.23.0 T5, 8 x 1 rows: .* eval_loss 6.79" "$work/seen"
grep -q "^5.23.0 T5: 8 x 1 rows go 8.0 times" "$work/seen"
grep -q "^5.23.0 T5 smoothed: 8 x 1 rows go 1.0 times" "$work/seen"
grep -q "^5.23.0 T5 told: 8 x 1 rows go 1.0 times" "$work/seen"
grep -q "^5.23.0 BART: 8 x 1 rows go 8.0 times" "$work/seen"
grep -q "^4.57.6 T5: 8 x 1 rows go 1.0 times" "$work/seen"
grep -q "^4.57.6 BART: 8 x 1 rows go 1.0 times" "$work/seen"
echo "as found: set trainer.model_accepts_loss_kwargs = False before a T5 trains with accumulation"
