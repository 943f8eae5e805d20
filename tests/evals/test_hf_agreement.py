"""Our autoregressive path against the harness's own class for Hugging Face models, on the same weights."""

import pytest
import torch

from small_benchmarks import data_folder, language_model
from unmask.convert import export
from unmask.evals.evaluate import Run, evaluate
from unmask.evals.harness import UnmaskLM


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    from lm_eval.models.huggingface import HFLM

    ours = language_model(causal=True, context_length=512)
    with torch.no_grad():
        for index, parameter in enumerate(ours.model.parameters()):
            noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(index))
            parameter.copy_(1 + 0.2 * noise if parameter.ndim == 1 else 0.3 * noise)
    folder = tmp_path_factory.mktemp("models")
    ours.save(folder / "ours")
    export("llama", folder / "ours", folder / "llama")
    return UnmaskLM(ours, progress=False), HFLM(pretrained=str(folder / "llama"), device="cpu", batch_size=3)


def test_every_request_gets_the_same_likelihood_and_greedy_answer(both, tmp_path):
    data_dir = data_folder(tmp_path)
    found = [evaluate(model, Run(("piqa", "boolq", "lambada_openai"), data_dir)) for model in both]
    for task in ("piqa", "boolq", "lambada_openai"):
        ours, theirs = (each["samples"][task] for each in found)
        for one, other in zip(ours, theirs, strict=True):
            assert [value for value, _ in one["filtered_resps"]] == pytest.approx(
                [value for value, _ in other["filtered_resps"]], abs=1e-3
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
