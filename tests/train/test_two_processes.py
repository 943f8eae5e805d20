"""Two processes train as one does, resume what one began, and the other way round."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.train.runs import losses
from tests.train.two_processes import RUNS, SFT_RUNS, sft_run

import unmask
from unmask.config import RunConfig
from unmask.errors import UsageError
from unmask.objectives import Rows
from unmask.records import Record
from unmask.train.loop import train
from unmask.train.parallel import World

Tiny = Callable[..., RunConfig]
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def conversations(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A file of examples of 4 to 40 tokens, so that the rows of a packed batch are many or few, even or odd."""
    items = [{"prompt": f"{n}:", "completion": "ab" * (18 if n % 7 == 0 else 1 + n * 5 % 7)} for n in range(50)]
    path = tmp_path_factory.mktemp("conversations") / "varied.json"
    path.write_text(json.dumps(items))
    return str(path)


@pytest.fixture(scope="module")
def two(
    tiny: Tiny,
    corpus: Path,
    finished: tuple[Path, list[Record]],
    models: dict[str, str],
    conversations: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, list[dict[str, Any]]]:
    """The directory of the runs of two processes, and the results of each process."""
    directory = tmp_path_factory.mktemp("two")
    for record in train(tiny(), directory / "begun-by-one"):
        if record.get("step") == 4:
            break  # as good as a kill: the last checkpoint is that of step 3
    shutil.copytree(finished[0], directory / "of-another")
    for record in train(sft_run(models, conversations, **SFT_RUNS["sft-begun-by-one"]), directory / "sft-begun-by-one"):
        if record["step"] == 3:
            break
    script = [str(ROOT / "tests/train/two_processes.py"), str(corpus), str(directory)]
    script += [models["mdm"], models["arm"], conversations]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}
    done = subprocess.run([*torchrun, *script], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return directory, [json.loads((directory / f"results-{rank}.json").read_text()) for rank in (0, 1)]


def assert_same_but_for_rounding(records: list[Record], expected: list[Record]) -> None:
    found, wanted = losses(records), losses(expected)
    assert found.keys() <= wanted.keys()
    for step, loss in found.items():
        assert loss == pytest.approx(wanted[step], rel=1e-5), step
    end, wanted_end = records[-1], expected[-1]
    rounded = {"loss", "standard_error", "bits_per_byte", "best_loss"} & wanted_end.keys()
    for name in rounded:
        assert end[name] == pytest.approx(wanted_end[name], rel=1e-5)
    for name in wanted_end.keys() - rounded - {"seconds"}:
        assert end[name] == wanted_end[name]


@pytest.mark.parametrize("name", ["mdm", "arm", "micro-batches", "asynchronous", "recomputed", "compiled", "tied"])
def test_two_processes_give_the_losses_of_one(
    name: str, two: tuple[Path, list[dict[str, Any]]], tiny: Tiny, tmp_path: Path
) -> None:
    expected = list(train(tiny(**{**RUNS[name], "compile": None}), tmp_path / "one"))
    assert [record["step"] for record in two[1][0][name]] == [record["step"] for record in expected]
    assert two[1][0][name][0]["processes"] == 2
    assert_same_but_for_rounding(two[1][0][name], expected)
    ours = unmask.load(two[0] / name, device="cpu").model.state_dict()
    for key, weight in unmask.load(tmp_path / "one", device="cpu").model.state_dict().items():
        torch.testing.assert_close(ours[key], weight, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in SFT_RUNS if name != "sft-begun-by-one"])
def test_two_processes_fine_tune_as_one_does(
    name: str, two: tuple[Path, list[dict[str, Any]]], models: dict[str, str], conversations: str, tmp_path: Path
) -> None:
    expected = list(train(sft_run(models, conversations, **SFT_RUNS[name]), tmp_path / "one"))
    assert_fine_tuned_alike(two[1][0][name], expected, two[0] / name, tmp_path / "one")


def test_two_processes_go_on_with_the_packed_rows_and_adapters_that_one_began(
    two: tuple[Path, list[dict[str, Any]]], models: dict[str, str], conversations: str, tmp_path: Path
) -> None:
    name = "sft-begun-by-one"
    expected = list(train(sft_run(models, conversations, **SFT_RUNS[name]), tmp_path / "one"))
    assert two[1][0][name][0]["step"] == 2
    assert_fine_tuned_alike(two[1][0][name], expected, two[0] / name, tmp_path / "one")


def assert_fine_tuned_alike(records: list[Record], expected: list[Record], ours: Path, theirs: Path) -> None:
    """Losses, answers on the way, and the weights of all that is saved, to rounding."""
    assert records[0]["processes"] == 2
    assert_same_but_for_rounding(records, expected)
    shown = {record["step"]: record["samples"] for record in expected if record["kind"] == "sample"}
    assert {
        record["step"]: record["samples"] for record in records if record["kind"] == "sample"
    }.items() <= shown.items()
    saved = sorted(
        path.relative_to(theirs) for path in theirs.rglob("*.safetensors") if "checkpoints" not in path.parts
    )
    assert len(saved) >= 2
    for path in saved:
        found, wanted = load_file(ours / path), load_file(theirs / path)
        assert found.keys() == wanted.keys()
        for key, weight in wanted.items():
            torch.testing.assert_close(found[key], weight, rtol=1e-5, atol=1e-5, msg=lambda m, key=key: f"{key}: {m}")


def test_two_processes_in_bfloat16_are_as_near_to_one_as_its_rounding(
    two: tuple[Path, list[dict[str, Any]]], tiny: Tiny, tmp_path: Path
) -> None:
    exact = losses(train(tiny(steps=3), tmp_path / "exact"))
    rounded = losses(train(tiny(**RUNS["bfloat16"]), tmp_path / "rounded"))
    assert rounded != exact
    for found in (rounded, losses(two[1][0]["bfloat16"])):
        assert found == pytest.approx(exact, rel=0.02)


def test_both_processes_yield_the_same_records(two: tuple[Path, list[dict[str, Any]]]) -> None:
    mine = [{k: v for k, v in r.items() if k not in ("seconds", "tokens_per_second")} for r in two[1][0]["mdm"][1:]]
    other = [{k: v for k, v in r.items() if k not in ("seconds", "tokens_per_second")} for r in two[1][1]["mdm"][1:]]
    assert mine == other


def test_two_processes_go_on_with_what_one_began(
    two: tuple[Path, list[dict[str, Any]]], finished: tuple[Path, list[Record]]
) -> None:
    records = two[1][0]["begun-by-one"]
    assert records[0]["step"] == 3
    assert losses(records).keys() == {4, 5, 6, 7, 8}
    assert_same_but_for_rounding(records, finished[1])


def test_one_process_goes_on_with_what_two_began(
    two: tuple[Path, list[dict[str, Any]]], tiny: Tiny, finished: tuple[Path, list[Record]], tmp_path: Path
) -> None:
    shutil.copytree(two[0] / "mdm", tmp_path / "run")
    shutil.rmtree(tmp_path / "run/checkpoints/step-00000008")
    lines = (tmp_path / "run/metrics.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "run/metrics.jsonl").write_text("".join(lines[:8]))
    records = list(train(tiny(), tmp_path / "run", resume=True))
    assert records[0]["step"] == 6
    assert_same_but_for_rounding(records, finished[1])


def test_a_signal_to_one_of_them_stops_both_after_the_same_step(two: tuple[Path, list[dict[str, Any]]]) -> None:
    stops = [results["signalled"][-1] for results in two[1]]
    assert [stop["kind"] for stop in stops] == ["stop", "stop"]
    assert [stop["step"] for stop in stops] == [4, 4]
    assert [path.name for path in sorted((two[0] / "signalled/checkpoints").iterdir())][-1] == "step-00000004"


def test_a_batch_that_does_not_divide_is_refused(two: tuple[Path, list[dict[str, Any]]]) -> None:
    for results in two[1]:
        assert results["indivisible"]["status"] == UsageError.exit_status
        assert "batch_size 7 does not divide by the 2 processes: change either" in results["indivisible"]["error"]
    assert not (two[0] / "indivisible").exists()


def test_an_error_of_the_first_process_is_raised_by_both_and_told_by_one(
    two: tuple[Path, list[dict[str, Any]]],
) -> None:
    first, second = (results["of-another"] for results in two[1])
    assert first["error"] == second["error"]
    assert "holds another run (seed 0 instead of 1)" in first["error"]
    assert (first["elsewhere"], second["elsewhere"]) == (False, True)


def test_rows_are_dealt_in_order_and_evenly() -> None:
    worlds = [World(rank, 4, torch.device("cpu")) for rank in range(4)]
    assert [world.rows(8) for world in worlds] == [Rows(0, 8), Rows(2, 8), Rows(4, 8), Rows(6, 8)]
    with pytest.raises(UsageError, match="batch_size 6 does not divide by the 4 processes"):
        worlds[0].rows(6)
