"""What is told of quantised weights; with bitsandbytes itself where it is installed."""

import importlib.util
import json
import shutil
import sys

import pytest

from thriftune.errors import MissingDependency, ModelError
from thriftune.model import load
from thriftune.quantized import loading_arguments

BITSANDBYTES = importlib.util.find_spec("bitsandbytes") is not None


def test_without_bitsandbytes_the_pip_line_is_said(tiny_model, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(MissingDependency, match="--quantize 4bit needs bitsandbytes.*pip install bitsandbytes"):
        load(str(tiny_model), device="cpu", quantize="4bit")
    stored = shutil.copytree(tiny_model, tmp_path / "stored")
    config = json.loads((stored / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_8bit": True}
    (stored / "config.json").write_text(json.dumps(config))
    with pytest.raises(MissingDependency, match="pip install bitsandbytes"):
        load(str(stored), device="cpu")
    with pytest.raises(ModelError, match="quantised already: leave out --quantize 8bit"):
        load(str(stored), device="cpu", quantize="8bit")


def test_plain_weights_and_other_methods_are_left_to_transformers():
    assert loading_arguments(None, None, "m", "cpu", "float32") == {}
    assert loading_arguments(None, {"quant_method": "gptq"}, "m", "cpu", "float32") == {}


@pytest.mark.skipif(not BITSANDBYTES, reason="pip install bitsandbytes")
@pytest.mark.parametrize("quantize", ["4bit", "8bit"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_quantised_models_score(tiny_model, quantize, dtype):
    from thriftune.scoring.transformers import Pass

    lm = load(str(tiny_model), device="cpu", quantize=quantize, dtype=dtype)
    plain = load(str(tiny_model), device="cpu", dtype=dtype)

    def size(model):
        return sum(p.numel() * p.element_size() for p in model.parameters())

    assert size(lm.model) < size(plain.model)
    Pass(lm, max_new_tokens=4).check()
