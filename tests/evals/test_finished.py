"""Evaluations that are killed and go on."""

import json
import math
import re
import signal
import subprocess
import sys

import pytest
import torch

from small_benchmarks import data_folder, language_model
from unmask import cli
from unmask.convert import export
from unmask.errors import UsageError
from unmask.evals.evaluate import Run, evaluate
from unmask.evals.finished import Finished, key_of
from unmask.evals.harness import UnmaskLM
from unmask.model_directory import digest

TASKS = ("piqa", "boolq", "lambada_openai", "gsm8k")


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return data_folder(tmp_path_factory.mktemp("hub"))


def model_of(lm, **settings):
    return UnmaskLM(lm, num_samples=20, max_gen_toks=4, search_lengths=2, progress=False, **settings)


def comparable(result):
    """All that is not time: text that is equal where every digit is."""
    return re.sub(r'"(seconds|date|[a-z_]*time[a-z_]*)": [^,}]*', "", json.dumps(result, default=str))


def in_all(model, data_dir):
    return comparable(evaluate(model, Run(TASKS, data_dir, num_fewshot=0)))


@pytest.mark.parametrize("settings", [{}, {"guidance": 0.5}, {"adaptive": 1.0}, {"causal": True}])
def test_an_evaluation_cut_short_anywhere_gives_what_it_gives_in_one_go(data_dir, tmp_path, settings):
    causal = settings.get("causal", False)
    lm = language_model(causal=causal)
    settings = {key: value for key, value in settings.items() if key != "causal"}
    expected = in_all(model_of(lm, **settings), data_dir)
    whole = tmp_path / "whole"
    with (model := model_of(lm, **settings)).keep_in(whole):
        assert in_all(model, data_dir) == expected
    lines = whole.read_bytes().splitlines(keepends=True)
    assert len(lines) > 5
    for kept in (0, 1, len(lines) // 2, len(lines)):
        part = tmp_path / f"part-{kept}"
        part.write_bytes(b"".join(lines[:kept]) + b'["half a li')
        with (model := model_of(lm, **settings)).keep_in(part) as finished:
            assert finished.recovered == max(0, kept - 1)
            assert in_all(model, data_dir) == expected
        assert sorted(key_and_value(part)) == sorted(key_and_value(whole))


def key_and_value(path):
    return [json.loads(line)[:2] for line in path.read_text().splitlines()[1:]]


def test_what_is_known_is_not_computed_again_and_its_seconds_count(data_dir, tmp_path, monkeypatch):
    lm = language_model(causal=False)
    with (model := model_of(lm)).keep_in(tmp_path / "kept"):
        in_all(model, data_dir)
    again = model_of(lm)
    with again.keep_in(tmp_path / "kept"):
        monkeypatch.setattr(lm.model, "forward", lambda *_, **__: pytest.fail("computed again"))
        evaluate(again, Run(TASKS, data_dir, num_fewshot=0))
    known = [json.loads(line)[2] for line in (tmp_path / "kept").read_text().splitlines()[1:]]
    assert again.finished.saved_seconds == pytest.approx(sum(known))
    assert sum(spent.seconds for spent in again.log.spent.values()) >= sum(known)


@pytest.mark.parametrize("change", [{"guidance": 1.0}, {"seed": 1}, {"estimator": "chain"}, {"steps": 2}])
def test_other_settings_or_another_model_begin_anew_but_not_another_batch_size(data_dir, tmp_path, change):
    lm = language_model(causal=False)
    run = Run(("boolq",), data_dir)

    def recovered(model):
        with model.keep_in(tmp_path / "kept") as finished:
            evaluate(model, run)
            return finished.recovered

    assert recovered(UnmaskLM(lm, progress=False)) == 0
    assert recovered(UnmaskLM(lm, progress=False, batch_size=3)) > 0
    assert recovered(UnmaskLM(lm, progress=False, **change)) == 0
    assert recovered(UnmaskLM(lm, progress=False)) == 0
    with torch.no_grad():
        lm.model.embedding.weight[0, 0] += 1
    assert recovered(UnmaskLM(lm, progress=False)) == 0


def test_a_value_is_kept_as_it_is_to_the_last_digit(tmp_path):
    values = [1 / 3, math.inf, "ö", [1, None, True]]
    with Finished(tmp_path / "f") as finished:
        assert finished.once(key_of("a"), lambda: values) == values
    with Finished(tmp_path / "f") as finished:
        assert finished.once(key_of("a"), lambda: pytest.fail("computed again")) == values
        assert finished.once(key_of("b"), lambda: 1) == 1
    finished.remove()
    assert not (tmp_path / "f").exists()


def test_a_damaged_line_is_computed_again(tmp_path):
    with Finished(tmp_path / "f") as finished:
        for key in "abc":
            finished.once(key, lambda key=key: key)
    lines = (tmp_path / "f").read_text().splitlines()
    (tmp_path / "f").write_text("\n".join([lines[0], lines[1], lines[2][:4], lines[3], ""]))
    with Finished(tmp_path / "f") as finished:
        assert [finished.once(key, lambda: "new") for key in "abc"] == ["a", "new", "c"]


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"file/out: can't be written .*: choose another --json"):
        Finished(tmp_path / "file/out")


def test_a_file_without_a_piece_is_not_left_and_what_differs_is_told(tmp_path):
    with Finished(tmp_path / "f", {"model": 1, "seed": 0}):
        pass
    assert not (tmp_path / "f").exists()
    with Finished(tmp_path / "f", {"model": 1, "seed": 0}) as finished:
        finished.once(key_of("a"), lambda: "ö")
    with Finished(tmp_path / "f", {"model": 1, "seed": 1}) as finished:
        assert (finished.recovered, finished.others) == (0, ["seed"])


def test_the_digest_tells_weights_apart():
    one, other = language_model(causal=False).model, language_model(causal=False).model
    assert digest(one.state_dict()) == digest(dict(reversed(other.state_dict().items())))
    with torch.no_grad():
        other.embedding.weight[0, 0] += 1e-6
    assert digest(one.state_dict()) != digest(other.state_dict())


KILLED = """
import os, signal, sys
from unmask import cli
from unmask.evals import finished
kept = finished.Finished.once
def once(self, key, compute):
    value = kept(self, key, compute)
    once.calls += 1
    if once.calls == int(sys.argv[1]):
        os.kill(os.getpid(), signal.SIGKILL)
    return value
once.calls = 0
finished.Finished.once = once
sys.exit(cli.main(sys.argv[2:]))
"""


def test_a_killed_command_goes_on_and_writes_the_same_file(data_dir, tmp_path, capsys):
    language_model(causal=False).save(tmp_path / "model")
    arguments = ["eval", tmp_path / "model", "--tasks", "piqa,lambada_openai", "--data-dir", data_dir]
    arguments += ["--limit", "3", "--offset", "1", "--num-samples", "12", "--search-lengths", "2", "--json"]
    arguments = [str(each) for each in arguments]

    assert cli.main([*arguments, str(tmp_path / "whole.json")]) == 0
    out = str(tmp_path / "killed.json")
    killed = subprocess.run([sys.executable, "-c", KILLED, "4", *arguments, out], capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (tmp_path / "killed.json").exists()
    capsys.readouterr()
    assert cli.main([*arguments, out]) == 0
    assert "going on with 4 finished batches" in capsys.readouterr().err
    whole, killed = (json.loads((tmp_path / name).read_text()) for name in ("whole.json", "killed.json"))
    assert comparable(whole) == comparable(killed)
    assert whole["unmask"]["items"]["piqa"]["doc_id"] == [1, 2, 3]
    assert {path.name for path in tmp_path.iterdir()} == {"model", "whole.json", "killed.json"}


def test_a_model_of_transformers_goes_on_by_the_harness_s_cache(data_dir, tmp_path, monkeypatch):
    from lm_eval.models.huggingface import HFLM

    language_model(causal=True).save(tmp_path / "ours")
    export("llama", tmp_path / "ours", tmp_path / "llama")
    arguments = ["eval", f"hf:{tmp_path / 'llama'}", "--tasks", "boolq", "--data-dir", data_dir, "--batch-size", "2"]
    arguments += ["--device", "cpu", "--json"]
    asked = []
    plain = HFLM._model_call

    def call(self, *given, **named):
        asked.append(1)
        if len(asked) == 3:
            raise KeyboardInterrupt
        return plain(self, *given, **named)

    monkeypatch.setattr(HFLM, "_model_call", call)
    assert cli.main([str(each) for each in [*arguments, tmp_path / "a.json"]]) == 130
    assert len(list(tmp_path.glob("a.json.*"))) == 1
    assert cli.main([str(each) for each in [*arguments, tmp_path / "a.json"]]) == 0
    first = len(asked)
    assert cli.main([str(each) for each in [*arguments, tmp_path / "b.json"]]) == 0
    assert first - 3 == len(asked) - first - 2  # two batches were known
    one, other = (json.loads((tmp_path / name).read_text())["unmask"]["items"] for name in ("a.json", "b.json"))
    assert one == other
    assert not list(tmp_path.glob("*.db"))
