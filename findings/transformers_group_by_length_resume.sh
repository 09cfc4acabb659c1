#!/usr/bin/env bash
# A Trainer of transformers 5.24.0 that groups rows by their length, and is resumed within its second epoch or
# a later one, draws that epoch's order again from another state of the random numbers, skips as many batches
# as were trained on, and goes on: some rows of the epoch come twice and as many never. Without grouping the
# order is the one of the run that went on, to the last bit of the weights; with a checkpoint of the first
# epoch, too. 4.57.6 does the same.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
cat > "$work/try.py" <<'PY'
import sys, torch, transformers
from transformers import (ByT5Tokenizer, DataCollatorForSeq2Seq, Seq2SeqTrainer, Seq2SeqTrainingArguments,
                          T5Config, T5ForConditionalGeneration)
transformers.utils.logging.set_verbosity_error(); transformers.utils.logging.disable_progress_bar()
tokenizer = ByT5Tokenizer()
rows = [{"input_ids": tokenizer("question " * (1 + i % 9)).input_ids, "labels": tokenizer(f"{i}").input_ids,
         "row": i} for i in range(200)]
class Watched(Seq2SeqTrainer):
    def training_step(self, model, inputs, *rest, **more):
        self.batches.append(inputs.pop("row").tolist())
        return super().training_step(model, inputs, *rest, **more)
def train(folder, grouped, resume=None):
    torch.manual_seed(0)
    model = T5ForConditionalGeneration(T5Config(vocab_size=384, d_model=16, d_kv=8, d_ff=32, num_layers=1,
                                                num_heads=2, decoder_start_token_id=0))
    group = {} if not grouped else {"group_by_length": True} if transformers.__version__ < "5" else {
        "train_sampling_strategy": "group_by_length"}
    trainer = Watched(model, Seq2SeqTrainingArguments(
        folder, per_device_train_batch_size=10, num_train_epochs=2, save_steps=10, remove_unused_columns=False,
        report_to=[], disable_tqdm=True, use_cpu=True, **group),
        train_dataset=rows, data_collator=DataCollatorForSeq2Seq(tokenizer, model=model))
    trainer.batches = []
    trainer.train(resume_from_checkpoint=resume)
    return trainer.batches, torch.nn.utils.parameters_to_vector(model.parameters()).detach()
for grouped in (False, True):
    folder = f"{sys.argv[1]}-{grouped}"
    whole, weights = train(folder, grouped)
    for step in (10, 30):
        rest, others = train(folder + "-again", grouped, f"{folder}/checkpoint-{step}")
        first = step // 20 * 20                              # an epoch is 20 steps
        epoch = [row for batch in whole[first:step] + rest[:20 - step + first] for row in batch]
        print(f"{transformers.__version__} grouped {grouped}, resumed at step {step} of 40: {len(epoch)} rows in"
              f" its epoch, {len(set(epoch))} different, same weights {torch.equal(weights, others)}")
PY
for version in 5.24.0 4.57.6; do
  "$work/env/bin/pip" install -q --disable-pip-version-check \
    "transformers==$version" torch==2.13.0 accelerate==1.15.0 2>/dev/null
  "$work/env/bin/python" "$work/try.py" "$work/$version" 2>/dev/null | grep "^$version" | tee -a "$work/seen"
done
seen() { grep -q "^$1" "$work/seen" || { echo "changed: no line '$1'"; exit 1; }; }
for version in 5.24.0 4.57.6; do
  seen "$version grouped False, resumed at step 10 of 40: 200 rows in its epoch, 200 different, same weights True"
  seen "$version grouped False, resumed at step 30 of 40: 200 rows in its epoch, 200 different, same weights True"
  seen "$version grouped True, resumed at step 10 of 40: 200 rows in its epoch, 200 different, same weights True"
  seen "$version grouped True, resumed at step 30 of 40: 200 rows in its epoch, 1[45]. different, same weights False"
done
echo "as found: with rows grouped by length resume at the end of an epoch"
