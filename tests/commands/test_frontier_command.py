"""`unmask frontier`, run as the command line runs it, on two tiny models."""

import csv
import html.parser
import json

import pytest

from tiny_models import language_model
from unmask import cli
from unmask.data import tokenizer as tokenizing
from unmask.evals import frontier
from unmask.evals.frontier_settings import Setting
from unmask.language_model import load

WORDS = ["The cat sat on the mat, and the dog sat beside the cat."] * 20


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("frontier")
    tokenizers = {"": tokenizing.train_bpe(iter(WORDS), 280), "-bytes": tokenizing.byte_level()}
    for suffix, tokenizer in tokenizers.items():
        for name in ("mdm", "arm"):
            lm = language_model(tokenizer, causal=name == "arm", context_length=32, sharpened=True)
            lm.save(place / (name + suffix))
    (place / "prompts.txt").write_text("The cat\n\nThe dog sat\n")
    (place / "empty.txt").write_text("\n")
    return place


@pytest.fixture
def unmask(place, monkeypatch, capsys):
    monkeypatch.chdir(place)

    def run(*arguments):
        capsys.readouterr()
        status = cli.main(["frontier", *arguments])
        return status, *capsys.readouterr()

    return run


SMALL = ("--num-samples", "3", "--max-new-tokens", "8", "--rounds", "2", "--batch", "1", "2", "--steps", "2", "8")


def test_a_frontier_has_every_setting_with_its_times_and_a_page(unmask, place):
    arguments = ("--mdm", "mdm", "--arm", "arm", "--out", "out", "--prompts", "prompts.txt", *SMALL)
    status, out, err = unmask(*arguments, "--samplers", "ancestral", "block:block_length=4", "--guidance", "0", "0.5")
    assert status == 0, err
    assert "1 sample at a time: " in out
    assert "…" not in out
    result = json.loads((place / "out" / "frontier.json").read_text())
    assert [each["label"] for each in result["settings"]][:3] == [
        "ancestral 2 steps",
        "ancestral 8 steps",
        "ancestral 2 steps, w=0.5",
    ]
    assert len(result["settings"]) == 2 * 2 * 2 + 5
    by_label = {each["label"]: each for each in result["settings"]}
    assert by_label["ARM"]["network_calls"] == 8
    assert by_label["ARM"]["gap"]["value"] == 0
    assert by_label["ARM T=0.5"]["timings"] == []
    assert by_label["ancestral 2 steps, w=0.5"]["network_calls"] == 2 * by_label["ancestral 2 steps"]["network_calls"]
    for each in result["settings"][:8]:
        for timing, batch in zip(each["timings"], (1, 2), strict=True):
            assert len(timing["seconds"]) == 2
            assert timing["tokens_per_second"] == pytest.approx(8 / timing["seconds_per_sample"])
            assert timing["first_token_seconds"] > 0
            assert timing["batch"] == batch
    assert [each["batch"] for each in result["speedups"]] == [1, 2]
    with (place / "out" / "frontier.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 9 * 2 + 4
    assert float(lines[0]["perplexity"]) == result["settings"][0]["perplexity"]["value"]
    texts = [json.loads(line) for line in (place / "out" / "samples.jsonl").read_text().splitlines()]
    assert len(texts) == 13 * 3
    assert [each["prompt"] for each in texts[:3]] == ["The cat", "The dog sat", "The cat"]
    page = (place / "out" / "index.html").read_text()
    html.parser.HTMLParser().feed(page)
    assert "ancestral 8 steps" in page
    for name in ("frontier.svg", "frontier.png", "frontier-narrow-dark.svg"):
        assert (place / "out" / "figures" / name).stat().st_size > 1000
    assert cli.main(["quality", "out/samples.jsonl"]) == 0  # which other commands read


def test_texts_do_not_depend_on_the_batch(place):
    models = {name: load(place / name, "cpu") for name in ("mdm", "arm")}
    work = frontier.Workload(("The", "The cat sat"), 6, 0, {"mdm": frozenset({1}), "arm": frozenset({1})})
    chosen = [Setting("mdm", "confidence", 3, 0.5), Setting("arm", "autoregressive")]
    texts = [
        [each.texts for each in frontier.run(models, chosen, [], work, **about, on_progress=lambda text: None)]
        for about in ({"num_samples": 3, "batches": (size,), "rounds": 1} for size in (1, 3))
    ]
    assert texts[0] == texts[1]
    assert len(texts[0]) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"--mdm": "arm"}, "--mdm arm: is autoregressive"),
        ({"--arm": "mdm"}, "--arm mdm: is a masked model"),
        ({"--arm": "arm-bytes"}, "has another tokenizer"),
        ({"--reference": "mdm"}, "--reference mdm: a masked model"),
        ({"--samplers": "ancestrall"}, "did you mean 'ancestral'"),
        ({"--prompts": "absent.txt"}, "--prompts absent.txt: no such file"),
        ({"--prompts": "empty.txt"}, "no prompt in it"),
        ({"--num-samples": "1"}, "--num-samples 1: must be at least 2"),
        ({"--batch": "0"}, "--batch 0"),
        ({"--max-new-tokens": "90"}, "more than the context of 32 tokens"),
        ({"--arm-temperatures": "-1"}, "--arm-temperatures"),
    ],
)
def test_bad_input_is_told_in_one_line(unmask, changes, message):
    arguments = {"--mdm": "mdm", "--arm": "arm", "--out": "never", **changes}
    status, out, err = unmask(*(part for pair in arguments.items() for part in pair))
    assert status == 2
    assert message in err
    assert err.count("\n") == 1
    assert out == ""
