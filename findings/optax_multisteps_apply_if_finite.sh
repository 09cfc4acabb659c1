#!/usr/bin/env bash
# optax.MultiSteps around apply_if_finite: one NaN gradient stays in the accumulator, which is emptied by
# multiplying it with 0. Nothing is learned from then on, without a NaN in sight, until apply_if_finite
# gives up and lets it through; around zero_nans nothing is ever learned again. The other way round, or
# with should_skip_update_fn, one gradient is lost.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install -q --disable-pip-version-check optax==0.2.8 jax==0.10.2 jaxlib==0.10.2 2>/dev/null
cat > "$work/try.py" <<'PY'
import jax, jax.numpy as jnp, optax
print(optax.__version__, jax.__version__)
sgd = optax.sgd(0.01)
optimizers = {
    "MultiSteps(apply_if_finite)": optax.MultiSteps(optax.apply_if_finite(sgd, 10), 4),
    "MultiSteps(zero_nans)": optax.MultiSteps(optax.chain(optax.zero_nans(), sgd), 4),
    "apply_if_finite(MultiSteps)": optax.apply_if_finite(optax.MultiSteps(sgd, 4).gradient_transformation(), 10),
    "MultiSteps(skip_not_finite)": optax.MultiSteps(sgd, 4, should_skip_update_fn=optax.skip_not_finite),
}
for name, optimizer in optimizers.items():
    parameter = jnp.ones(())
    state, update = optimizer.init(parameter), jax.jit(optimizer.update)
    values = []
    for step in range(400):  # every gradient is 1 but the sixth
        change, state = update(jnp.where(step == 5, jnp.nan, 1.0), state, parameter)
        parameter = optax.apply_updates(parameter, change)
        values.append(f"{parameter:.2f}")
    print(f"{name}:", ", ".join(f"{values[n - 1]} after {n}" for n in (4, 44, 48, 400)))
PY
JAX_PLATFORMS=cpu "$work/env/bin/python" "$work/try.py" | tee "$work/seen"
grep -q "^0.2.8 0.10.2" "$work/seen"
grep -q "^MultiSteps(apply_if_finite): 0.99 after 4, 0.99 after 44, nan after 48, nan after 400" "$work/seen"
grep -q "^MultiSteps(zero_nans): 0.99 after 4, 0.99 after 44, 0.99 after 48, 0.99 after 400" "$work/seen"
grep -q "^apply_if_finite(MultiSteps): 0.99 after 4, 0.90 after 44, 0.89 after 48, 0.01 after 400" "$work/seen"
grep -q "^MultiSteps(skip_not_finite): 0.99 after 4, 0.90 after 44, 0.89 after 48, 0.01 after 400" "$work/seen"
echo "as found: a guard against NaN goes around the accumulation, never inside it"
