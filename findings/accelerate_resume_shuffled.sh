#!/usr/bin/env bash
# accelerate 1.15.0 resumes a shuffled DataLoader within an epoch as its documentation shows, by load_state and
# skip_first_batches, into another order: the epoch is drawn again from the random numbers at the time of
# save_state, so rows come twice and as many never. use_stateful_dataloader=True, where load_state alone is to
# restore the place, has the same fault, although torchdata's StatefulDataLoader alone is right.
# use_seedable_sampler=True is right if set_epoch is called at the start of each epoch, and not without.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install -q --disable-pip-version-check \
  accelerate==1.15.0 torch==2.13.0 torchdata==0.11.0 2>/dev/null
cat > "$work/try.py" <<'PY'
import sys, torch, accelerate
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration, set_seed
from torch.utils.data import DataLoader
ROWS, SIZE, STEPS, STOP = list(range(400)), 10, 40, 20
def start(options):
    set_seed(0)
    accelerator = Accelerator(cpu=True, dataloader_config=DataLoaderConfiguration(**options))
    model = torch.nn.Linear(1, 1)
    return accelerator, *accelerator.prepare(
        model, torch.optim.SGD(model.parameters(), lr=0.1), DataLoader(ROWS, batch_size=SIZE, shuffle=True))
def resumed(name, options, set_epoch=False):
    for stopped in (0, 1):
        accelerator, _, _, loader = start(options)
        epoch = []
        for number in range(stopped + 1):
            if set_epoch:
                loader.set_epoch(number)
            for step, batch in enumerate(loader, 1):
                if number == stopped:
                    epoch += batch.tolist()
                    if step == STOP:
                        accelerator.save_state(f"{sys.argv[1]}/{name}-{stopped}")
                        break
        accelerator, _, _, loader = start(options)             # as in a new process
        accelerator.load_state(f"{sys.argv[1]}/{name}-{stopped}")
        if not options.get("use_stateful_dataloader"):
            loader = accelerator.skip_first_batches(loader, STOP)
        if set_epoch:
            loader.set_epoch(stopped)
        epoch += [row for batch in loader for row in batch.tolist()]
        print(f"{name}, resumed in epoch {stopped + 1}: {len(epoch)} rows, {len(set(epoch))} different")
print("accelerate", accelerate.__version__)
resumed("skip_first_batches", {})
resumed("seedable sampler", {"use_seedable_sampler": True})
resumed("seedable sampler and set_epoch", {"use_seedable_sampler": True}, set_epoch=True)
resumed("stateful dataloader", {"use_stateful_dataloader": True})
from torchdata.stateful_dataloader import StatefulDataLoader
torch.manual_seed(0)
loader = StatefulDataLoader(ROWS, batch_size=SIZE, shuffle=True)
first = iter(loader)
epoch = [row for _ in range(STOP) for row in next(first).tolist()]
state = loader.state_dict()
loader = StatefulDataLoader(ROWS, batch_size=SIZE, shuffle=True)
loader.load_state_dict(state)
epoch += [row for batch in loader for row in batch.tolist()]
print(f"torchdata alone: {len(epoch)} rows, {len(set(epoch))} different")
resumed("stateful dataloader, torchdata imported first", {"use_stateful_dataloader": True})
PY
"$work/env/bin/python" "$work/try.py" "$work/states" 2>"$work/errors" | tee "$work/seen"
seen() { grep -q "^$1" "$work/seen" || { echo "changed: no line '$1'"; exit 1; }; }
seen "accelerate 1.15.0"
for epoch in 1 2; do
  seen "skip_first_batches, resumed in epoch $epoch: 400 rows, \(29\|3[01]\). different"
  seen "stateful dataloader, resumed in epoch $epoch: 400 rows, \(29\|3[01]\). different"
  seen "stateful dataloader, torchdata imported first, resumed in epoch $epoch: 400 rows, \(29\|3[01]\). different"
  seen "seedable sampler and set_epoch, resumed in epoch $epoch: 400 rows, 400 different"
done
seen "seedable sampler, resumed in epoch 2: 400 rows, \(29\|3[01]\). different"
seen "torchdata alone: 400 rows, 400 different"
echo "as found: use_seedable_sampler=True, and set_epoch at the start of each epoch, also of the resumed one"
