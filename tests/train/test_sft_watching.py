"""What a fine-tuning run shows and keeps on its way: the best model so far, and answers to held-out prompts."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from tests.train.sft_runs import ALONE, opened, sft

import unmask
from unmask.records import Record, read
from unmask.train.loop import train
from unmask.train.progress import TrainingProgress


def watched(model: str, *files: str, **fields: Any) -> Any:
    settings: dict[str, Any] = {"steps": 12, "batch_size": 6, "validation_share": 0.2, "validate_every": 2}
    return sft(model, *files, **{**settings, "learning_rate": 3e-2, "warmup_steps": 0, **fields})


def valid_losses(records: list[Record]) -> dict[int, float]:
    return {record["step"]: record["loss"] for record in records if record["kind"] == "valid"}


@pytest.mark.parametrize("fields", [{}, {"lora_rank": 2}])
def test_the_model_of_the_lowest_validation_loss_is_kept_also_over_a_stop(
    fields: dict[str, Any], models: dict[str, str], files: dict[str, str], tmp_path: Path
) -> None:
    others = (files["sharegpt"],)  # unlike those that are trained on
    run = watched(models["arm"], files["many"], checkpoint_every=4, validation_conversations=others, **fields)
    whole = list(train(run, tmp_path / "whole"))
    found = valid_losses(whole)
    step = min(found, key=lambda each: found[each])
    assert list(found) == [2, 4, 6, 8, 10, 12]
    assert step < 12  # so that best is not simply the last
    kept = json.loads((tmp_path / "whole/best/best.json").read_text())
    assert kept == {"best_step": step, "best_loss": found[step]}
    assert (whole[-1]["best_step"], whole[-1]["best_loss"]) == (step, found[step])
    validation = opened(run)[0].validation()
    assert validation is not None
    best = unmask.load(tmp_path / "whole/best", "cpu").model
    assert validation.measure(best, ALONE, bfloat16=False)["loss"] == pytest.approx(found[step], rel=1e-5)

    for record in train(run, tmp_path / "stopped"):
        if record["kind"] == "train" and record["step"] == 7:
            os.kill(os.getpid(), signal.SIGTERM)
    list(train(run, tmp_path / "stopped", resume=True))
    assert json.loads((tmp_path / "stopped/best/best.json").read_text()) == kept
    one, other = (load_file(tmp_path / name / "best/model.safetensors") for name in ("whole", "stopped"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_run_killed_while_it_kept_its_best_keeps_the_same_in_the_end(
    models: dict[str, str], files: dict[str, str], tmp_path: Path
) -> None:
    run = watched(models["arm"], files["many"], checkpoint_every=3)
    list(train(run, tmp_path / "whole"))
    directory = tmp_path / "killed"
    for record in train(run, directory):
        if record["kind"] == "valid" and record["step"] == 4:
            break  # as a kill would: step 4 has no checkpoint, and best/ none of it yet
    shutil.copy(models["arm"] + "/model.safetensors", directory / "best/model.safetensors")  # half-written
    list(train(run, directory, resume=True))
    kept = [json.loads((tmp_path / name / "best/best.json").read_text()) for name in ("whole", "killed")]
    assert kept[0] == kept[1]
    one, other = (load_file(tmp_path / name / "best/model.safetensors") for name in ("whole", "killed"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_without_validation_on_the_way_there_is_no_best(
    models: dict[str, str], files: dict[str, str], tmp_path: Path
) -> None:
    for number, fields in enumerate(({"validate_every": 0}, {"keep_best": False})):
        list(train(watched(models["arm"], files["many"], steps=2, **fields), tmp_path / f"{number}"))
        assert not (tmp_path / f"{number}/best").exists()


@pytest.mark.parametrize(
    ("objective", "padding", "longest"), [("mdm", "eos", 16), ("mdm", "masked", 13), ("arm", "eos", 16)]
)
def test_answers_to_held_out_prompts_are_shown_and_written_down(
    objective: str, padding: str, longest: int, models: dict[str, str], files: dict[str, str], tmp_path: Path
) -> None:
    fields: dict[str, Any] = {"sample_every": 2, "sample_prompts": 2, "sample_tokens": 16, "padding": padding}
    run = watched(models[objective], files["many"], steps=4, learning_rate=1e-2, **fields)
    records = list(train(run, tmp_path / "run"))
    told = [record for record in records if record["kind"] == "sample"]
    assert [(record["step"], len(record["samples"])) for record in told] == [(2, 2), (4, 2)]
    samples = [sample for record in told for sample in record["samples"]]
    task, _ = opened(run)
    pairs = {task.tokenizer.decode(pair.prompt): pair.answer for pair in (task.held_out[i] for i in range(8))}
    for sample in samples:
        assert sample["reference"] == task.tokenizer.decode(pairs[sample["prompt"]])
        assert 1 <= sample["network_calls"] <= longest
        if padding == "masked":
            assert sample["network_calls"] <= len(pairs[sample["prompt"]])
    assert [record for record in read(tmp_path / "run/metrics.jsonl") if record["kind"] == "sample"] == told
    # the last ones are what the finished model writes
    sampler = None if objective == "arm" else "block"
    count = len(pairs[samples[-1]["prompt"]]) if padding == "masked" else 16
    lm = unmask.load(tmp_path / "run", "cpu")
    again = lm.generate(samples[-1]["prompt"], max_new_tokens=count, temperature=0.0, sampler=sampler)
    assert again.fills[0] == samples[-1]["answer"]

    console = Console(record=True, width=200, file=io.StringIO())
    with TrainingProgress(console) as progress:
        for record in records:
            progress.show(record)
    shown = console.export_text()
    assert f"step 2: {' '.join(samples[0]['prompt'].split())}" in shown


def test_watching_changes_nothing_of_what_is_learned(
    models: dict[str, str], files: dict[str, str], tmp_path: Path
) -> None:
    for name, fields in (("watched", {"sample_every": 1}), ("not", {"sample_every": 0, "keep_best": False})):
        list(train(watched(models["mdm"], files["many"], steps=4, **fields), tmp_path / name))
    one, other = (load_file(tmp_path / name / "model/model.safetensors") for name in ("watched", "not"))
    assert all(torch.equal(one[name], other[name]) for name in one)
