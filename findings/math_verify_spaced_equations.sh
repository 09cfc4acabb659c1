#!/usr/bin/env bash
# SVAMP's labels, and the answers of students trained on them, are equations with spaces inside the brackets:
# "( 8.0 - 3.0 )". math-verify takes the last number for the whole equation. Compared with the number it gives,
# every right equation is wrong; compared with the gold equation, every equation that ends in the same number is
# right, whatever the operation and the first number. Without those spaces, or between dollars, all is right.
# "3 x 8" is 8 as well.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install -q --disable-pip-version-check \
  math-verify==0.9.0 latex2sympy2_extended==1.11.0 sympy==1.14.0 2>/dev/null
cat > "$work/try.py" <<'PY'
import random
from importlib.metadata import version
from math_verify import parse, verify
print("math-verify", version("math-verify"), "latex2sympy2_extended", version("latex2sympy2_extended"))
for text in ("( 8.0 - 3.0 )", "(8.0 - 3.0)", "$( 8.0 - 3.0 )$", "8.0 - 3.0", "3 x 8"):
    print(f"{text}: is 5 {verify(parse('5'), parse(text))}, is 3 {verify(parse('3'), parse(text))}")
draws = random.Random(0)
VALUE = {"+": lambda a, b: a + b, "-": lambda a, b: a - b, "*": lambda a, b: a * b}
rows = []
for _ in range(300):
    one, two = draws.sample(range(2, 100), 2)
    sign = draws.choice(list(VALUE))
    rows.append((max(one, two), sign, min(one, two)))
for form in ("( {}.0 {} {}.0 )", "({}.0 {} {}.0)"):
    gold = [form.format(*row) for row in rows]
    wrong = [form.format(a + 7, draws.choice([each for each in VALUE if each != sign]), b)
             for a, sign, b in rows]
    def right(answers, golds):
        return sum(verify(parse(g), parse(a)) for g, a in zip(golds, answers))
    numbers = [str(VALUE[sign](a, b)) for a, sign, b in rows]
    print("form", form.format("a", "*", "b"))
    print("right equations that equal their number:", right(gold, numbers), "of", len(rows))
    print("wrong equations that equal the gold equation:", right(wrong, gold), "of", len(rows))
PY
"$work/env/bin/python" "$work/try.py" 2>&1 | tee "$work/seen"
grep -q "^math-verify 0.9.0 latex2sympy2_extended 1.11.0" "$work/seen"
grep -qF "( 8.0 - 3.0 ): is 5 False, is 3 True" "$work/seen"
grep -qF '$( 8.0 - 3.0 )$: is 5 True, is 3 False' "$work/seen"
sed -n "/^form ( a/,/^form (a/p" "$work/seen" | grep -q "equal their number: 0 of 300"
sed -n "/^form ( a/,/^form (a/p" "$work/seen" | grep -q "equal the gold equation: 300 of 300"
sed -n "/^form (a/,\$p" "$work/seen" | grep -q "equal their number: 300 of 300"
sed -n "/^form (a/,\$p" "$work/seen" | grep -q "equal the gold equation: 0 of 300"
echo "as found: compute such equations, or take the spaces out of the brackets"
