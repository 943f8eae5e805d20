"""`unmask reversal` from the generated sentences to the table."""

import json

import pytest

from unmask import cli
from unmask.records import read

SMALL = ["--people=4", "--size=33K", "--epochs=4", "--positions=8", "--steps=4", "--limit=3"]


def test_mdm_and_arm_are_trained_on_the_same_sentences_and_asked_in_both_directions(tmp_path, capsys):
    assert cli.main(["reversal", f"--out={tmp_path / 'study'}", *SMALL]) == 0
    out, err = capsys.readouterr()
    whole = json.loads((tmp_path / "study/reversal.json").read_text())
    assert (whole["data"], whole["sentences"]) == ("generated, 4 people", 32)
    starts = {name: read(tmp_path / "study" / name / "run/metrics.jsonl")[0] for name in ("mdm", "arm")}
    assert starts["mdm"]["corpus"] == starts["arm"]["corpus"]
    assert {name: start["answer_tokens"] for name, start in starts.items()} == dict.fromkeys(
        starts, starts["mdm"]["train_tokens"]
    )  # all of each sentence is scored
    assert whole["models"]["mdm"]["tokens"] == whole["models"]["arm"]["tokens"]
    for model in whole["models"].values():
        assert [test["asked"] for test in model["tests"].values()] == ["same", "same", "reverse", "reverse"]
        assert all(test["items"] == 3 and len(test["samples"]) == 3 for test in model["tests"].values())
    # of four items about two people, three are asked, about both
    assert {test["chance"] for test in whole["models"]["mdm"]["tests"].values()} == {0.5}
    lines = out.splitlines()
    assert lines[0].split() == ["model", "asked", "test", "items", "exact", "95%", "BLEU", "choice", "95%", "chance"]
    assert len(lines) == 1 + 2 * 4 + 1
    assert "mdm: 32 sentences" in err
    # once more: nothing is trained again, and the result is the same
    assert cli.main(["reversal", f"--out={tmp_path / 'study'}", *SMALL, "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out) == whole
    assert "step" not in err

    # a model of one's own is fine-tuned
    model = tmp_path / "study/arm/run"
    assert cli.main(["reversal", f"--out={tmp_path / 'tuned'}", f"--models={model}", *SMALL, "--json"]) == 0
    tuned = json.loads(capsys.readouterr().out)
    assert {name: each["objective"] for name, each in tuned["models"].items()} == {"1-run": "arm"}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--people=3"], "people 3: must be an even number"),
        (["--objectives", "mdn"], "unknown objective 'mdn': did you mean 'mdm'"),
        (["--limit=-1"], "--limit -1: must not be negative"),
        (["--data=nowhere"], "nowhere: no all_prompts_train.jsonl in it"),
    ],
)
def test_what_is_wrong_is_one_line(arguments, told, tmp_path, capsys):
    assert cli.main(["reversal", f"--out={tmp_path / 'study'}", *SMALL, *arguments]) == 2
    err = capsys.readouterr().err
    assert told in err
