"""LoRA: adapters are trained and nothing else, and merged they give the same network."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.train.runs import losses, stopped
from tests.train.sft_runs import network, opened, sft
from torch.distributed.checkpoint import FileSystemReader
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

import unmask
from unmask import seeding
from unmask.errors import UsageError
from unmask.model import Transformer
from unmask.sft_config import SftConfig
from unmask.train import lora
from unmask.train.loop import train

TOKENS_BL = torch.randint(250, (3, 20), generator=torch.Generator().manual_seed(0))
SOME_BL = torch.rand(3, 20, generator=torch.Generator().manual_seed(1)) < 0.4


def trained_a_little(model: Transformer, run: SftConfig) -> Transformer:
    """`model` with adapters that are not zero."""
    lora.attach(model, run)
    generator = seeding.generator(1, "test")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:
                parameter.normal_(std=0.2, generator=generator)
    return model


@pytest.mark.parametrize("objective", ["mdm", "arm"])
@pytest.mark.parametrize("fields", [{}, {"qkv_bias": True, "tied_embeddings": True}])
@torch.no_grad()
def test_merged_weights_give_the_logits_of_the_network_with_adapters(objective: str, fields: dict[str, Any]) -> None:
    run = sft("x", "y", lora_rank=3)
    plain, model = network(objective, **fields).model, network(objective, **fields).model
    before_BLV = plain(TOKENS_BL)
    trained_a_little(model, run)
    alone = Transformer.of_weights(model.config, lora.merged(model.config, model.state_dict(), run))
    adapted_BLV = model(TOKENS_BL)
    assert (adapted_BLV - before_BLV).abs().max() > 0.5
    torch.testing.assert_close(alone(TOKENS_BL), adapted_BLV, atol=2e-5, rtol=1e-4)
    # the last block computes queries of the selected positions alone, in either
    torch.testing.assert_close(model(TOKENS_BL, SOME_BL), adapted_BLV[SOME_BL], atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(alone(TOKENS_BL, SOME_BL), adapted_BLV[SOME_BL], atol=2e-5, rtol=1e-4)
    assert torch.equal(plain(TOKENS_BL), before_BLV)


def test_new_adapters_change_nothing_and_come_from_the_seed_alone() -> None:
    plain, *models = (network().model for _ in range(4))
    torch.manual_seed(5)
    state = torch.get_rng_state()
    for model, seed in zip(models, (0, 0, 1), strict=True):
        lora.attach(model, sft("x", "y", lora_rank=3, seed=seed))
    assert torch.equal(torch.get_rng_state(), state)
    same, again, other = (model.state_dict() for model in models)
    assert all(torch.equal(same[name], again[name]) for name in same)
    name = "blocks.0.attention.qkv.lora_A.default.weight"
    assert not torch.equal(same[name], other[name])
    with torch.no_grad():
        assert torch.equal(models[0](TOKENS_BL), plain(TOKENS_BL))


def test_rank_alpha_and_layers_are_those_of_the_run() -> None:
    model = network().model
    lora.attach(model, sft("x", "y", lora_rank=5, lora_layers=("out", "down"), lora_alpha=15))
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert {name.split(".lora_")[0].removeprefix("blocks.") for name in trained} == {
        f"{block}.{part}" for block in (0, 1) for part in ("attention.out", "mlp.down")
    }
    assert {min(parameter.shape) for parameter in trained.values()} == {5}
    block: Any = model.blocks[0]
    assert block.mlp.down.scaling == {"default": 3.0}


@pytest.mark.parametrize("start", ["mdm", "arm", "arm to mdm"])
def test_a_run_trains_adapters_alone_and_saves_them_merged_and_on_their_own(
    start: str, models: dict[str, str], files: dict[str, str], tmp_path: Path
) -> None:
    base, goal = start.split(" to ") if " to " in start else (start, "")
    settings = {"steps": 40, "batch_size": 6, "learning_rate": 5e-2, "turns": "all", "objective": goal}
    known = {"validation_conversations": (files["sharegpt"],), "validation_draws": 16}
    run = sft(models[base], files["sharegpt"], lora_rank=4, length=96, **settings, **known)
    records = list(train(run, tmp_path / "run"))
    assert records[0]["trained_params"] == 2 * 4 * ((32 + 96) + (32 + 32) + (32 + 256) + (128 + 32))
    assert records[-1]["loss"] < math.log(258) - 0.25  # an untrained one knows nothing
    full = list(train(sft(models[base], files["sharegpt"], **{**settings, "steps": 1}, length=96), tmp_path / "full"))
    assert losses(records)[1] == losses(full)[1]

    lm, before = unmask.load(tmp_path / "run", "cpu"), unmask.load(models[base], "cpu")
    ours, theirs = lm.model.state_dict(), before.model.state_dict()
    rows = theirs["embedding.weight"].shape[0]
    for name, tensor in theirs.items():
        changed = name.endswith(("qkv.weight", "out.weight", "gate_up.weight", "down.weight"))
        assert torch.equal(ours[name][:rows] if name == "embedding.weight" else ours[name], tensor) != changed
    adapters = load_file(tmp_path / "run/model/adapter/adapter_model.safetensors")
    assert sum(tensor.numel() for tensor in adapters.values()) == records[0]["trained_params"]
    settled = json.loads((tmp_path / "run/model/adapter/adapter_config.json").read_text())
    assert (settled["r"], settled["lora_alpha"], settled["base_model_name_or_path"]) == (4, 8, models[base])


@pytest.mark.parametrize("objective", ["mdm", "arm"])
@torch.no_grad()
def test_peft_puts_the_saved_adapter_on_our_model_in_transformers(
    objective: str, models: dict[str, str], files: dict[str, str], tmp_path: Path
) -> None:
    from peft import PeftModel

    with torch.enable_grad():
        list(train(sft(models[objective], files["many"], lora_rank=2, learning_rate=5e-2), tmp_path / "run"))
    cls = AutoModelForCausalLM if objective == "arm" else AutoModelForMaskedLM
    theirs = PeftModel.from_pretrained(cls.from_pretrained(models[objective]), tmp_path / "run/model/adapter")
    ours = unmask.load(tmp_path / "run", "cpu").model
    torch.testing.assert_close(theirs(input_ids=TOKENS_BL).logits, ours(TOKENS_BL), atol=2e-5, rtol=1e-4)


def test_a_resumed_run_goes_on_to_the_last_bit_and_its_checkpoints_hold_adapters_alone(
    models: dict[str, str], files: dict[str, str], tmp_path: Path
) -> None:
    run = sft(models["mdm"], files["many"], lora_rank=2, steps=7, checkpoint_every=3)
    whole = list(train(run, tmp_path / "whole"))
    first = stopped(run, tmp_path / "stopped", 4)
    second = list(train(run, tmp_path / "stopped", resume=True))
    assert losses(first) | losses(second) == losses(whole)
    one, other = (load_file(tmp_path / name / "model/model.safetensors") for name in ("whole", "stopped"))
    assert all(torch.equal(one[name], other[name]) for name in one)

    held = FileSystemReader(tmp_path / "whole/checkpoints/step-00000007").read_metadata().state_dict_metadata
    assert {".lora_" in name for name in held if name.startswith("model.")} == {True}


def test_a_run_does_not_go_on_with_other_frozen_weights(
    models: dict[str, str], files: dict[str, str], tmp_path: Path
) -> None:
    lm = network()
    lm.save(tmp_path / "moved")
    list(train(sft(models["mdm"], files["many"], lora_rank=2), tmp_path / "run"))
    assert opened(sft(str(tmp_path / "moved"), files["many"], lora_rank=2))
    (end,) = train(sft(str(tmp_path / "moved"), files["many"], lora_rank=2), tmp_path / "run", resume=True)
    assert end["kind"] == "end"
    with torch.no_grad():
        lm.model.blocks[0].attention.qkv.weight[0, 0] += 1e-3  # type: ignore[union-attr, index]
    lm.save(tmp_path / "moved")
    with pytest.raises(UsageError, match=r"the run began with other weights than those of .*moved: give --model"):
        list(train(sft(str(tmp_path / "moved"), files["many"], lora_rank=2), tmp_path / "run", resume=True))


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"lora_rank": -1}, "lora_rank -1 must not be negative"),
        ({"lora_layers": ("head",)}, r"lora_layers \('head',\) must be some of qkv, out, gate_up, down"),
        ({"lora_rank": 2, "parametrization": "completep"}, "parametrization 'completep' is for a network whose own"),
    ],
)
def test_settings_that_cannot_be_are_refused(fields: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        SftConfig(**fields)


def test_without_peft_one_line_says_what_to_install(
    models: dict[str, str], files: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(UsageError, match=r"lora_rank 2: needs the package peft: pip install 'unmask\[lora\]'"):
        list(train(sft(models["mdm"], files["many"], lora_rank=2), tmp_path / "run"))
    assert not (tmp_path / "run").exists()
