"""The training loop: what it leaves behind, exact resume, accumulation, and steps that are not finite."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.train.runs import losses
from torch import Tensor

import unmask
from unmask import objectives, seeding
from unmask.config import ModelConfig, RunConfig
from unmask.errors import UnmaskError, UsageError
from unmask.model import Transformer
from unmask.objectives import Corrupted, Rows
from unmask.records import Record, read
from unmask.scaling.study import points_of_runs
from unmask.train import loop, tasks, text_task
from unmask.train.loop import train
from unmask.train.parallel import World

Tiny = Callable[..., RunConfig]
ALONE = World(0, 1, torch.device("cpu"))


def interrupt_at(step: int, records: Any, number: signal.Signals = signal.SIGTERM) -> list[Record]:
    """Exhaust a run, sending a signal when `step` is reported."""
    seen: list[Record] = []
    for record in records:
        seen.append(record)
        if record["kind"] == "train" and record["step"] == step:
            os.kill(os.getpid(), number)
    return seen


def test_a_run_leaves_its_config_metrics_checkpoints_and_model(tiny: Tiny, finished: tuple[Path, list[Record]]) -> None:
    directory, records = finished
    assert [record["kind"] for record in records] == ["start", *["train"] * 8, "valid", "end"]
    assert read(directory / "metrics.jsonl") == records
    assert json.loads((directory / "config.json").read_text())["size"] == "33K"
    assert sorted(path.name for path in (directory / "checkpoints").iterdir()) == ["step-00000006", "step-00000008"]
    lm = unmask.load(directory, device="cpu")
    assert lm.objective == "mdm"
    assert lm.generate("the ", max_new_tokens=4, seed=0).text.startswith("the ")


def test_the_end_record_is_what_studies_and_reports_read(finished: tuple[Path, list[Record]], tmp_path: Path) -> None:
    directory, records = finished
    end, valid = records[-1], records[-2]
    assert {name: end[name] for name in valid if name != "kind"} == {n: v for n, v in valid.items() if n != "kind"}
    params = 32928
    assert (end["step"], end["tokens"], end["params"]) == (8, 8 * 8 * 16, params)
    assert end["flops"] == 6 * params * 8 * 8 * 16
    assert (end["objective"], end["size"], end["split"], end["flop_convention"]) == ("mdm", "33K", "valid", "6nd")
    assert end["bound"] is True
    assert end["bits_per_byte"] == pytest.approx(end["loss"] / math.log(2), rel=0.01)  # bytes, and an EOS a document
    assert 0 < end["standard_error"] < end["loss"]
    assert end["seconds"] > 0
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/a").symlink_to(directory)
    (point,) = points_of_runs(tmp_path)
    assert (point.objective, point.loss, point.params, point.tokens) == ("mdm", end["loss"], params, end["tokens"])


def test_a_run_learns(tiny: Tiny, tmp_path: Path) -> None:
    run = tiny(steps=60, log_every=60, validate_every=10, checkpoint_every=60)
    valid = [record["loss"] for record in train(run, tmp_path / "run") if record["kind"] == "valid"]
    assert len(valid) == 6
    assert math.log(258) > valid[0] > valid[1] > valid[-1]
    assert valid[-1] < 2.8  # there are 17 different bytes, and log(17) is 2.83


@pytest.mark.parametrize("objective", ["arm", "mlm", "span", "any_order", "block"])
def test_every_objective_trains_and_only_the_causal_one_is_exact(objective: str, tiny: Tiny, tmp_path: Path) -> None:
    records = list(train(tiny(objective=objective, steps=2), tmp_path / "run"))
    assert records[-1]["bound"] is (objective != "arm")
    config = unmask.load(tmp_path / "run", device="cpu").config
    assert config.causal is (objective == "arm")
    assert config.block_length == (16 if objective == "block" else 0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_finishes_the_step_and_resuming_gives_the_same_losses_to_the_last_bit(
    number: signal.Signals, tiny: Tiny, finished: tuple[Path, list[Record]], tmp_path: Path
) -> None:
    directory = tmp_path / "run"
    before = signal.getsignal(number)
    first = interrupt_at(4, train(tiny(), directory), number)
    assert first[-1]["kind"] == "stop"
    assert (first[-1]["step"], first[-1]["signal"]) == (4, number.name)
    assert signal.getsignal(number) is before
    second = list(train(tiny(), directory, resume=True))
    assert second[0]["step"] == 4
    assert losses(first) | losses(second) == losses(finished[1])
    assert second[-1]["loss"] == finished[1][-1]["loss"]
    assert losses(read(directory / "metrics.jsonl")) == losses(finished[1])
    weights = [unmask.load(place, device="cpu").model.state_dict() for place in (directory, finished[0])]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_a_run_whose_rates_follow_its_size_goes_on_to_the_last_bit_too(tiny: Tiny, tmp_path: Path) -> None:
    run = tiny(size="56K", parametrization="completep", base_size="8K", steps=6)
    whole = list(train(run, tmp_path / "whole"))
    interrupt_at(3, train(run, tmp_path / "run"))
    second = list(train(run, tmp_path / "run", resume=True))
    assert second[0]["step"] == 3
    assert losses(second) == {step: loss for step, loss in losses(whole).items() if step > 3}
    standard = list(train(dataclasses.replace(run, parametrization="standard"), tmp_path / "standard"))
    assert losses(standard) != losses(whole)


def test_a_run_on_limited_tokens_trains_on_others_and_refuses_more_than_there_are(
    tiny: Tiny, finished: tuple[Path, list[Record]], tmp_path: Path
) -> None:
    few = losses(list(train(tiny(unique_tokens=64), tmp_path / "few")))
    assert few.keys() == losses(finished[1]).keys()
    assert few != losses(finished[1])
    with pytest.raises(UsageError, match="unique_tokens 999999 must be from 16, one window, to the"):
        list(train(tiny(unique_tokens=999999), tmp_path / "many"))
    assert not (tmp_path / "many").exists()


def test_killed_at_a_random_step_and_resumed_the_losses_are_the_same_to_the_last_bit(
    tiny: Tiny, corpus: Path, tmp_path: Path
) -> None:
    run = tiny(steps=100, checkpoint_every=7, validation_windows=0)
    fields = [f"--{name.replace('_', '-')}={getattr(run, name)}" for name in ("data", "size", "length", "batch_size")]
    fields += [f"--{name.replace('_', '-')}={getattr(run, name)}" for name in ("steps", "learning_rate", "log_every")]
    fields += ["--checkpoint-every=7", "--validation-windows=0", f"--short-share={run.short_share}", "--no-tensorboard"]
    command = [sys.executable, "-m", "unmask", "train", "pretrain", f"--out={tmp_path / 'killed'}", *fields]
    metrics = tmp_path / "killed/metrics.jsonl"
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    process = subprocess.Popen(command, env={**os.environ, **threads}, stderr=subprocess.DEVNULL)
    kill_after = random.randint(1, 60)
    while not metrics.exists() or metrics.read_text().count('"train"') < kill_after:
        assert process.poll() is None
        time.sleep(0.002)
    process.kill()
    assert process.wait() == -signal.SIGKILL

    resumed = list(train(run, tmp_path / "killed", resume=True))
    assert resumed[0]["step"] % 7 == 0, f"killed after {kill_after} steps"
    found = losses(read(metrics))
    assert found == losses(list(train(run, tmp_path / "whole"))), f"killed after {kill_after} steps"
    assert len(found) == 100


def test_a_run_that_has_ended_gives_its_result_again(tiny: Tiny, finished: tuple[Path, list[Record]]) -> None:
    before = (finished[0] / "metrics.jsonl").read_text()
    assert list(train(tiny(), finished[0], resume=True)) == finished[1][-1:]
    assert (finished[0] / "metrics.jsonl").read_text() == before


def test_resume_begins_where_there_is_nothing(tiny: Tiny, finished: tuple[Path, list[Record]], tmp_path: Path) -> None:
    assert losses(list(train(tiny(), tmp_path / "new", resume=True))) == losses(finished[1])


def model_and_batch(objective: str, **fields: Any) -> tuple[Transformer, Corrupted]:
    config = ModelConfig.of_size(
        "33K",
        vocab_size=40,
        context_length=12,
        mask_id=None if objective == "arm" else 40,
        causal=objective == "arm",
    )
    model = Transformer(config)
    model.init_weights(seeding.generator(0, "init"))
    tokens_BL = torch.randint(40, (6, 12), generator=seeding.generator(1, "tokens"))
    corrupted = objectives.lookup(objective)(tokens_BL, seeding.generator(2, "corruption"), mask_id=40, bos_id=1)
    return model, corrupted


def gradient(model: Transformer, micro_batches: list[Corrupted]) -> tuple[float, Tensor]:
    loss = loop.backward(model, micro_batches, tokens=72, world=ALONE, bfloat16=False)
    whole = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    model.zero_grad()
    return loss, whole


@pytest.mark.parametrize("objective", ["mdm", "arm"])
@pytest.mark.parametrize("size", [1, 4])
def test_micro_batches_give_the_gradient_of_the_whole_batch(objective: str, size: int) -> None:
    model, corrupted = model_and_batch(objective)
    loss, whole = gradient(model, tasks.split(corrupted, 0))
    parts = tasks.split(corrupted, size)
    assert [len(part.inputs_BL) for part in parts] == ([1] * 6 if size == 1 else [4, 2])
    loss_in_parts, in_parts = gradient(model, parts)
    assert loss_in_parts == pytest.approx(loss, rel=1e-6)
    torch.testing.assert_close(in_parts, whole, rtol=1e-4, atol=1e-7)


def test_activation_checkpointing_changes_nothing() -> None:
    model, corrupted = model_and_batch("mdm")
    loss, whole = gradient(model, [corrupted])
    model.activation_checkpointing = True
    again, recomputed = gradient(model, [corrupted])
    assert again == loss
    assert torch.equal(recomputed, whole)


def test_a_micro_batch_in_which_nothing_is_masked_adds_nothing() -> None:
    model, corrupted = model_and_batch("mdm")
    nothing = Corrupted(
        corrupted.inputs_BL, torch.full_like(corrupted.targets_BL, -100), torch.zeros_like(corrupted.weights_BL)
    )
    loss, whole = gradient(model, [corrupted])
    assert gradient(model, [nothing])[0] == 0
    loss_with, with_nothing = gradient(model, [corrupted, nothing])
    assert loss_with == loss
    torch.testing.assert_close(with_nothing, whole)


@given(st.integers(1, 24), st.integers(1, 24), st.integers(1, 3))
def test_cutting_keeps_every_token_once(length: int, piece: int, rows_each: int) -> None:
    tokens_BL = torch.arange(rows_each * length).view(rows_each, length)
    pieces = text_task.cut(tokens_BL, Rows(0, rows_each), min(piece, length))
    assert sorted(token for part, _ in pieces for token in part.flatten().tolist()) == list(range(tokens_BL.numel()))
    assert pieces[0][0].shape[1] == min(piece, length)
    for part, _ in pieces:  # and keeps neighbours together
        assert (part[:, 1:] - part[:, :-1] == 1).all()


@pytest.mark.parametrize("objective", ["mdm", "span", "any_order", "mlm"])
def test_pieces_are_corrupted_alike_whatever_process_has_them(objective: str, tiny: Tiny) -> None:
    corrupt = tasks.with_settings(tiny(objective=objective), 258, 256)
    tokens_BL = torch.randint(256, (6, 16), generator=seeding.generator(0, "tokens"))

    def inputs(tokens: Tensor, rows: Rows) -> list[Tensor]:
        return [
            corrupt(part, seeding.generator(0, f"corruption {number}", 3), rows=part_rows).inputs_BL
            for number, (part, part_rows) in enumerate(text_task.cut(tokens, rows, 5))
        ]

    whole = inputs(tokens_BL, Rows(0, 6))
    halves = [inputs(tokens_BL[start : start + 3], Rows(start, 6)) for start in (0, 3)]
    assert len(whole) == 2
    for number, part in enumerate(whole):
        assert torch.equal(part, torch.cat([half[number] for half in halves]))


def test_the_wanted_share_of_the_steps_has_short_sequences(tiny: Tiny) -> None:
    lengths = [text_task.piece_length(tiny(short_share=0.25, length=64), step) for step in range(4000)]
    short = [length for length in lengths if length < 64]
    assert len(short) / 4000 == pytest.approx(0.25 * 63 / 64, abs=0.02)
    assert set(short) == set(range(1, 64))
    assert sum(short) / len(short) == pytest.approx(32, abs=2)
    assert {text_task.piece_length(tiny(short_share=1.0, objective="arm"), step) for step in range(20)} == {16}


def overflowing(steps: set[int]) -> Callable[..., Corrupted]:
    """The objective mdm, with infinite weights in some steps, counted from 1; call 0 is the loop's check."""
    calls = 0

    def objective(tokens_BL: Tensor, generator: torch.Generator, **settings: Any) -> Corrupted:
        nonlocal calls
        calls += 1
        corrupted = objectives.mdm(tokens_BL, generator, **settings)
        scale = math.inf if calls - 1 in steps else 1.0
        return Corrupted(corrupted.inputs_BL, corrupted.targets_BL, corrupted.weights_BL * scale)

    return objective


def test_a_step_that_is_not_finite_is_skipped_and_told(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(objectives.OBJECTIVES, "mdm", overflowing({3, 4, 6}))
    records = list(train(tiny(short_share=0.0), tmp_path / "run"))
    skips = [record for record in records if record["kind"] == "skip"]
    assert [record["step"] for record in skips] == [3, 4, 6]
    assert skips[0]["reason"].startswith("loss ")
    found = losses(records)
    assert found[3] is None
    assert all(found[step] is not None for step in (1, 2, 5, 7, 8))
    assert math.isfinite(records[-1]["loss"])
    # none is saved while it is not known whether the weights are sound
    assert sorted(path.name for path in (tmp_path / "run/checkpoints").iterdir()) == ["step-00000008"]


def test_a_loss_on_held_out_text_that_is_not_finite_is_an_error(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoil(optimizer: torch.optim.Optimizer, rate: float) -> None:
        for parameter in optimizer.param_groups[1]["params"]:  # the norms, without which all is nan
            parameter.data.fill_(math.nan)

    monkeypatch.setattr(loop.optim, "set_learning_rate", spoil)
    with pytest.raises(UnmaskError, match="the loss on 'valid' is nan: lower --learning-rate"):
        list(train(tiny(steps=2), tmp_path / "run"))


def test_three_in_a_row_end_the_run_and_leave_the_last_good_checkpoint(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(objectives.OBJECTIVES, "mdm", overflowing({5, 6, 7}))
    with pytest.raises(UnmaskError) as caught:
        list(train(tiny(short_share=0.0), tmp_path / "run"))
    message = str(caught.value)
    for part in ("3 steps in a row", "at step 7", "learning rate 0.000", "lower the rate", "step-00000003"):
        assert part in message
    monkeypatch.undo()
    assert losses(list(train(tiny(short_share=0.0), tmp_path / "run", resume=True))).keys() == {4, 5, 6, 7, 8}


def test_the_checkpoint_of_the_weights_that_gave_something_not_finite_is_not_called_good(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(objectives.OBJECTIVES, "mdm", overflowing({7, 8, 9}))
    with pytest.raises(UnmaskError, match=r"last good checkpoint: [^ ]*step-00000003: lower"):
        list(train(tiny(short_share=0.0, steps=10), tmp_path / "run"))
    assert (tmp_path / "run/checkpoints/step-00000006").exists()


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"data": ""}, "give --data"),
        ({"steps": None}, "give --steps or --flops"),
        ({"objective": "mdn"}, "unknown objective 'mdn': did you mean 'mdm'"),
        ({"validation_split": "vald"}, "did you mean 'valid'"),
        ({"kv_heads": 3}, "n_head 1 must be a multiple of n_kv_head 3"),
        ({"warmup_steps": 8}, "warmup_steps 8 must be less than the 8 steps"),
    ],
)
def test_a_config_that_cannot_run_is_refused_before_anything_is_written(
    fields: dict[str, Any], words: str, tiny: Tiny, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=words):
        list(train(tiny(**fields), tmp_path / "run"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("fields", [{"length": 100_000}, {"length": 8000}])
def test_a_split_shorter_than_one_window_is_refused(fields: dict[str, Any], tiny: Tiny, tmp_path: Path) -> None:
    with pytest.raises(UnmaskError, match="less than one window"):
        list(train(tiny(**fields), tmp_path / "run"))
    assert not (tmp_path / "run").exists()
