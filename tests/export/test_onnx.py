"""The ONNX recipe of docs/export.md, run as printed in the environment of `make test-server`."""

import pathlib
import re

import pytest
from helpers import made_checkpoints as made
from helpers import transformers_python

from sbs_jax.checkpoints.formats import hf_write

PAGE = pathlib.Path(__file__).resolve().parents[2] / "docs" / "export.md"

COMPARE = """
import runpy, sys
try:
    import onnxruntime
except ImportError:
    print("no onnxruntime")
    sys.exit()
globals().update(runpy.run_path(sys.argv[1]))
texts = ["a", "What is it that we ask here?", "yes or no"]
for prefix in ("[label] ", "[rationale] "):
    inputs = tokenizer([prefix + text for text in texts], padding=True, return_tensors="pt")
    ids = model.generate(**inputs, do_sample=False, max_new_tokens=12)
    print([*map(str.strip, tokenizer.batch_decode(ids, skip_special_tokens=True))])
    print([*map(str.strip, ask(texts, prefix, 12))])
"""


@pytest.mark.slow
def test_the_recipe_gives_the_ids_of_generate(tmp_path):
    transformers_python.require()
    hf_write.write(tmp_path / "model", made.checkpoint(vocabulary="bytes"))
    (code,) = re.findall(r"```python\n(import onnxruntime.*?)```", PAGE.read_text(), re.DOTALL)
    for printed, here in (("students/cqa", tmp_path / "model"), ("cqa.onnx", tmp_path / "m.onnx")):
        assert printed in code
        code = code.replace(printed, str(here))
    (tmp_path / "code.py").write_text(code)
    printed = transformers_python.run(COMPARE, tmp_path / "code.py").splitlines()
    if printed[-1] == "no onnxruntime":
        pytest.skip("onnxruntime is not installed; make test-server installs it apart")
    *_, label, label_onnx, rationale, rationale_onnx = printed
    assert label == label_onnx
    assert rationale == rationale_onnx
    assert label != rationale, "a model that ignores its input tests nothing"
