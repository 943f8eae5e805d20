"""`unmask reversal` from the generated sentences to the table."""

import json

import pytest

from unmask import cli
from unmask.records import read
from unmask.report import reversal_page

SMALL = ["--people=6", "--size=33K", "--epochs=1", "--positions=8", "--steps=4", "--limit=3", "--choice-samples=2"]


def test_mdm_and_arm_are_trained_on_the_same_sentences_and_asked_in_both_directions(tmp_path, capsys):
    out = tmp_path / "study"
    assert cli.main(["reversal", f"--out={out}", *SMALL]) == 0
    told, err = capsys.readouterr()
    whole = json.loads((out / "reversal.json").read_text())
    assert (whole["data"], whole["sentences"]) == ("generated, 6 people", 128)
    starts = {name: read(out / "seed-0" / name / "run/metrics.jsonl")[0] for name in ("mdm", "arm")}
    assert starts["mdm"]["corpus"] == starts["arm"]["corpus"]
    assert {name: start["answer_tokens"] for name, start in starts.items()} == dict.fromkeys(
        starts, starts["mdm"]["train_tokens"]
    )  # all of each sentence is scored
    mdm, arm = whole["runs"]
    assert mdm["tokens"] == arm["tokens"]
    assert mdm["steps"] == arm["steps"] == 4
    for model in ("mdm", "arm"):
        rows = [row for row in whole["rows"] if row["model"] == model]
        assert [row["asked"] for row in rows] == ["same", "same", "reverse", "reverse"]
        assert all(row["items"] == 3 for row in rows)
    # of eight items about two people, three are asked, about both
    assert {row["chance"] for row in whole["rows"]} == {0.5}
    lines = told.splitlines()
    assert lines[0].split()[:7] == ["model", "asked", "test", "w", "steps", "items", "exact"]
    assert len(lines) == 1 + 2 * 4 + 1
    assert "mdm, seed 0: 128 sentences" in err
    assert {"reversal.csv", "index.html", "figures"} <= {path.name for path in out.iterdir()}
    page = (out / "index.html").read_text()
    assert all(words in page for words in ("The reversal curse", "generated, 6 people", "figures/reversal.svg"))
    # what was written is wrapped instead of pushing the table off the page
    shown = sum(len(items) for each in whole["runs"] for items in each["samples"].values())
    assert page.count('class="wrap"') == 2 * shown
    # the caption tells of as many wrong answers as there are, and of choosing only where there was some
    assert "Above, how often the right answer is likelier than one wrong one; below, how often" in page
    unchosen = {**whole, "rows": [{**row, "choice": None} for row in whole["rows"]]}
    page = reversal_page.page_html(
        unchosen, dict.fromkeys(("narrow-dark", "narrow-light", "wide-dark", "wide-light", "png"), "")
    )
    assert "How often the written text begins with the right answer, in the first way of decoding" in page
    assert "likelier" not in page.partition("</figure>")[0]

    # once more: nothing is trained or asked again, and the result is the same
    answers = (out / "seed-0/mdm/answers.json").stat().st_mtime_ns
    assert cli.main(["reversal", f"--out={out}", *SMALL, "--json"]) == 0
    told, err = capsys.readouterr()
    again = json.loads(told)
    assert (again["rows"], again["runs"]) == (whole["rows"], whole["runs"])
    assert "step" not in err
    assert (out / "seed-0/mdm/answers.json").stat().st_mtime_ns == answers

    # another seed and other ways of decoding join what is there
    more = ["--objectives", "mdm", "--seeds=2", "--guidance", "0.8", "0", "--steps", "4", "2", "--json"]
    assert cli.main(["reversal", f"--out={out}", *SMALL, *more]) == 0
    whole = json.loads(capsys.readouterr().out)
    assert [run["seed"] for run in whole["runs"]] == [0, 1]
    decodings = [(row["guidance"], row["steps"]) for row in whole["rows"]]
    assert list(dict.fromkeys(decodings)) == [(0.8, 4), (0.8, 2), (0, 4), (0, 2)]
    assert all(row["runs"] == 2 and row["items"] == 6 and len(row["choice"]["of_runs"]) == 2 for row in whole["rows"])
    assert whole["runs"][0] == mdm

    # a model of one's own is fine-tuned
    model = out / "seed-0/arm/run"
    assert cli.main(["reversal", f"--out={tmp_path / 'tuned'}", f"--models={model}", *SMALL, "--json"]) == 0
    tuned = json.loads(capsys.readouterr().out)
    assert [(run["model"], run["objective"]) for run in tuned["runs"]] == [("1-run", "arm")]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--people=4"], "people 4: must be a multiple of 3"),
        (["--objectives", "arm", "mdn"], "unknown objective 'mdn': did you mean 'mdm'"),
        (["--seeds=0"], "--seeds 0: must be at least 1"),
        (["--steps", "4", "4"], "--steps 4 4: give different numbers from 1 on"),
        (["--guidance=-1"], "--guidance -1.0: give different numbers from 0 on"),
        (["--limit=-1"], "--limit -1: must be at least 0"),
        (["--positions=0"], "--positions 0: must be at least 1"),
        (["--choice-samples=-1"], "--choice-samples -1: must be at least 0"),
        (["--models", ".", "nowhere"], "--models nowhere: no such file or folder: give models"),
        (["--data=nowhere"], "nowhere: no all_prompts_train.jsonl in it"),
    ],
)
def test_what_is_wrong_is_one_line(arguments, told, tmp_path, capsys):
    assert cli.main(["reversal", f"--out={tmp_path / 'study'}", *SMALL, *arguments]) == 2
    err = capsys.readouterr().err
    assert told in err
