"""`unmask gsm8k` from the problems to the page."""

import json
from pathlib import Path

import pytest

from unmask import cli
from unmask.report import problems_page
from unmask.report.document import document

SHARED = Path(__file__).parents[2] / "../shared/data/gsm8k_deng"
SMALL = ["--size=33K", "--epochs=1", "--batch-size=16", "--steps=2", "--limit=3"]


def test_products_are_trained_on_and_solved_by_both_kinds_of_model(tmp_path, capsys):
    arguments = ["gsm8k", f"--out={tmp_path}", "--digits=1", "--problems=16", *SMALL]
    assert cli.main(arguments) == 0
    told, err = capsys.readouterr()
    whole = json.loads((tmp_path / "gsm8k.json").read_text())
    assert [(row["model"], row["sampler"], row["problems"]) for row in whole["rows"]] == [
        ("mdm", "confidence", 3),
        ("mdm", "ancestral", 3),
        ("arm", "autoregressive", 3),
    ]
    mdm, arm = whole["runs"]
    assert mdm["tokens"] == arm["tokens"]
    assert mdm["steps"] == arm["steps"] == 2  # 32 examples of 16 problems
    assert "mdm, seed 0: 16 problems (products of two numbers of 1 digit)" in err
    assert told.splitlines()[0].split() == ["model", "decoding", "runs", "problems", "calls", "solved", "95%"]
    assert {"gsm8k.csv", "index.html", "figures"} <= {path.name for path in tmp_path.iterdir()}
    # once more: nothing is trained or solved again
    assert cli.main([*arguments, "--json"]) == 0
    told, err = capsys.readouterr()
    assert json.loads(told)["rows"] == whole["rows"]
    assert "step" not in err
    # with other options the folder is refused: neither its result nor its page is replaced, or told as theirs
    before = (tmp_path / "gsm8k.json").read_text()
    for others, refusal in (
        (["--size=16K"], "seed-0/mdm/start: holds a model of 32,928 parameters, and --size 16K has 16,248"),
        (["--task=countdown"], "seed-0/examples.jsonl: holds other problems than these"),
    ):
        assert cli.main([*arguments, *others]) == 2
        assert refusal in capsys.readouterr().err
    assert cli.main(["reversal", f"--out={tmp_path}", "--people=6", "--size=33K"]) == 2
    assert "seed-0/examples.jsonl: is another command's" in capsys.readouterr().err
    assert (tmp_path / "gsm8k.json").read_text() == before


def test_columns_of_long_texts_begin_at_the_top_and_known_answers_take_no_more_room_than_they_need():
    sample = {"questions": "What?", "expected": "18", "rationales": "9 * 2", "answers": "17"}
    page = "".join(
        problems_page.samples({"task": "rationales", "runs": [{"model": "mdm", "seed": 0, "samples": [sample]}]})
    )
    assert '<td><span class="wrap">What?</span></td><td>18</td>' in page
    assert ".wrap { display: inline-block; vertical-align: top;" in document("a title", [])


def test_countdown_is_solved_in_one_stage_and_has_its_page(tmp_path, capsys):
    arguments = ["gsm8k", f"--out={tmp_path}", "--task=countdown", "--largest-number=9", "--problems=16", *SMALL]
    assert cli.main([*arguments, "--json"]) == 0
    whole = json.loads(capsys.readouterr().out)
    assert (whole["task"], whole["data"]) == ("countdown", "countdown of 3 numbers up to 9, targets up to 100")
    assert [(row["model"], row["sampler"], row["problems"]) for row in whole["rows"]] == [
        ("mdm", "confidence", 3),
        ("mdm", "ancestral", 3),
        ("arm", "autoregressive", 3),
    ]
    assert [run["steps"] for run in whole["runs"]] == [1, 1]  # one example of each of 16 problems
    assert {each["rationales"] for run in whole["runs"] for each in run["samples"]} == {""}
    page = (tmp_path / "index.html").read_text()
    assert "<h1>Countdown</h1>" in page
    assert "rationale" not in page
    assert len((tmp_path / "gsm8k.csv").read_text().splitlines()) == 4


@pytest.mark.parametrize("generated", [True, False])
def test_countdown_files_are_solved_after_generated_problems_or_those_of_a_file(generated, tmp_path, capsys):
    train, test = tmp_path / "train.jsonl", tmp_path / "test.jsonl"
    train.write_text('{"input": "2,3,4,11", "output": "2*4=8,8+3=11"}\n' * 8)
    test.write_text('{"input": "2,3,5,10", "output": "2+3=5,5+5=10"}\n' * 5)
    files = ["--task=countdown", "--problems=12"] if generated else [f"--data={train}"]
    arguments = ["gsm8k", f"--out={tmp_path / 'out'}", f"--test={test}", *files, *SMALL, "--objectives", "arm"]
    assert cli.main([*arguments, "--json"]) == 0
    whole = json.loads(capsys.readouterr().out)
    told = "countdown of 3 numbers up to 20, targets up to 100; asked: test.jsonl" if generated else "train.jsonl"
    assert (whole["task"], whole["data"], whole["problems"]) == ("countdown", told, 12 if generated else 8)
    assert whole["rows"][0]["problems"] == 3


def test_files_of_several_kinds_are_refused_in_one_line(tmp_path, capsys):
    (tmp_path / "test.txt").write_text("What?||1 #### 1\n")
    arguments = ["gsm8k", f"--out={tmp_path / 'out'}", f"--test={tmp_path / 'test.txt'}", "--task=countdown", *SMALL]
    assert cli.main(arguments) == 2
    assert "--task, --data and --test: some problems are countdown, others are not" in capsys.readouterr().err


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the shared data")
def test_the_published_problems_are_trained_on_and_solved(tmp_path, capsys):
    few = tmp_path / "few.txt"
    few.write_text("".join((SHARED / "valid.txt").read_text().splitlines(keepends=True)[:24]))
    files = [f"--data={few}", f"--test={SHARED / 'test.txt'}"]
    arguments = ["gsm8k", f"--out={tmp_path / 'out'}", *files, *SMALL, "--objectives", "arm", "--json"]
    assert cli.main(arguments) == 0
    whole = json.loads(capsys.readouterr().out)
    assert (whole["data"], whole["problems"]) == ("few.txt", 24)
    assert whole["rows"][0]["problems"] == 3


@pytest.mark.parametrize(
    ("arguments", "told", "status"),
    [
        (["--test=a.txt"], "--data and --test: give problems to train on and problems to solve, or neither", 2),
        (["--data=nowhere.txt", "--test=nowhere.txt"], "nowhere.txt: no such file", 2),
        (["--data=a.jsonl", "--test=a.jsonl", "--task=countdown"], "--task countdown: generates what is trained", 2),
        (["--task=countdown", "--numbers=1"], "--numbers 1: must be from 2 to 6", 2),
        (["--task=countdown", "--largest-target=0"], "--largest-target 0: must be from 1 to a million", 2),
        (["--task=countdown", "--largest-number=2"], "--problems: only 18 of 3003 found", 2),
        (["--problems=0"], "--problems 0: must be at least 1", 2),
        (["--digits=9"], "--digits 9: must be from 1 to 4", 2),
        (["--seeds=0"], "--seeds 0: must be at least 1", 2),
        (["--samplers", "confidence", "ancestrl"], "unknown sampler 'ancestrl': did you mean 'ancestral'", 2),
        (["--models", ".", "nowhere"], "--models nowhere: no such file or folder: give models", 2),
        (["--digits=1", "--problems=43"], "--problems 43 to train on, and 3 to test (--limit", 2),
        (["--samplers", "ancestral", "ancestral"], "--samplers ancestral ancestral: give different ones", 2),
    ],
)
def test_what_is_wrong_is_one_line(arguments, told, status, tmp_path, capsys):
    assert cli.main(["gsm8k", f"--out={tmp_path}", *SMALL, *arguments]) == status
    assert told in capsys.readouterr().err


def test_answers_that_are_longer_than_the_context_are_refused_in_one_line(tmp_path, capsys):
    problem = tmp_path / "long.txt"
    (tmp_path / "test.txt").write_text("What?||1 #### 1\n")
    rest = "What is it?||" + " ".join(str(n * 7919) for n in range(300)) + " #### " + " ".join(map(str, range(300)))
    problem.write_text(rest + "\n")
    files = [f"--data={problem}", f"--test={tmp_path / 'test.txt'}"]
    assert cli.main(["gsm8k", f"--out={tmp_path / 'out'}", *files, *SMALL]) == 1
    assert "no example is left: 2 of more than 256 tokens" in capsys.readouterr().err
