"""Checkpoints: whole or not at all, the last K, damaged ones passed over, a full disk."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests.train.runs import files_of_at_most, losses

from unmask import seeding
from unmask.config import ModelConfig, RunConfig
from unmask.errors import UnmaskError
from unmask.model import Transformer
from unmask.records import Record
from unmask.train import checkpoint, optim
from unmask.train.checkpoint import Checkpointer, Restored
from unmask.train.loop import train
from unmask.train.parallel import World

Tiny = Callable[..., RunConfig]
Trained = tuple[Transformer, torch.optim.AdamW]
ALONE = World(0, 1, torch.device("cpu"))


def trained(seed: int = 0, steps: int = 1, width: int = 32) -> Trained:
    """A network and an optimizer that has made some steps."""
    shape = {"n_layer": 1, "n_head": 1, "n_embd": width, "intermediate_size": 64, "vocab_size": 50}
    model = Transformer(ModelConfig(**shape, context_length=8, mask_id=50))
    model.init_weights(seeding.generator(seed, "init"))
    optimizer = optim.build_optimizer(model, RunConfig())
    for _ in range(steps):
        step(model, optimizer)
    return model, optimizer


def step(model: Transformer, optimizer: torch.optim.AdamW) -> None:
    tokens_BL = torch.arange(16).view(2, 8)
    model.loss(tokens_BL, tokens_BL, torch.ones(2, 8)).backward()
    optimizer.step()
    optimizer.zero_grad()


def checkpointer(directory: Path, *, keep: int = 2, asynchronous: bool = False) -> Checkpointer:
    return Checkpointer(directory, keep=keep, asynchronous=asynchronous, world=ALONE)


def assert_same(one: Trained, other: Trained) -> None:
    for ours, theirs in zip(one[0].parameters(), other[0].parameters(), strict=True):
        assert torch.equal(ours, theirs)
        moments, others = one[1].state[ours], other[1].state[theirs]
        assert moments.keys() == others.keys() == {"step", "exp_avg", "exp_avg_sq"}
        assert all(torch.equal(moments[name], others[name]) for name in moments)


@pytest.mark.parametrize("asynchronous", [False, True])
def test_what_is_restored_is_what_was_saved(asynchronous: bool, tmp_path: Path) -> None:
    saved, other = trained(), trained(seed=1, steps=2)
    before = trained()
    checkpoints = checkpointer(tmp_path, asynchronous=asynchronous)
    checkpoints.save(7, *saved, seconds=1.5)
    step(*saved)  # while it may still be written
    checkpoints.wait()
    assert checkpointer(tmp_path).restore(*other) == Restored(7, 1.5)
    assert_same(other, before)
    step(*other)
    assert_same(other, saved)  # and it goes on alike


def test_a_new_directory_restores_nothing(tmp_path: Path) -> None:
    new = trained(steps=0)
    assert checkpointer(tmp_path / "new").restore(*new) == Restored(0)
    assert_same(new, trained(steps=0)) if new[1].state else None


def test_the_last_k_are_kept_and_unfinished_ones_removed(tmp_path: Path) -> None:
    (tmp_path / "partial-00000009").mkdir()
    checkpoints = checkpointer(tmp_path, keep=3)
    saved = trained()
    for done in (10, 20, 100, 30, 40):
        checkpoints.save(done, *saved)
    assert checkpoints.steps() == [30, 40, 100]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000030", "step-00000040", "step-00000100"]


def test_an_asynchronous_checkpoint_gets_its_name_once_it_is_written(tmp_path: Path) -> None:
    checkpoints = checkpointer(tmp_path, asynchronous=True)
    checkpoints.save(1, *trained())
    while not checkpoints.steps():
        checkpoints.poll()
    assert checkpoint.damage(checkpoints.path(1)) is None
    checkpoints.poll()
    checkpoints.wait()


def cut_in_half(path: Path) -> None:
    data = next(path.glob("*.distcp"))
    data.write_bytes(data.read_bytes()[: data.stat().st_size // 2])


def alter(path: Path) -> None:
    data = next(path.glob("*.distcp"))
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 1
    data.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (cut_in_half, r"__0_0.distcp has \d+ of \d+ bytes"),
        (alter, "__0_0.distcp was altered"),
        (lambda path: (path / ".metadata").unlink(), ".metadata is missing"),
        (lambda path: (path / "files.json").unlink(), "files.json is missing"),
        (lambda path: (path / "files.json").write_text("{"), "files.json cannot be read"),
        (lambda path: (path / "files.json").write_text("[]"), "files.json cannot be read"),
    ],
)
def test_a_damaged_checkpoint_is_passed_over_with_a_message(
    damage: Callable[[Path], object], words: str, tmp_path: Path
) -> None:
    checkpoints, saved = checkpointer(tmp_path), trained()
    checkpoints.save(10, *saved)
    step(*saved)
    checkpoints.save(20, *saved)
    damage(checkpoints.path(20))
    other = trained(seed=1)
    restored = checkpoints.restore(*other)
    assert restored.step == 10
    assert_same(other, trained())
    (message,) = restored.warnings
    assert "step-00000020 is damaged" in message
    assert "going on from step-00000010" in message
    assert re.search(words, message)
    assert (tmp_path / "damaged-step-00000020").is_dir()  # nothing is lost
    assert checkpoints.steps() == [10]


def test_if_all_checkpoints_are_damaged_that_is_an_error_and_nothing_changes(tmp_path: Path) -> None:
    checkpoints, saved = checkpointer(tmp_path), trained()
    for done in (10, 20):
        checkpoints.save(done, *saved)
        cut_in_half(checkpoints.path(done))
    with pytest.raises(UnmaskError, match=r"every checkpoint is damaged \(step-00000020: .*step-00000010: ") as caught:
        checkpoints.restore(*saved)
    assert "\n" not in str(caught.value)
    assert checkpoints.steps() == [10, 20]


def test_a_checkpoint_of_another_network_is_an_error(tmp_path: Path) -> None:
    checkpoints = checkpointer(tmp_path)
    checkpoints.save(10, *trained())
    with pytest.raises(UnmaskError, match=r"step-00000010: cannot be loaded \(.*delete it to use the one before"):
        checkpoints.restore(*trained(width=48))


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_disk_that_is_full_in_the_middle_of_a_checkpoint_costs_nothing_but_that_one(
    asynchronous: bool, tmp_path: Path
) -> None:
    checkpoints, saved = checkpointer(tmp_path, asynchronous=asynchronous), trained()
    checkpoints.save(10, *saved)
    checkpoints.wait()

    def save() -> None:
        checkpoints.save(20, *saved)
        checkpoints.wait()

    with files_of_at_most(50_000), pytest.raises(UnmaskError) as caught:
        save()
    message = str(caught.value)
    assert "\n" not in message
    for part in ("step-00000020: the checkpoint could not be written", "File too large", "step-00000010", "--resume"):
        assert part in message
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000010"]
    assert checkpoints.restore(*trained()) == Restored(10)


def test_a_run_whose_disk_was_full_goes_on_when_there_is_room(
    tiny: Tiny, finished: tuple[Path, list[Record]], tmp_path: Path
) -> None:
    records: list[Record] = []
    with pytest.raises(UnmaskError, match="step-00000006: the checkpoint could not be written"):  # noqa: PT012
        for record in train(tiny(), tmp_path / "run"):
            records.append(record)
            if record.get("step") == 4:
                full = files_of_at_most(100_000)
                full.__enter__()
    full.__exit__(None, None, None)
    assert losses(records).keys() == {1, 2, 3, 4, 5, 6}
    again = list(train(tiny(), tmp_path / "run", resume=True))
    assert losses(records) | losses(again) == losses(finished[1])
    assert again[0]["step"] == 3


def test_a_model_that_cannot_be_written_leaves_the_run_resumable(
    tiny: Tiny, finished: tuple[Path, list[Record]], tmp_path: Path
) -> None:
    shutil.copytree(finished[0], tmp_path / "run")
    lines = (tmp_path / "run/metrics.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "run/metrics.jsonl").write_text("".join(lines[:-1]))
    shutil.rmtree(tmp_path / "run/model")
    with files_of_at_most(100_000), pytest.raises(UnmaskError, match="the model could not be written"):
        list(train(tiny(), tmp_path / "run", resume=True))
    records = list(train(tiny(), tmp_path / "run", resume=True))
    assert [record["kind"] for record in records] == ["start", "valid", "end"]
    assert records[-1]["loss"] == finished[1][-1]["loss"]


def test_a_run_whose_last_checkpoint_is_cut_in_half_goes_on_from_the_one_before(
    tiny: Tiny, finished: tuple[Path, list[Record]], tmp_path: Path
) -> None:
    records: list[Record] = []
    for record in train(tiny(), tmp_path / "run"):
        records.append(record)
        if record.get("step") == 7:
            break  # as good as a kill
    cut_in_half(tmp_path / "run/checkpoints/step-00000006")
    again = list(train(tiny(), tmp_path / "run", resume=True))
    assert [record["kind"] for record in again[:2]] == ["start", "warning"]
    assert "step-00000006 is damaged" in again[1]["message"]
    assert again[0]["step"] == 3
    assert losses(records) | losses(again) == losses(finished[1])
