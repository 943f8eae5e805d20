import json
import os

import pytest
import torch
from safetensors.torch import save_file

import unmask
from unmask.cli import main
from unmask.data import tokenizer as tokenizers
from unmask.errors import UsageError


class RunsCode:
    def __reduce__(self):
        return os.system, ("touch ran",)


def weights(vocab=258, width=32, mask=True):
    generator = torch.Generator().manual_seed(0)
    named = {"transformer.wte.weight": (vocab + mask, width), "lm_head.weight": (vocab, width)}
    for layer in range(2):
        block = f"transformer.h.{layer}"
        named |= {f"{block}.attn.attn.weight": (3 * width, width), f"{block}.attn.proj.weight": (width, width)}
        named |= {f"{block}.mlp.swiglu.w{n}.weight": (40, width) for n in (1, 2)}
        named[f"{block}.mlp.swiglu.w3.weight"] = (width, 40)
        named |= {f"{block}.norm_{n}.weight": (width,) for n in (1, 2)}
    named["transformer.ln_f.weight"] = (width,)
    return {name: torch.randn(shape, generator=generator) for name, shape in named.items()}


@pytest.fixture
def source(tmp_path):
    save_file(weights(), tmp_path / "mdm.safetensors")
    return tmp_path / "mdm.safetensors"


def test_a_conversion_says_what_was_mapped(source, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["convert", "smdm", str(source), str(out), "--num-heads", "2", "--rope-precision", "bfloat16"]) == 0
    said = capsys.readouterr().out
    assert "masked (mask token 258), 16,032 non-embedding parameters, float32" in said
    assert "2 layers, 2 heads, width 32 and 40, vocabulary 258, context 2,048" in said
    assert "17 tensors mapped to 21" in said
    assert "no tokenizer" in said
    assert unmask.load(out).config.rope_precision == "bfloat16"


def test_the_summary_as_json(source, tmp_path, capsys):
    arguments = ["convert", "smdm", str(source), str(tmp_path / "out"), "--num-heads", "4", "--context-length", "64"]
    assert main([*arguments, "--tokenizer", "bytes", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["format"], summary["tensors_read"], summary["tensors_written"]) == ("smdm", 17, 21)
    assert (summary["config"]["n_head"], summary["config"]["context_length"]) == (4, 64)
    assert (summary["tokenizer"], summary["warnings"], summary["dtypes"]) == (True, [], ["float32"])


def test_without_a_tokenizer_ids_work_and_text_asks_for_one(source, tmp_path, capsys):
    assert main(["convert", "smdm", str(source), str(tmp_path / "out"), "--num-heads", "2"]) == 0
    lm = unmask.load(tmp_path / "out")
    assert lm.mask_id == 258
    assert lm.logits_fn(torch.tensor([[5, 258, 7]])).shape == (1, 3, 258)
    assert lm.score([1, 2], [3, 4]).exact
    for call in (lambda: lm.score("a", "b"), lambda: lm.generate("a"), lambda: lm.infill("a _")):
        with pytest.raises(UsageError, match=r"has no tokenizer, so it takes and gives ids alone: .*--tokenizer"):
            call()
    with pytest.raises(UsageError, match="token id 258: not in the vocabulary of 258"):
        lm.score([1], [258])
    assert main(["score", str(tmp_path / "out"), "--continuation", "b"]) == 2
    assert "has no tokenizer" in capsys.readouterr().err
    # saved again it still has none, and a tokenizer that is put there is taken
    lm.save(tmp_path / "again")
    assert unmask.load(tmp_path / "again").mask_id == 258
    tokenizers.byte_level().save(tmp_path / "again")
    assert unmask.load(tmp_path / "again").score("a", "b").exact
    tokenizers.train_bpe(["some text"] * 9, 262).save(tmp_path / "again")
    with pytest.raises(ValueError, match="predicts 258 tokens and its tokenizer has 26"):
        unmask.load(tmp_path / "again")


def test_a_tokenizer_that_belongs_to_another_network_is_refused(source, tmp_path, capsys):
    arguments = ["convert", "smdm", str(source), str(tmp_path / "out"), "--num-heads", "2", "--tokenizer"]
    assert main([*arguments, "mistral"]) == 1
    assert "the network has 258 tokens and its tokenizer 32000: give the tokenizer" in capsys.readouterr().err
    assert main([*arguments, "bpe:300"]) == 2
    assert "fits no trained network" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["smdm", "absent.pth", "out"], 2, "absent.pth: no such file or folder"),
        (["smdm", "SOURCE", "out"], 2, "give --num-heads"),
        (["smdm", "SOURCE", "out", "--num-heads", "0"], 2, "--num-heads 0: must be at least 1"),
        (["smdm", "SOURCE", "out", "--rope-precision", "float8"], 2, "must be one of"),
        (["bert", "SOURCE", "out"], 2, "must be one of"),
        (["llada", "SOURCE", "out"], 2, "config.json: no such file"),
        (["gguf", "SOURCE", "out"], 1, "not a whole GGUF file"),
    ],
)
def test_errors_are_one_line(arguments, status, words, source, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["convert", *(str(source) if part == "SOURCE" else part for part in arguments)]) == status
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_hostile_and_broken_files(source, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({**weights(), "x": RunsCode()}, tmp_path / "evil.pth")
    assert main(["convert", "smdm", "evil.pth", "out", "--num-heads", "2"]) == 1
    assert "evil.pth: refused: opening this pickle would call posix.system" in capsys.readouterr().err
    assert not (tmp_path / "ran").exists()
    source.write_bytes(source.read_bytes()[:-9])
    assert main(["convert", "smdm", str(source), "out", "--num-heads", "2"]) == 1
    assert "damaged or cut short" in capsys.readouterr().err
    named = weights()
    named["lm_head.weight"][0, 0] = torch.inf
    save_file(named, source)
    assert main(["convert", "smdm", str(source), "out", "--num-heads", "2"]) == 0
    assert "unmask: warning: lm_head.weight holds NaN or infinity" in capsys.readouterr().err
