"""Packing: short examples side by side in one row, with the loss and gradients that they have in their own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.train.runs import losses, stopped
from tests.train.sft_runs import ALONE, opened, sft

import unmask
from unmask import cli
from unmask.errors import UsageError
from unmask.parametrization import STANDARD
from unmask.records import Record
from unmask.sft_config import SftConfig
from unmask.train import loop, starting_point
from unmask.train.loop import train
from unmask.train.parallel import World
from unmask.train.sft_batches import packed
from unmask.train.tasks import Batch

STARTS: dict[str, dict[str, Any]] = {
    "mdm": {},
    "arm": {"model": "arm"},
    "any_order": {"objective": "any_order"},
    "dropped prompts": {"prompt_drop": 0.4},
    "arm to mdm": {"model": "arm", "objective": "mdm", "length": 96},
    "mdm lora": {"lora_rank": 2},
    "arm lora": {"model": "arm", "lora_rank": 2},
    "recomputed": {"activation_checkpointing": True},
    "micro-batches": {"micro_batch_size": 2},
}


@pytest.fixture(scope="module")
def varied(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Examples from 4 to 80 tokens long."""
    items = [{"prompt": f"{n}:", "completion": "ab" * (30 if n % 9 == 0 else 1 + n * 7 % 10)} for n in range(60)]
    path = tmp_path_factory.mktemp("varied") / "varied.json"
    path.write_text(json.dumps(items))
    return str(path)


def packing_run(models: dict[str, str], *files: str, model: str = "mdm", **fields: Any) -> SftConfig:
    return sft(models[model], *files, **{"padding": "masked", "batch_size": 12, "turns": "all", **fields})


def gradients(run: SftConfig, step: int = 0) -> tuple[float, dict[str, torch.Tensor], Batch]:
    """The loss of a step, its gradients and its batch."""
    source = starting_point.source(run)
    task, batches = opened(run)
    beginning = starting_point.find(task.run, task, source)
    model, _ = loop.build_model(beginning, task.run, ALONE, STANDARD, bfloat16=False)
    for name, parameter in model.named_parameters():  # adapters that are not zero, attention that is not even
        with torch.no_grad():
            generator = torch.Generator().manual_seed(len(name))
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.15)
    seen_LL = starting_point.attention(task.run, 1, 100) if beginning.adapted else None
    loss = loop.backward(model, batches[step].parts, seen_LL, tokens=batches[step].scored, world=ALONE, bfloat16=False)
    return loss, {n: p.grad for n, p in model.named_parameters() if p.grad is not None}, batches[step]


@pytest.mark.parametrize("start", STARTS)
def test_a_packed_step_has_the_loss_and_the_gradients_of_one_that_is_not(
    start: str, models: dict[str, str], varied: str
) -> None:
    run = packing_run(models, varied, **STARTS[start])
    alone, alone_gradients, plain = gradients(run)
    together, together_gradients, batch = gradients(packing_run(models, varied, packing=True, **STARTS[start]))
    positions = [sum(part.inputs_BL.numel() for part in each.parts) for each in (batch, plain)]
    assert positions[0] < 0.6 * positions[1]
    assert together == pytest.approx(alone, rel=1e-5)
    assert together_gradients.keys() == alone_gradients.keys()
    for name, gradient in together_gradients.items():
        torch.testing.assert_close(gradient, alone_gradients[name], rtol=1e-4, atol=1e-5, msg=name)
    assert any(gradient.abs().max() > 1e-3 for gradient in together_gradients.values())


@pytest.mark.parametrize("model", ["mdm", "arm"])
def test_examples_are_moved_as_they_were_corrupted_and_the_loss_is_divided_by_the_same(
    model: str, models: dict[str, str], varied: str
) -> None:
    fields: dict[str, Any] = {"model": model, "prompt_drop": 0.3 if model == "mdm" else 0.0}
    task, plain = opened(packing_run(models, varied, **fields))
    _, together = opened(packing_run(models, varied, packing=True, **fields))
    for step in (0, 7):
        (whole,), (part,) = plain[step].parts, together[step].parts
        assert together[step].scored == plain[step].scored
        assert part.present_BL is None
        assert part.segment_BL is not None
        lengths_G = task.train.lengths_N[task.order[step]]
        assert len(part.inputs_BL) < len(whole.inputs_BL)
        found = 0
        for row, places in enumerate(together.order.rows(step)):
            for number, place in enumerate(places):
                mine_L, length = part.segment_BL[row] == number, lengths_G[place]
                for name in ("inputs_BL", "targets_BL", "weights_BL"):
                    moved = getattr(part, name)[row, mine_L]
                    assert torch.equal(moved, getattr(whole, name)[place, :length])
                found += int(mine_L.sum())
        empty_RL = part.segment_BL == -1
        assert found == lengths_G.sum() == (~empty_RL).sum()
        assert (part.targets_BL[empty_RL] == -100).all()
        assert not part.weights_BL[empty_RL].any()


def test_two_processes_have_all_rows_and_as_many_each(models: dict[str, str], varied: str) -> None:
    run = packing_run(models, varied, packing=True, micro_batch_size=1)
    worlds = [World(rank, 2, ALONE.device) for rank in (0, 1)]
    (task, whole), *halves = (opened(run, world) for world in (ALONE, *worlds))
    odd = 0
    for step in range(6):
        parts = [batches[step].parts for _, batches in halves]
        count = len(task.order.rows(step))
        odd += count % 2
        assert [len(each) for each in parts] == [-(-count // 2)] * 2
        dealt = [part for pair in zip(*parts, strict=True) for part in pair]
        for ours, theirs in zip(dealt, whole[step].parts, strict=False):
            assert torch.equal(ours.inputs_BL, theirs.inputs_BL)
            assert torch.equal(ours.segment_BL, theirs.segment_BL)  # type: ignore[arg-type]
        for part in dealt[count:]:  # a row of padding alone
            assert (part.segment_BL == -1).all()
            assert (part.targets_BL == -100).all()
        assert {batches[step].scored for _, batches in halves} == {whole[step].scored}
    assert odd


def test_a_row_of_padding_alone_adds_nothing_to_the_gradient(models: dict[str, str], varied: str) -> None:
    _, batches = opened(packing_run(models, varied, packing=True))
    (part,) = batches[0].parts
    model = unmask.load(models["mdm"], "cpu").model
    empty = packed(part, [], [[], []])
    assert loop.backward(model, [empty], tokens=1, world=ALONE, bfloat16=False) == 0
    gradients = [parameter.grad for parameter in model.parameters()]
    assert all(gradient is not None and not gradient.any() for gradient in gradients)


@pytest.mark.parametrize("start", ["mdm", "arm lora"])
def test_a_resumed_packed_run_goes_on_to_the_last_bit(
    start: str, models: dict[str, str], varied: str, tmp_path: Path
) -> None:
    fields = {"steps": 7, "checkpoint_every": 3, "bucket_batches": 2, "validation_share": 0.1, "packing": True}
    run = packing_run(models, varied, **fields, **STARTS[start])
    whole = list(train(run, tmp_path / "whole"))
    first = stopped(run, tmp_path / "stopped", 5)
    second = list(train(run, tmp_path / "stopped", resume=True))
    assert losses(first) | losses(second) == losses(whole)
    assert (second[-1]["loss"], second[-1]["tokens"]) == (whole[-1]["loss"], whole[-1]["tokens"])
    one, other = (load_file(tmp_path / name / "model/model.safetensors") for name in ("whole", "stopped"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_packed_run_learns_what_one_that_is_not_does_from_fewer_tokens(
    models: dict[str, str], varied: str, tmp_path: Path
) -> None:
    ends: dict[bool, Record] = {}
    for packing in (False, True):
        run = packing_run(models, varied, packing=packing, steps=6, learning_rate=1e-3)
        records = list(train(run, tmp_path / f"{packing}"))
        ends[packing] = {**records[-1], "losses": losses(records)}
    assert ends[True]["losses"] == pytest.approx(ends[False]["losses"], rel=1e-3)
    assert ends[True]["tokens"] < 0.6 * ends[False]["tokens"]


def test_packing_with_padding_that_is_scored_is_refused_in_one_line(
    models: dict[str, str], files: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UsageError, match=r"padding 'eos' is scored .*: add --padding masked"):
        SftConfig(packing=True)
    command = ["train", "sft", "--model", models["mdm"], "--data", files["many"], "--out", str(tmp_path / "run")]
    assert cli.main([*command, "--packing"]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "--padding masked" in told
    assert not (tmp_path / "run").exists()
    options = ["--packing", "--padding=masked", "--steps=1", "--batch-size=8", "--no-tensorboard"]
    assert cli.main([*command, *options]) == 0
    assert cli.main([*command, *options[1:], "--resume"]) == 2
    assert "packing True instead of False" in capsys.readouterr().err
