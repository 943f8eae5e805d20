"""`unmask train`, run as the command line runs it."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.train.runs import write_corpus

from unmask import cli, records
from unmask.commands import train as command
from unmask.config import RunConfig
from unmask.language_model import load

SMALL = ["--size=33K", "--length=16", "--batch-size=8", "--validation-windows=8", "--no-tensorboard", "--log-every=1"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture
def unmask(corpus: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs `unmask train pretrain` on the small corpus; exit status, output, errors."""

    def run(out: Path, *arguments: str) -> tuple[int, str, str]:
        status = cli.main(["train", "pretrain", f"--data={corpus}", f"--out={out}", *SMALL, *arguments])
        return status, *capsys.readouterr()

    return run


def test_a_run_prints_its_result_in_words_and_its_progress_elsewhere(
    unmask: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    status, out, err = unmask(tmp_path / "run", "--steps=3", "--objective=arm")
    end = records.read(tmp_path / "run/metrics.jsonl")[-1]
    assert status == 0
    assert out == (
        f"arm 33K: 3 steps, 384 tokens; valid {end['loss']:.4f} ± {end['standard_error']:.4f} nats per token (exact), "
        f"{end['bits_per_byte']:.4f} bits per byte; model in {tmp_path / 'run/model'}\n"
    )
    assert err.startswith("arm 33K: 32,928 parameters, 3 steps of 128 tokens")
    assert load(tmp_path / "run").objective == "arm"


def test_as_json_the_result_is_the_end_record(unmask: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    status, out, _ = unmask(tmp_path / "run", "--flops=8e7", "--json", "--warmup-steps=0")
    end = json.loads(out)
    assert status == 0
    assert end == records.read(tmp_path / "run/metrics.jsonl")[-1]
    assert end["step"] == int(8e7 / (6 * 32928 * 128)) == 3
    # once more: nothing is done, and the result is the same
    assert unmask(tmp_path / "run", "--flops=8e7", "--json", "--warmup-steps=0", "--resume")[:2] == (0, out)


def test_a_run_without_validation_has_no_loss_to_tell(
    unmask: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    _, out, _ = unmask(tmp_path / "run", "--steps=1", "--validation-windows=0")
    assert out == f"mdm 33K: 1 step, 128 tokens; model in {tmp_path / 'run/model'}\n"


def test_a_signal_saves_says_how_to_go_on_and_exits_with_zero(
    unmask: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    metrics = tmp_path / "run/metrics.jsonl"

    def interrupt() -> None:
        while not metrics.exists() or metrics.read_text().count('"train"') < 3:
            time.sleep(0.005)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    status, out, err = unmask(tmp_path / "run", "--steps=5000")
    thread.join()
    step = json.loads((metrics).read_text().splitlines()[-1])["step"]
    assert status == 0
    assert out == (
        f"stopped by SIGINT after step {step} of 5,000, saved in {tmp_path / 'run/checkpoints'}: "
        "add --resume to go on\n"
    )
    assert "finishing the step and saving; once more to quit at once" in err
    assert (tmp_path / f"run/checkpoints/step-{step:08}").is_dir()


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["pretrained"], 2, "unknown recipe 'pretrained': did you mean 'pretrain'"),
        (["--out", "x"], 2, "--out: the recipe comes first: unmask train pretrain"),
        (["pretrain", "--steps", "3"], 2, "missing --out"),
        (["pretrain", "--out", "{tmp}/run", "--steps", "3"], 2, "give --data"),
        (["pretrain", "--out", "{tmp}/run", "--data", "{tmp}/absent", "--steps", "3"], 1, "no such directory"),
        (["pretrain", "--out", "{tmp}/run", "--data", "{tmp}", "--steps", "3"], 1, "make it with unmask prepare"),
        (["pretrain", "--out", "{tmp}/run", "--data", "{corpus}"], 2, "give --steps or --flops"),
        (["pretrain", "--out", "{tmp}/run", "--steps", "3", "--flops", "1e9"], 2, "exclude each other"),
        (["pretrain", "--out", "{tmp}/run", "--flops", "10", "--data", "{corpus}"], 2, "less than one step"),
        (["pretrain", "--out", "{tmp}/run", "--size", "1028"], 2, "did you mean '1028M'"),
        (["pretrain", "--out", "{tmp}/run", "--lenth", "34"], 2, "did you mean --length?"),
        (["pretrain", "--out", "{tmp}/run", "--batch-size", "0", "--clip", "-1"], 2, "clip -1.0 must not be negative"),
        (["pretrain", "--out", "{tmp}/run", "--steps", "many"], 2, "'many'"),
        (["pretrain", "--out", "{corpus}/manifest.json", "--data", "{corpus}", "--steps", "1"], 2, "is a file"),
        (["pretrain", "--out", "{corpus}", "--data", "{corpus}", "--steps", "1"], 2, "something else than a run"),
    ],
)
def test_errors_are_one_line_with_their_status(
    arguments: list[str], status: int, words: str, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {"tmp": str(tmp_path), "corpus": str(corpus)}
    assert cli.main(["train", *(argument.format(**places) for argument in arguments)]) == status
    out, err = capsys.readouterr()
    assert out == ""
    assert words in err
    assert err.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_help_names_the_recipes(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", *arguments]) == 0
    out = capsys.readouterr().out
    assert "unmask train RECIPE --out DIR" in out
    assert "  pretrain    A masked diffusion model from scratch" in out
    assert "torchrun" in out


def test_help_of_a_recipe_has_every_field_of_its_config(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["train", "pretrain", "--help"])
    assert stop.value.code == 0
    out = capsys.readouterr().out
    for name in ("out", "resume", "json", *RunConfig.__dataclass_fields__):
        option = name.replace("_", "-")
        assert f"--{option}" in out or f"--no-{option}" in out, name


@pytest.mark.parametrize(
    ("argv", "steps", "flops"),
    [
        ([], 50, None),
        (["--steps", "7"], 7, None),
        (["--flops=1e9"], None, 1e9),
    ],
)
def test_steps_or_flops_take_the_place_of_what_the_recipe_says(
    argv: list[str], steps: int | None, flops: float | None
) -> None:
    options = command.parse(RunConfig(steps=50), ["--out", "x", *argv], prog="unmask train test")
    assert (options.run.steps, options.run.flops) == (steps, flops)


def test_any_field_can_be_overridden() -> None:
    argv: list[str] = ["--out", "x", "--no-stratified", "--qkv-bias", "--weighting", "flat", "--warmup-steps", "None"]
    options = command.parse(RunConfig(warmup_steps=3), argv, prog="unmask train test")
    found: dict[str, Any] = {name: getattr(options.run, name) for name in ("stratified", "qkv_bias", "weighting")}
    assert found == {"stratified": False, "qkv_bias": True, "weighting": "flat"}
    assert options.run.warmup_steps is None
