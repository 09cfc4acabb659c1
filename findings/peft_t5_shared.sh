#!/usr/bin/env bash
# peft 0.21.2 "sets as trainable" the embedding of a T5 that modules_to_save=["shared"] names, counts its
# weights as trainable and saves them; they are never used. The wrapper is put around model.shared, and encoder
# and decoder look tokens up in embed_tokens, which still are the base's: the copy gets no gradient and saved
# is the start's. LoRA on "shared" is as dead. No warning; ensure_weight_tying finds no tied module. With a
# task's new tokens ([label], [rationale]) they stay random. The same with transformers 5.24.0 and 4.57.6;
# trainable_token_indices does train them.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
cat > "$work/try.py" <<'PY'
import torch, transformers, warnings
from peft import LoraConfig, get_peft_model
from transformers import T5Config, T5ForConditionalGeneration
transformers.utils.logging.set_verbosity_error()
def base():
    torch.manual_seed(0)
    model = T5ForConditionalGeneration(T5Config(vocab_size=384, d_model=16, d_kv=8, d_ff=32, num_layers=1,
                                                num_heads=2, decoder_start_token_id=0, dropout_rate=0.0))
    model.resize_token_embeddings(386)                         # two new tokens
    return model
questions, answers = torch.randint(3, 384, (8, 12)), torch.randint(3, 384, (8, 6))
questions[:, 0] = 384 + torch.arange(8) % 2                    # each question begins with one of them
for name, options in (("modules_to_save", dict(modules_to_save=["shared"])),
                      ("ensure_weight_tying", dict(modules_to_save=["shared"], ensure_weight_tying=True)),
                      ("LoRA", dict(target_modules=["q", "shared"])),
                      ("trainable_token_indices", dict(trainable_token_indices=[384, 385]))):
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        model = get_peft_model(base(), LoraConfig(task_type="SEQ_2_SEQ_LM", **{"target_modules": ["q"], **options}))
    said = [w for w in said if issubclass(w.category, UserWarning)]
    mine = {n: p for n, p in model.named_parameters() if p.requires_grad and ".shared." in n}
    before = {n: p.detach().clone() for n, p in mine.items()}
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.01)
    for _ in range(50):
        optimizer.zero_grad(); loss = model(input_ids=questions, labels=answers).loss; loss.backward(); optimizer.step()
    model.eval()
    table = model.base_model.model.encoder.embed_tokens
    moved = (table(torch.tensor([384, 385])) - base().shared.weight[384:]).abs().max()
    gradients = sum(p.grad is not None for p in mine.values())
    print(f"{transformers.__version__} {name}: {sum(p.numel() for p in mine.values())} trainable numbers in shared,"
          f" {gradients} of {len(mine)} tensors with a gradient,"
          f" moved by {max((p - before[n]).abs().max() for n, p in mine.items()):.2f},"
          f" new tokens in the encoder by {moved:.2f}, {len(said)} warnings")
PY
for version in 5.24.0 4.57.6; do
  "$work/env/bin/pip" install -q --disable-pip-version-check \
    peft==0.21.2 "transformers==$version" torch==2.13.0 accelerate==1.15.0 2>/dev/null
  "$work/env/bin/python" "$work/try.py" 2>/dev/null | grep "^$version" | tee -a "$work/seen"
done
seen() { grep -q "^$1" "$work/seen" || { echo "changed: no line '$1'"; exit 1; }; }
for version in 5.24.0 4.57.6; do
  seen "$version modules_to_save: 6176 trainable .* 0 of 1 tensors with a gradient, moved by 0.00, .* encoder by 0.00, 0 w"
  seen "$version ensure_weight_tying: 6176 trainable .* 0 of 1 tensors with a gradient, moved by 0.00, .* encoder by 0.00"
  seen "$version LoRA: 3216 trainable .* 0 of 2 tensors with a gradient, moved by 0.00, .* encoder by 0.00, 0 warnings"
  seen "$version trainable_token_indices: 32 trainable .* 1 of 1 tensors with a gradient, moved by 0.*, .* encoder by 0.[1-9]"
done
echo "as found: train new tokens of a T5 with trainable_token_indices, and look for parameters without a gradient"
