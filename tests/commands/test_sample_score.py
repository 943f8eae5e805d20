"""`unmask sample` and `unmask score`, run as the command line runs them."""

import json
import math

import pytest

from tiny_models import language_model
from unmask import cli
from unmask.data import tokenizer as tokenizers
from unmask.language_model import load


def save(directory, causal):
    language_model(tokenizers.byte_level(), causal=causal).save(directory)
    return str(directory)


@pytest.fixture(scope="module")
def mdm(tmp_path_factory):
    return save(tmp_path_factory.mktemp("mdm"), causal=False)


@pytest.fixture(scope="module")
def arm(tmp_path_factory):
    return save(tmp_path_factory.mktemp("arm"), causal=True)


def unmask(capsys, *arguments):
    status = cli.main(list(arguments))
    return status, *capsys.readouterr()


def test_sample_prints_the_text_and_its_cost(mdm, capsys):
    arguments = ("--prompt", "We the", "--max-new-tokens", "8", "--steps", "4", "--seed", "3")
    status, out, err = unmask(capsys, "sample", mdm, *arguments)
    assert (status, err) == (0, "")
    generation = load(mdm).generate("We the", max_new_tokens=8, steps=4, seed=3)
    assert out.startswith(generation.text + "\n[confidence, seed 3: 4 network calls, ")
    assert "\x1b" not in out  # no terminal, no colours


def test_sample_as_json_has_one_line_for_each_text(mdm, capsys):
    arguments = ("--prompt", "We", "--max-new-tokens", "6", "--num-samples", "3", "--seed", "5", "--json")
    status, out, _ = unmask(capsys, "sample", mdm, *arguments)
    lines = [json.loads(line) for line in out.splitlines()]
    assert status == 0
    assert [line["seed"] for line in lines] == [5, 6, 7]
    for line in lines:
        assert len(line["tokens"]) == len(line["reveal_steps"]) == 8
        assert line["network_calls"] == 6
        assert line["text"].startswith("We")
        assert line["seconds"] > 0
    # any of them again by its own seed
    _, again, _ = unmask(capsys, "sample", mdm, *arguments[:4], "--seed", "6", "--json")
    assert json.loads(again)["tokens"] == lines[1]["tokens"]


@pytest.mark.parametrize(
    ("options", "calls"),
    [
        (["--sampler", "ancestral", "--steps", "1"], 1),
        (["--guidance", "0.5", "--steps", "2"], 4),
        (["--sampler", "autoregressive", "--top-k", "3", "--top-p", "0.9", "--temperature", "0.5"], None),
        (["--schedule", "released", "--temperature", "0", "--steps", "3"], 3),
    ],
)
def test_sample_takes_the_options_of_the_samplers(mdm, capsys, options, calls):
    status, out, _ = unmask(capsys, "sample", mdm, "--prompt", "We", "--max-new-tokens", "6", "--json", *options)
    assert status == 0
    assert calls is None or json.loads(out)["network_calls"] == calls


def test_sample_fills_blanks(mdm, capsys):
    status, out, _ = unmask(capsys, "sample", mdm, "--infill", "The _[4] of __.", "--json")
    generation = json.loads(out)
    assert status == 0
    assert len(generation["fills"]) == 2
    assert generation["text"] == f"The {generation['fills'][0]} of {generation['fills'][1]}."


def test_sample_of_an_arm(arm, capsys):
    status, out, _ = unmask(capsys, "sample", arm, "--prompt", "We", "--max-new-tokens", "6")
    assert status == 0
    assert "[autoregressive, seed 0: " in out


@pytest.mark.parametrize("estimator", ["auto", "exact", "stratified", "mc", "chain"])
def test_score_prints_the_figure_that_the_library_gives(mdm, capsys, estimator):
    arguments = ("--prompt", "We the", "--continuation", " all", "--estimator", estimator, "--num-samples", "9")
    status, out, _ = unmask(capsys, "score", mdm, *arguments, "--json")
    figures = json.loads(out)
    expected = load(mdm).score("We the", " all", estimator=estimator, num_samples=9)
    assert status == 0
    assert figures["log_likelihood"] == pytest.approx(expected.log_likelihood)
    assert figures["standard_error"] == pytest.approx(expected.standard_error)
    assert figures["network_calls"] == expected.network_calls
    assert figures["bound"] is (estimator != "chain")
    status, out, _ = unmask(capsys, "score", mdm, *arguments)
    assert f"log-likelihood {expected.log_likelihood:.4f}" in out
    assert ("±" in out) is not expected.exact


def test_score_of_one_draw_has_no_error(mdm, capsys):
    arguments = ("--continuation", "We the", "--estimator", "stratified", "--num-samples", "1")
    _, out, _ = unmask(capsys, "score", mdm, *arguments, "--json")
    assert json.loads(out)["standard_error"] is None
    _, out, _ = unmask(capsys, "score", mdm, *arguments)
    assert "error unknown" in out


def test_score_of_an_arm_is_exact(arm, capsys):
    _, out, _ = unmask(capsys, "score", arm, "--continuation", "We the", "--json")
    figures = json.loads(out)
    assert (figures["bound"], figures["exact"], figures["network_calls"]) == (False, True, 1)
    assert figures["log_likelihood"] == pytest.approx(-6 * math.log(258), rel=0.1)  # an untrained network


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["sample", "{absent}"], 2, "no such directory"),
        (["sample", "{mdm}", "--sampler", "confidnce"], 2, "did you mean 'confidence'"),
        (["sample", "{mdm}", "--steps", "0"], 2, "steps 0"),
        (["sample", "{mdm}", "--num-samples", "0"], 2, "--num-samples 0"),
        (["sample", "{mdm}", "--prompt", "x", "--infill", "_"], 2, "exclude each other"),
        (["sample", "{mdm}", "--infill", "x"], 2, "has no blank"),
        (["sample", "{mdm}", "--prompt", "x" * 65], 2, "more than the context"),
        (["sample", "{mdm}", "--schedule", "evn"], 2, "did you mean 'even'"),
        (["sample", "{mdm}", "--top-k", "0"], 2, "top_k 0"),
        (["sample", "{mdm}", "--sampler", "thresold"], 2, "did you mean 'threshold'"),
        (["sample", "{mdm}", "--sampler", "margin", "--eta", "0.1"], 2, "unknown option 'eta'"),
        (["sample", "{mdm}", "--temperature", "-1"], 2, "temperature -1.0"),
        (["sample", "{mdm}", "--guidance", "1", "--guidance-until", "0"], 2, "until 0.0"),
        (["sample", "{mdm}", "--sampler", "block", "--inner", "remsk"], 2, "did you mean 'remask'"),
        (
            ["sample", "{mdm}", "--sampler", "block", "--block-length", "4", "--steps", "2"],
            2,
            "fewer than the 16 blocks",
        ),
        (["sample", "{arm}", "--infill", "_"], 2, "no mask token"),
        (["sample", "{arm}", "--guidance", "1"], 2, "guidance 1.0"),
        (["score", "{mdm}", "--continuation", ""], 2, "has no tokens"),
        (["score", "{mdm}", "--continuation", "x", "--estimator", "mcc"], 2, "did you mean 'mc'"),
        (["score", "{mdm}", "--continuation", "x" * 30, "--estimator", "exact"], 2, "take stratified"),
        (["score", "{cut}", "--continuation", "x"], 1, "damaged or cut short"),
    ],
)
def test_errors_are_one_line_with_their_status(mdm, arm, tmp_path, capsys, arguments, status, words):
    cut = tmp_path / "cut"
    save(cut, causal=False)
    weights = (cut / "model.safetensors").read_bytes()
    (cut / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    places = {"absent": tmp_path / "absent", "mdm": mdm, "arm": arm, "cut": cut}
    found, out, err = unmask(capsys, *(argument.format(**places) for argument in arguments))
    assert (found, out) == (status, "")
    assert words in err
    assert err.count("\n") == 1


def test_a_trace_holds_every_step_of_every_sample(mdm, tmp_path, capsys):
    trace = tmp_path / "trace.json"
    arguments = ("--prompt", "We", "--max-new-tokens", "6", "--steps", "3", "--num-samples", "2", "--trace", str(trace))
    status, out, _ = unmask(capsys, "sample", mdm, *arguments)
    assert status == 0
    written = json.loads(trace.read_text())
    assert written["mask_id"] == load(mdm).mask_id
    for number, sample in enumerate(written["samples"]):
        assert sample["seed"] == number
        assert sample["text"] in out
        assert "".join(sample["pieces"]) == sample["text"]
        assert len(sample["steps"]) == 3
        assert sum(len(step["revealed"]) for step in sample["steps"]) == 6
        for step in sample["steps"]:
            for reveal in step["revealed"]:
                assert sample["tokens"][reveal["position"]] == reveal["token"]
    page = trace.with_suffix(".html")
    assert str(page) in out
    assert page.read_text().count("<blockquote>") == 2 * 2


def test_the_trace_of_searched_blanks_is_that_of_the_length_that_was_taken(mdm, tmp_path, capsys):
    for seed in range(4):
        trace = tmp_path / f"{seed}.json"
        arguments = ("--infill", "We the _[1-6] of the", "--seed", str(seed), "--trace", str(trace), "--json")
        status, out, _ = unmask(capsys, "sample", mdm, *arguments)
        assert status == 0
        (sample,) = json.loads(trace.read_text())["samples"]
        assert out.count("\n") == 1
        revealed = {r["position"]: r["token"] for step in sample["steps"] for r in step["revealed"]}
        assert revealed == {p: sample["tokens"][p] for p, step in enumerate(sample["reveal_steps"]) if step >= 0}
        assert len(revealed) == sample["candidates"][0]["lengths"][0]


def test_a_cache_tells_its_drift_and_searched_blanks_their_lengths(mdm, capsys):
    arguments = ("--prompt", "We the people", "--max-new-tokens", "12", "--cache", "block", "--cache-refresh", "4")
    status, out, _ = unmask(capsys, "sample", mdm, *arguments)
    assert status == 0
    assert "of the positions computed, approximate, drift " in out
    status, out, _ = unmask(capsys, "sample", mdm, "--infill", "We _[1-3] people")
    assert status == 0
    assert sum(line.startswith("[length ") for line in out.splitlines()) == 3


def test_in_a_terminal_one_watches_the_masks_fill_in(mdm, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("FORCE_COLOR", "1")
    arguments = ("--prompt", "We", "--max-new-tokens", "6", "--seed", "2")
    status, out, _ = unmask(capsys, "sample", mdm, *arguments)
    assert status == 0
    assert "0 masked" in out
    assert load(mdm).generate("We", max_new_tokens=6, seed=2).text in out
