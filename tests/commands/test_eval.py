"""`unmask eval` and `unmask compare`, as the command line runs them."""

import json
import sys
from pathlib import Path

import pytest

from unmask import cli

sys.path.insert(0, str(Path(__file__).parents[1] / "evals"))
from benchmarks import data_folder, language_model


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return data_folder(tmp_path_factory.mktemp("hub"))


@pytest.fixture(scope="module")
def mdm(tmp_path_factory):
    directory = tmp_path_factory.mktemp("mdm")
    language_model(causal=False).save(directory)
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
        (("--tasks", "helaswag"), "did you mean 'hellaswag'"),
        (("--tasks", "race"), "task 'race': no test.jsonl"),
        (("--tasks", "piqa", "--limit", "0"), "--limit 0"),
        (("--tasks", "piqa", "--guidance", "-1"), "guidance -1.0"),
        (("--tasks", "piqa", "--guidance", "nan"), "guidance nan"),
        (("--tasks", "piqa", "--estimator", "best"), "estimator 'best'"),
        (("--tasks", ","), "--tasks"),
    ],
)
def test_bad_input_is_one_line_and_status_2(mdm, data_dir, capsys, arguments, words):
    status, out, err = unmask(capsys, "eval", mdm, "--data-dir", data_dir, *arguments)
    assert (status, out) == (2, "")
    assert words in err
    assert len([line for line in err.splitlines() if "unmask: error" in line]) == 1


def test_compare_refuses_what_is_no_result(tmp_path, capsys):
    (tmp_path / "a.json").write_text("{}")
    status, _, err = unmask(capsys, "compare", tmp_path / "a.json")
    assert status == 2
    assert "not a result of unmask eval" in err
