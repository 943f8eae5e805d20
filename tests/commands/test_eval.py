"""`unmask eval` and `unmask compare`, as the command line runs them."""

import importlib.util
import json

import pytest

from small_benchmarks import data_folder, language_model, write_lines
from unmask import cli
from unmask.errors import UnmaskError
from unmask.evals.offline import load_tasks


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return data_folder(tmp_path_factory.mktemp("hub"))


@pytest.fixture(scope="module")
def mdm(tmp_path_factory):
    directory = tmp_path_factory.mktemp("mdm")
    language_model(causal=False).save(directory)
    return str(directory)


@pytest.fixture(scope="module")
def arm(tmp_path_factory):
    directory = tmp_path_factory.mktemp("arm")
    language_model(causal=True).save(directory)
    return str(directory)


def unmask(capsys, *arguments):
    status = cli.main([str(argument) for argument in arguments])
    return status, *capsys.readouterr()


def test_eval_prints_a_table_and_writes_what_compare_reads(mdm, data_dir, tmp_path, capsys):
    arguments = ("--tasks", "piqa,boolq", "--data-dir", data_dir, "--limit", "2", "--num-samples", "8")
    for name in ("one", "two"):
        status, out, _ = unmask(capsys, "eval", mdm, *arguments, "--json", tmp_path / f"{name}.json")
        assert status == 0
        assert out.splitlines()[0].split() == [
            "task",
            "metric",
            "value",
            "±",
            "items",
            "±",
            "masks",
            "items",
            "calls",
            "seconds",
        ]
        assert "boolq" in out
    status, out, _ = unmask(capsys, "compare", tmp_path / "one.json", tmp_path / "two.json")
    assert status == 0
    assert out.count("| piqa | acc |") == 2
    assert "| +0.0000 | 0.0000 |" in out
    unmask(capsys, "compare", tmp_path / "one.json", "--format", "html", "--out", tmp_path / "table.html")
    assert "<td>piqa</td>" in (tmp_path / "table.html").read_text()


def test_eval_as_json_prints_nothing_else(mdm, data_dir, capsys):
    arguments = ("--tasks", "lambada_openai", "--data-dir", data_dir, "--limit", "1", "--search-lengths", "2")
    status, out, _ = unmask(capsys, "eval", mdm, *arguments, "--json", "-")
    assert status == 0
    assert "acc_length_searched" in json.loads(out)["tasks"]["lambada_openai"]["metrics"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--tasks", "helaswag"), "did you mean 'hellaswag' or"),
        (("--tasks", "race"), "task 'race': no test.jsonl"),
        (("--tasks", "piqa", "--limit", "0"), "--limit 0"),
        (("--tasks", "piqa", "--offset", "-1"), "--offset -1: must not be negative"),
        (("--tasks", "boolq,piqa", "--offset", "5"), "--offset 5: task 'boolq' has 5 items"),
        (("--tasks", "piqa", "--guidance", "-1"), "guidance -1.0"),
        (("--tasks", "piqa", "--guidance", "nan"), "guidance nan"),
        (("--tasks", "piqa", "--estimator", "best"), "estimator 'best'"),
        (("--tasks", "piqa", "--num-samples", "0"), "num_samples 0"),
        (("--tasks", "piqa", "--device", "tpu9"), "device 'tpu9': torch knows no such device"),
        (("--tasks", "piqa", "--apply-chat-template"), "has no chat template"),
        (("--tasks", ","), "--tasks"),
        (("--tasks", "piqa", "--data-dir", "nowhere"), "--data-dir nowhere: no such directory"),
    ],
)
def test_bad_input_is_one_line_and_status_2(mdm, data_dir, capsys, arguments, words):
    status, out, err = unmask(capsys, "eval", mdm, "--data-dir", data_dir, *arguments)
    assert (status, out) == (2, "")
    assert words in err
    assert len([line for line in err.splitlines() if "unmask: error" in line]) == 1


def test_data_that_is_cut_short_is_named_with_the_place_and_the_remedy(mdm, data_dir, tmp_path, capsys):
    whole = (data_dir / "baber/piqa/validation.jsonl").read_text()
    (tmp_path / "baber/piqa").mkdir(parents=True)
    (tmp_path / "baber/piqa/validation.jsonl").write_text(whole[: len(whole) // 2])
    status, line = one_error(capsys, "eval", mdm, "--tasks", "piqa", "--data-dir", tmp_path)
    assert status == 1
    assert "task 'piqa': its data can't be loaded (JSON parse error" in line
    assert line.endswith(f"check its files in {tmp_path}")
    (tmp_path / "baber/piqa/validation.jsonl").write_text("")
    status, line = one_error(capsys, "eval", mdm, "--tasks", "piqa", "--data-dir", tmp_path)
    assert status == 2
    assert line.endswith("baber/piqa/validation.jsonl is empty: put its documents there")


ROWS = {
    "piqa": ("baber/piqa", {"goal": "go", "sol1": "a", "sol2": "b", "label": 0}),
    "hellaswag": (
        "Rowan/hellaswag",
        {"activity_label": "Cats", "ctx_a": "A", "ctx_b": "b", "endings": ["c", "d"], "label": "1"},
    ),
}


@pytest.mark.parametrize(
    ("task", "name"), [("piqa", "sol1"), ("piqa", "goal"), ("piqa", "label"), ("hellaswag", "ctx_b")]
)
@pytest.mark.parametrize("gaps", [(0, 1, 2), (0,), (2,)])
def test_data_without_a_field_of_the_task_is_named_with_its_file_and_item(tmp_path, task, name, gaps):
    folder, row = ROWS[task]
    rows = [{key: row[key] for key in row if key != name or place not in gaps} for place in range(3)]
    file = tmp_path / folder / "validation.jsonl"
    write_lines(file, rows)
    words = f"{file}: item {gaps[0]} \\(from 0\\) has no field '{name}', which task '{task}' needs"
    with pytest.raises(UnmaskError, match=words):
        load_tasks([task], tmp_path)


def test_more_worked_examples_than_there_are_items_to_take_them_from(mdm, data_dir, capsys):
    arguments = ("--tasks", "boolq", "--data-dir", data_dir, "--limit", "1", "--num-samples", "2", "--num-fewshot")
    status, line = one_error(capsys, "eval", mdm, *arguments, "5")
    assert status == 2
    assert "--num-fewshot 5: task 'boolq' has 4 items to take worked examples from" in line
    assert unmask(capsys, "eval", mdm, *arguments, "4")[0] == 0


def test_a_task_without_a_figure_is_told_in_one_line_beside_the_table_of_the_others(mdm, data_dir, tmp_path, capsys):
    (tmp_path / "aps").symlink_to(data_dir / "aps")
    write_lines(tmp_path / "baber/piqa/validation.jsonl", [{"goal": "go", "sol1": "x" * 30, "sol2": "y", "label": 0}])
    options = ("--data-dir", tmp_path, "--estimator", "exact", "--json", tmp_path / "r.json")
    status, out, err = unmask(capsys, "eval", mdm, "--tasks", "boolq,piqa", *options)
    assert status == 2
    assert "boolq" in out
    assert "task 'piqa': its only item can't be scored; item 0: its answer has 31 tokens" in err.splitlines()[-1]
    assert json.loads((tmp_path / "r.json").read_text())["unmask"]["tasks"]["piqa"]["items"] == 0
    status, out, _ = unmask(capsys, "compare", tmp_path / "r.json")
    assert (status, "boolq" in out, "piqa" in out) == (0, True, False)


def test_nothing_but_the_result_is_said_outside_a_repository(mdm, data_dir, tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["eval", mdm, "--tasks", "boolq", "--data-dir", str(data_dir), "--limit", "1"]) == 0
    assert "git" not in capfd.readouterr().err


def one_error(capsys, *arguments):
    status, out, err = unmask(capsys, *arguments)
    assert out == ""
    (line,) = [line for line in err.splitlines() if "error" in line]
    return status, line


@pytest.mark.parametrize("extra", [("--estimator", "mc"), ("--guidance", "0.5")])
def test_an_autoregressive_model_is_told_that_it_has_no_mask_token(arm, data_dir, capsys, extra):
    status, line = one_error(capsys, "eval", arm, "--tasks", "piqa", "--data-dir", data_dir, *extra)
    assert status == 2
    assert "mask token" in line
    status, line = one_error(capsys, "tune-guidance", arm, "--task", "piqa", "--data-dir", data_dir)
    assert status == 2
    assert "mask token" in line


def test_what_transformers_cannot_open_is_one_line(tmp_path, data_dir, capsys):
    status, line = one_error(capsys, "eval", f"hf:{tmp_path}", "--tasks", "piqa", "--data-dir", data_dir)
    assert status == 1
    assert f"hf:{tmp_path}: no model that Transformers opens" in line
    status, line = one_error(capsys, "eval", f"hf:{tmp_path}", "--tasks", "piqa", "--guidance", "1")
    assert status == 2
    assert "--guidance" in line


def test_examples_from_the_split_that_is_evaluated_are_told(mdm, data_dir, capsys):
    arguments = ("--tasks", "piqa", "--data-dir", data_dir, "--limit", "1", "--num-samples", "2")
    assert "its examples come from validation too" in unmask(capsys, "eval", mdm, *arguments, "--num-fewshot", "1")[1]
    assert "examples" not in unmask(capsys, "eval", mdm, *arguments)[1]


def test_without_the_harness_the_extra_is_named(mdm, data_dir, capsys, monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "lm_eval" else find_spec(name))
    for arguments in (("eval", mdm, "--tasks", "piqa"), ("tune-guidance", mdm, "--task", "piqa")):
        status, line = one_error(capsys, *arguments, "--data-dir", data_dir)
        assert status == 2
        assert line.endswith("lm-eval is not installed: pip install 'unmask[eval]'")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--weights", "0", "-1"), "guidance -1.0"),
        (("--weights", "0", "nan"), "guidance nan"),
        (("--estimators", "best"), "estimator 'best'"),
        (("--limit", "0"), "--limit 0"),
        (("--share", "1"), "--share 1.0"),
        (("--metric", "accuracy"), "--metric accuracy: piqa has acc"),
        (("--task", "piqaa"), "did you mean 'piqa'"),
    ],
)
def test_bad_tuning_is_one_line_and_status_2(mdm, data_dir, capsys, arguments, words):
    status, line = one_error(capsys, "tune-guidance", mdm, "--task", "piqa", "--data-dir", data_dir, *arguments)
    assert status == 2
    assert words in line


def test_tune_guidance_prints_what_was_chosen_and_writes_all(mdm, data_dir, tmp_path, capsys):
    arguments = ("--task", "piqa", "--weights", "0", "1", "--estimators", "auto", "--share", "0.5")
    options = ("--data-dir", data_dir, "--num-samples", "4", "--json", tmp_path / "tuned.json")
    status, out, _ = unmask(capsys, "tune-guidance", mdm, *arguments, *options)
    assert status == 0
    found = json.loads((tmp_path / "tuned.json").read_text())
    assert f"chosen: w = {found['chosen']['guidance']:g}, auto;" in out
    assert len(found["tried"]) == 2


@pytest.mark.parametrize("text", ["{}", "[1]", '{"unmask": 3}', '{"unmask": {"format": "another"}}'])
def test_compare_refuses_what_is_no_result(tmp_path, capsys, text):
    (tmp_path / "a.json").write_text(text)
    status, _, err = unmask(capsys, "compare", tmp_path / "a.json")
    assert status == 2
    assert "not a result of unmask eval" in err
