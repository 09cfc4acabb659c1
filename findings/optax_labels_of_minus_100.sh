#!/usr/bin/env bash
# transformers' collator pads labels with -100, "ignore" to torch; optax takes any label from -V to -1 for
# the first to the last id. Of T5's 32,128 ids -100 is 32,028, an extra id: the loss is finite, falls like
# any other, and teaches every padded position to answer it. Outside of -V to V - 1 the loss is NaN, but
# its gradient is finite and lowers every logit.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install -q --disable-pip-version-check \
  optax==0.2.8 jax==0.10.2 jaxlib==0.10.2 transformers==5.23.0 2>/dev/null
cat > "$work/try.py" <<'PY'
import jax, jax.numpy as jnp, numpy as np, optax, transformers
from transformers import ByT5Tokenizer, DataCollatorForSeq2Seq
print(optax.__version__, jax.__version__, transformers.__version__)
tokenizer = ByT5Tokenizer()
rows = [{"input_ids": [35, 1], "labels": tokenizer(text).input_ids} for text in ("yes", "certainly")]
labels = DataCollatorForSeq2Seq(tokenizer)(rows, return_tensors="np")["labels"]
print("labels of the first row:", labels[0].tolist())
size = len(tokenizer)
loss = lambda logits, labels: optax.softmax_cross_entropy_with_integer_labels(logits, labels)
mean = jax.jit(jax.value_and_grad(lambda logits: loss(logits, labels).mean()))
logits = jnp.zeros((*labels.shape, size))
first = mean(logits)[0]
for _ in range(300):
    value, gradient = mean(logits)
    logits -= 20 * gradient
print(f"loss {first:.2f} at first and {value:.2f} after 300 updates; answers of the first row:",
      logits[0].argmax(-1).tolist(), f"of {size} ids")
logits = jax.random.normal(jax.random.key(0), (32128,))
for label in (-100, 32128, -32129):
    value, gradient = jax.value_and_grad(loss)(logits, label)
    print(f"T5's {logits.size} ids, label {label}: loss {value:.3f}, gradient lowest at",
          f"{gradient.argmin()} with {gradient.min():.3f}, sum {abs(gradient.sum()):.3f}")
PY
JAX_PLATFORMS=cpu "$work/env/bin/python" "$work/try.py" 2>/dev/null | tee "$work/seen"
grep -q "^0.2.8 0.10.2 5.23.0" "$work/seen"
grep -q "^labels of the first row: \[124, 104, 118, 1, -100, " "$work/seen"
grep -q "and 0.00 after 300 updates; .*: \[124, 104, 118, 1, 284, 284, .* of 384 ids" "$work/seen"
grep -q "^T5's 32128 ids, label -100: loss 11.*, gradient lowest at 32028 with -1.000" "$work/seen"
grep -q "^T5's 32128 ids, label 32128: loss nan, .* sum 1.000" "$work/seen"
echo "as found: give optax labels from 0 to V - 1 and weigh padded positions with 0"
