#!/usr/bin/env bash
# nnx.metrics.Average and Accuracy of flax 0.12.8 take a mask that "should be broadcastable to the shape of
# values array". They sum over the broadcast mask, but count the mask as it is: with one weight per row of
# tokens, (batch, 1), the mean is as many times too large as a row has tokens, with one per position,
# (length,), as there are rows; one right token of 16 is an accuracy of 1.00. A sum of fractions is cut to a
# whole number at each update, 2.4 to 2. Nothing is said.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install -q --disable-pip-version-check \
  flax==0.12.8 jax==0.10.2 jaxlib==0.10.2 2>/dev/null
cat > "$work/try.py" <<'PY'
import flax, jax, jax.numpy as jnp
from flax import nnx
print("flax", flax.__version__)
loss = jax.random.uniform(jax.random.key(0), (8, 16))           # 8 answers of 16 tokens
rows = jnp.array([1.0] * 5 + [0.0] * 3)[:, None]                # the last three rows only fill the batch
positions = (jnp.arange(16) < 4).astype(jnp.float32)            # the first four tokens of each answer
fractions = jnp.full((8, 16), 0.3 / 16)                         # their sum is 2.4
for name, mask in (("of the values' shape", jnp.broadcast_to(rows, loss.shape)), ("one per row", rows),
                   ("one per position", positions), ("fractions", fractions)):
    average = nnx.metrics.Average("loss")
    average.update(loss=loss, mask=mask)
    right = (loss * mask).sum() / jnp.broadcast_to(mask, loss.shape).sum()
    print(f"mask {name}: mean loss {average.compute():.3f}, right is {right:.3f}")
logits = jax.random.normal(jax.random.key(1), (8, 16, 10))
best = logits.argmax(-1)
labels = jnp.where(jnp.arange(16) == 3, best, (best + 1) % 10)  # one token of each row is right
for name, mask in (("of the values' shape", jnp.broadcast_to(rows, labels.shape)), ("one per row", rows)):
    accuracy = nnx.metrics.Accuracy()
    accuracy.update(logits=logits, labels=labels, mask=mask)
    print(f"mask {name}: accuracy {accuracy.compute():.4f}, right is {1 / 16}")
PY
JAX_PLATFORMS=cpu "$work/env/bin/python" "$work/try.py" 2>/dev/null | tee "$work/seen"
seen() { grep -q "^$1" "$work/seen" || { echo "changed: no line '$1'"; exit 1; }; }
seen "flax 0.12.8"
seen "mask of the values' shape: mean loss 0.532, right is 0.532"
seen "mask one per row: mean loss 8.505, right is 0.532"
seen "mask one per position: mean loss 4.387, right is 0.548"
seen "mask fractions: mean loss 0.632, right is 0.527"
seen "mask of the values' shape: accuracy 0.0625"
seen "mask one per row: accuracy 1.0000"
echo "as found: broadcast a mask to the values' shape, and give it zeros and ones, before nnx.metrics sees it"
