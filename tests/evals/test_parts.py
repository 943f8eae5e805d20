"""Joining evaluations: parts make what one run makes, and what is no part of one evaluation is refused."""

import copy
import math

import pytest

from small_benchmarks import data_folder, language_model
from unmask import cli
from unmask.errors import UsageError
from unmask.evals import evaluate, parts


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Three tasks at once, and in parts: the first two items of each, the rest of each."""
    root = tmp_path_factory.mktemp("parts")
    language_model(causal=False).save(root / "model")
    data = data_folder(root / "data")
    cuts = {"whole": (), "first": ("--limit", "2"), "rest": ("--offset", "2")}
    for name, cut in cuts.items():
        arguments = ("--tasks", "piqa,boolq,lambada_openai", "--data-dir", data, "--num-samples", "8")
        out = ("--search-lengths", "3", "--json", root / f"{name}.json")
        assert cli.main([str(each) for each in ("eval", root / "model", *arguments, *cut, *out)]) == 0
    return root


def results(runs, *names):
    return [evaluate.read(runs / f"{name}.json") for name in names]


def figures(result, task, metric):
    return result["unmask"]["tasks"][task]["metrics"][metric]


def test_parts_joined_are_what_one_run_gives(runs):
    (whole,) = results(runs, "whole")
    joined = parts.join(results(runs, "rest", "first"), ["rest", "first"])
    assert joined["unmask"]["items"] == whole["unmask"]["items"]
    for task, one in whole["unmask"]["tasks"].items():
        both = joined["unmask"]["tasks"][task]
        for key in ("items", "requests", "errors", "dataset", "split", "truncated", "exact"):
            assert both[key] == one[key], (task, key)
        assert both["metrics"].keys() == one["metrics"].keys()
        for metric, expected in one["metrics"].items():
            assert both["metrics"][metric]["value"] == pytest.approx(expected["value"], rel=1e-6)
            if metric != "perplexity":  # the harness resamples there
                assert both["metrics"][metric]["stderr_items"] == pytest.approx(expected["stderr_items"], rel=1e-6)
    of_masks = (figures(each, "lambada_openai", "perplexity")["stderr_estimate"] for each in (joined, whole))
    assert next(of_masks) == pytest.approx(next(of_masks), rel=1e-6)
    spread = figures(joined, "lambada_openai", "perplexity")["stderr_items"]
    assert spread == pytest.approx(figures(whole, "lambada_openai", "perplexity")["stderr_items"], rel=0.5)


def test_errors_of_masks_add_by_the_share_of_the_items():
    first = of_piqa([0, 1], [1.0, 0.0], masks=0.3)
    rest = of_piqa([2, 3, 4, 5], [1.0, 1.0, 1.0, 0.0], masks=0.2)
    found = figures(parts.join([first, rest], ["a", "b"]), "piqa", "acc")
    assert found["value"] == pytest.approx(4 / 6)
    assert found["stderr_estimate"] == pytest.approx(math.hypot(2 * 0.3, 4 * 0.2) / 6)
    unknown = of_piqa([7], [1.0], masks=None)
    assert figures(parts.join([first, unknown], ["a", "b"]), "piqa", "acc")["stderr_estimate"] is None


def test_other_tasks_are_put_beside_each_other_as_they_are(runs):
    (whole,) = results(runs, "whole")
    task = whole["unmask"]["tasks"]["boolq"]
    other = of_piqa([0], [1.0])
    other["unmask"]["model"], other["unmask"]["settings"] = whole["unmask"]["model"], whole["unmask"]["settings"]
    del whole["unmask"]["tasks"]["piqa"]
    joined = parts.join([whole, other], ["a", "b"])
    assert joined["unmask"]["tasks"]["boolq"] == task
    assert joined["unmask"]["tasks"]["piqa"] == other["unmask"]["tasks"]["piqa"]


def test_a_part_in_which_no_item_has_a_score_leaves_the_figures_to_the_others():
    first, rest = of_piqa([0, 1], [1.0, 0.0]), of_piqa([2, 3], [1.0, 1.0])
    none = rest["unmask"]["tasks"]["piqa"]
    none |= {"items": 0, "metrics": {}, "errors": [{"doc_id": each, "error": "empty"} for each in (2, 3)]}
    rest["unmask"]["items"]["piqa"] = {"doc_id": []}
    for order in ([first, rest], [rest, first]):
        task = parts.join(order, ["a", "b"])["unmask"]["tasks"]["piqa"]
        assert (task["items"], len(task["errors"]), task["metrics"]["acc"]["value"]) == (2, 2, 0.5)


def of_piqa(doc_ids, values, masks=0.1):
    task = {
        "dataset": "baber/piqa",
        "split": "validation",
        "items": len(values),
        "num_fewshot": 0,
        "examples_from": None,
        "errors": [],
        "metrics": {
            "acc": {"value": sum(values) / len(values), "stderr_items": 0.1, "stderr_estimate": masks},
        },
        "network_calls": 10,
        "seconds": 1.0,
    }
    ours = {
        "model": "tiny",
        "machine": "here",
        "settings": {"estimator": "auto", "batch_size": None},
        "seconds": 1.0,
        "tasks": {"piqa": task},
        "items": {"piqa": {"doc_id": doc_ids, "acc": values}},
    }
    return {"unmask": ours}


def changed(key, value, *, task=False):
    result = of_piqa([2, 3], [1.0, 0.0])
    (result["unmask"]["tasks"]["piqa"] if task else result["unmask"])[key] = value
    return result


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (of_piqa([1, 2], [1.0, 0.0]), "b: item 1 of piqa is in a too"),
        (changed("errors", [{"doc_id": 0, "error": ""}], task=True), "b: item 0 of piqa is in a too"),
        (changed("model", "other"), "b: model: other, but tiny in a: name it by --model"),
        (changed("settings", {"estimator": "mc"}), "b: settings: "),
        (changed("split", "test", task=True), "b: split of piqa: test, but validation in a"),
        (changed("items", {}), "b: has no figures of the items of piqa"),
        (
            changed("metrics", {"acc": {"value": 0.9, "stderr_items": 0.1, "stderr_estimate": 0.0}}, task=True),
            "acc of piqa is no mean over its items",
        ),
    ],
)
def test_what_is_no_part_is_refused(other, words):
    with pytest.raises(UsageError, match=words):
        parts.join([of_piqa([0, 1], [1.0, 0.0]), other], ["a", "b"])


def test_batch_sizes_may_differ_and_a_name_can_be_given():
    other = changed("settings", {"estimator": "auto", "batch_size": 4})
    other["unmask"]["model"] = "runs/tiny"
    first = of_piqa([0, 1], [1.0, 0.0])
    before = copy.deepcopy(first)
    assert parts.join([first, other], ["a", "b"], model="ours")["unmask"]["model"] == "ours"
    assert first == before


def test_the_command_writes_what_compare_reads(runs, capsys):
    arguments = [str(runs / name) for name in ("first.json", "rest.json")]
    assert cli.main(["join", *arguments, "--out", str(runs / "all.json")]) == 0
    assert "lambada_openai" in capsys.readouterr().out
    assert cli.main(["compare", str(runs / "all.json"), str(runs / "whole.json")]) == 0
    assert "| piqa | acc | whole |" in capsys.readouterr().out
    assert cli.main(["join", arguments[0], arguments[0], "--out", str(runs / "twice.json")]) == 2
    assert "leave one of them out" in capsys.readouterr().err
