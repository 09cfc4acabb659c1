#!/usr/bin/env bash
# A SeqIO mixture with num_epochs=1 is not one pass over its tasks: examples are drawn at the mixture's
# rates until the first task runs out, and what the others have left is never seen. So it is for tasks of
# the same size at the same rate, for rates in proportion to the sizes and without shuffling; how many
# examples come depends on the seed. num_input_examples counts them all.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install -q --disable-pip-version-check seqio==0.0.20 tensorflow==2.21.0 2>/dev/null
cat > "$work/try.py" <<'PY'
import importlib.metadata, numpy as np, seqio, tensorflow as tf
print(*(importlib.metadata.version(name) for name in ("seqio", "tensorflow")))
def task(name, size, first):
    def examples(split, shuffle_files=False, seed=None):
        ids = np.arange(first, first + size, dtype=np.int32)[:, None]
        return tf.data.Dataset.from_tensor_slices({"inputs": ids})
    source = seqio.FunctionDataSource(examples, splits=["train"], num_input_examples={"train": size})
    feature = seqio.Feature(seqio.PassThroughVocabulary(2000), add_eos=False, dtype=tf.int32)
    seqio.TaskRegistry.add(name, source=source, preprocessors=[], output_features={"inputs": feature})
    return name
def show(name, one, other, rate, shuffle):
    tasks = [task(f"{name}_1", one, 1), task(f"{name}_2", other, 1000)]
    mixture = seqio.MixtureRegistry.add(name, tasks, default_rate=rate)
    seen = []
    for seed in range(20):
        dataset = mixture.get_dataset(None, "train", shuffle=shuffle, seed=seed, num_epochs=1)
        seen.append(len({int(example["inputs"][0]) for example in dataset.as_numpy_iterator()}))
    print(f"{name}: {one} + {other} examples, {mixture.num_input_examples('train')} counted;",
          f"of 20 seeds {sum(count == one + other for count in seen)} see all,",
          f"the fewest that one sees are {min(seen)}, the mean is {np.mean(seen):.1f}")
show("even", 200, 200, 1.0, True)
show("even_unshuffled", 200, 200, 1.0, False)
show("even_rates", 6, 20, 1.0, True)
show("rates_of_the_sizes", 6, 20, seqio.mixing_rate_num_examples, True)
PY
TF_CPP_MIN_LOG_LEVEL=3 "$work/env/bin/python" "$work/try.py" 2>/dev/null | tee "$work/seen"
grep -q "^0.0.20 2.21.0" "$work/seen"
for mixture in even even_unshuffled rates_of_the_sizes even_rates; do
  grep -q "^$mixture: .* of 20 seeds [0-3] see all" "$work/seen"
done
grep -qE "^even: .* sees are 3[5-7][0-9], the mean is 3[78][0-9]" "$work/seen"
grep -qE "^even_rates: .* sees are ([6-9]|1[0-2]), the mean is 1[3-7]" "$work/seen"
echo "as found: with one epoch a mixture ends where its first task does"
