"""A run directory belongs to one run, and nothing in it is ever overwritten."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.train.runs import losses, tiny_run, write_corpus

from unmask.config import RunConfig
from unmask.data.digests import write_atomically
from unmask.errors import UnmaskError, UsageError
from unmask.records import Record
from unmask.train.loop import train

Tiny = Callable[..., RunConfig]
Finished = tuple[Path, list[Record]]


def content(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"seed": 3}, "another run (seed 0 instead of 3)"),
        ({"size": "56K", "steps": 9}, "another run (size '33K' instead of '56K', steps 8 instead of 9)"),
        ({"learning_rate": 1e-4}, "another run (learning_rate 0.003 instead of 0.0001)"),
    ],
)
def test_another_run_is_refused_and_nothing_changes(
    resume: bool, fields: dict[str, Any], words: str, tiny: Tiny, finished: Finished
) -> None:
    before = content(finished[0])
    with pytest.raises(UsageError) as caught:
        list(train(tiny(**fields), finished[0], resume=resume))
    assert words in str(caught.value)
    assert str(finished[0]) in str(caught.value)
    assert "--out" in str(caught.value)
    assert content(finished[0]) == before


def test_the_same_run_is_not_made_again_unasked(tiny: Tiny, finished: Finished, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds this run already, which has ended: give another --out"):
        list(train(tiny(), finished[0]))
    for record in train(tiny(), tmp_path / "run"):
        if record["step"] == 4:
            break
    before = content(tmp_path / "run")
    with pytest.raises(UsageError, match="holds this run already, which is at step 4: add --resume to go on"):
        list(train(tiny(), tmp_path / "run"))
    assert content(tmp_path / "run") == before


@pytest.mark.parametrize("name", ["config.json", "failure.json"])
def test_a_run_begins_where_one_was_killed_while_it_wrote_a_file(
    name: str, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(self: Path, target: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            write_atomically(tmp_path / name, "{")
    assert any(tmp_path.iterdir())
    assert list(train(tiny(), tmp_path))[-1]["step"] == tiny().steps


@pytest.mark.parametrize("name", ["notes.txt", "config.json"])
def test_a_directory_with_something_else_is_refused(name: str, tiny: Tiny, tmp_path: Path) -> None:
    (tmp_path / name).write_text('{"model_type": "llama"}')
    with pytest.raises(UsageError, match="holds something else than a run"):
        list(train(tiny(), tmp_path, resume=True))
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_file_is_no_directory(tiny: Tiny, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(UsageError, match="run: is a file"):
        list(train(tiny(), tmp_path / "run"))


def test_a_damaged_config_is_named(tiny: Tiny, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"size": ')
    with pytest.raises(UnmaskError, match=r"config.json: not JSON \(.*\): restore it, or give another --out"):
        list(train(tiny(), tmp_path, resume=True))


def test_the_note_of_a_failed_attempt_does_not_make_it_another_run(tiny: Tiny, tmp_path: Path) -> None:
    (tmp_path / "failure.json").write_text("{}")
    assert list(train(tiny(steps=1), tmp_path))[-1]["kind"] == "end"


def test_how_it_is_computed_and_reported_may_change_at_resume(
    tiny: Tiny, finished: Finished, corpus: Path, tmp_path: Path
) -> None:
    for record in train(tiny(), tmp_path / "run"):
        if record["step"] == 4:
            break
    shutil.copytree(corpus, tmp_path / "moved")
    changed = {"micro_batch_size": 3, "activation_checkpointing": True, "checkpoint_every": 100, "keep_checkpoints": 1}
    run = tiny(data=str(tmp_path / "moved"), tensorboard=True, **changed)
    records = list(train(run, tmp_path / "run", resume=True))
    assert losses(records) == pytest.approx({step: losses(finished[1])[step] for step in (4, 5, 6, 7, 8)}, rel=1e-5)
    assert json.loads((tmp_path / "run/config.json").read_text())["micro_batch_size"] == 3


@pytest.mark.parametrize(
    ("prepared", "words"),
    [
        ({"tokenizer": "bpe:280"}, "vocabulary of 258 and the corpus"),
        ({"documents": 50}, "began on another corpus than"),
    ],
)
def test_a_corpus_that_does_not_match_the_run_is_refused(
    prepared: dict[str, Any], words: str, finished: Finished, tiny: Tiny, tmp_path: Path
) -> None:
    other = write_corpus(tmp_path, **prepared)
    before = content(finished[0])
    with pytest.raises(UsageError, match=words):
        list(train(tiny_run(other), finished[0], resume=True))
    assert content(finished[0]) == before


def test_only_one_process_may_train_in_it(tiny: Tiny, tmp_path: Path) -> None:
    first = train(tiny(), tmp_path / "run")
    assert next(first)["kind"] == "start"
    with pytest.raises(UnmaskError, match="another process is training in it"):
        list(train(tiny(), tmp_path / "run", resume=True))
    assert len(losses(first)) == 8
    assert list(train(tiny(), tmp_path / "run", resume=True))[-1]["kind"] == "end"


def test_the_start_record_says_what_runs_where(finished: Finished) -> None:
    start = finished[1][0]
    assert start["versions"]["torch"].startswith("2.")
    for name, value in {
        "kind": "start",
        "step": 0,
        "processes": 1,
        "device": "cpu",
        "objective": "mdm",
        "size": "33K",
        "params": 32928,
        "steps": 8,
        "batch_size": 8,
        "length": 16,
        "tokens": 1024,
        "flops": 6 * 32928 * 1024,
        "seed": 0,
        "vocab_size": 258,
    }.items():
        assert start[name] == value, name
    assert start["machine"]
    assert start["time"].endswith("+00:00")
