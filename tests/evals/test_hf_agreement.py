"""Our autoregressive path against the harness's own class for Hugging Face models, on the same weights."""

import json
import os
import subprocess
import sys

import pytest
import torch

from small_benchmarks import data_folder, language_model
from unmask.convert import export
from unmask.evals.evaluate import Run, evaluate
from unmask.evals.harness import UnmaskLM
from unmask.evals.task_names import task_files

FILES = {"piqa": "baber/piqa/validation.jsonl", "lambada_openai": "EleutherAI/lambada_openai/default/test.jsonl"}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A folder with a small autoregressive model, and its export as Llama."""
    ours = language_model(causal=True, context_length=512)
    with torch.no_grad():
        for index, parameter in enumerate(ours.model.parameters()):
            noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(index))
            parameter.copy_(1 + 0.2 * noise if parameter.ndim == 1 else 0.3 * noise)
    folder = tmp_path_factory.mktemp("models")
    ours.save(folder / "ours")
    export("llama", folder / "ours", folder / "llama")
    return folder


@pytest.fixture(scope="module")
def both(models):
    from lm_eval.models.huggingface import HFLM

    theirs = HFLM(pretrained=str(models / "llama"), device="cpu", batch_size=3)
    return UnmaskLM(str(models / "ours"), device="cpu", progress=False), theirs


def test_every_request_gets_the_same_likelihood_and_greedy_answer(both, tmp_path):
    data_dir = data_folder(tmp_path)
    found = [evaluate(model, Run(("piqa", "boolq", "lambada_openai"), data_dir)) for model in both]
    for task in ("piqa", "boolq", "lambada_openai"):
        ours, theirs = (each["samples"][task] for each in found)
        for one, other in zip(ours, theirs, strict=True):
            assert [value for value, _ in one["filtered_resps"]] == pytest.approx(
                [value for value, _ in other["filtered_resps"]], abs=1e-4
            )
            if task == "lambada_openai":  # where the harness asks for greedy answers
                assert one["filtered_resps"][0][1] == other["filtered_resps"][0][1]
        for metric, figures in found[0]["unmask"]["tasks"][task]["metrics"].items():
            if not metric.startswith("acc_length"):
                assert figures["value"] == pytest.approx(found[1]["unmask"]["tasks"][task]["metrics"][metric]["value"])


def test_both_write_the_same_text(both, tmp_path):
    run = Run(("gsm8k",), data_folder(tmp_path), limit=1, num_fewshot=0)
    ours, theirs = (evaluate(model, run)["samples"]["gsm8k"] for model in both)
    assert ours[0]["arguments"] == theirs[0]["arguments"]
    assert len(ours[0]["resps"][0][0]) > 20
    assert ours[0]["resps"] == theirs[0]["resps"]


@pytest.mark.slow
def test_the_harness_by_itself_gives_an_export_the_figures_that_ours_gives_the_model(models, tmp_path):
    """`lm_eval --model hf`, in a process of its own in which nothing of ours is imported."""
    data_dir = data_folder(tmp_path / "data")
    (tmp_path / "tasks").mkdir()
    for name, path in FILES.items():  # the harness's tasks, on data that is here
        split = (data_dir / path).stem
        changed = {f"{each}_split": split if each == split else None for each in ("training", "validation", "test")}
        fields = {"include": str(task_files()[name]), "task": f"{name}_here", "tag": None}
        fields |= {"dataset_path": "json", "dataset_name": None, **changed}
        fields["dataset_kwargs"] = {"data_files": {split: str(data_dir / path)}}
        (tmp_path / "tasks" / f"{name}.yaml").write_text(json.dumps(fields))
    command = [sys.executable, "-m", "lm_eval", "--model", "hf", "--model_args", f"pretrained={models / 'llama'}"]
    command += ["--tasks", "piqa_here,lambada_openai_here", "--include_path", str(tmp_path / "tasks")]
    command += ["--device", "cpu", "--batch_size", "4", "--output_path", str(tmp_path / "out"), "--log_samples"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    assert done.returncode == 0, done.stderr
    (results,) = (tmp_path / "out").rglob("results_*.json")
    theirs = json.loads(results.read_text())["results"]
    found = evaluate(UnmaskLM(str(models / "ours"), device="cpu", progress=False), Run(tuple(FILES), data_dir))
    for task in FILES:
        (samples,) = (tmp_path / "out").rglob(f"samples_{task}_here_*.jsonl")
        lines = sorted(map(json.loads, samples.read_text().splitlines()), key=lambda line: line["doc_id"])
        ours = sorted(found["samples"][task], key=lambda sample: sample["doc_id"])
        assert [line["doc"] for line in lines] == [sample["doc"] for sample in ours]
        for line, sample in zip(lines, ours, strict=True):
            assert [float(value) for value, _ in line["filtered_resps"]] == pytest.approx(
                [value for value, _ in sample["filtered_resps"]], abs=1e-4
            )
        for metric, figures in found["unmask"]["tasks"][task]["metrics"].items():
            if not metric.startswith("acc_length"):
                assert figures["value"] == pytest.approx(theirs[f"{task}_here"][f"{metric},none"], rel=1e-4)
