"""Fine-tuning on conversations: what of each format is corrupted and scored, and a run from end to end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.train.runs import losses, stopped
from tests.train.sft_runs import ALONE, FILES, SHORT, network, opened, sft
from torch.nn import functional as F

import unmask
from unmask import cli, seeding
from unmask.config import ModelConfig
from unmask.data import tokenizer as tokenizers
from unmask.errors import UnmaskError, UsageError
from unmask.language_model import LanguageModel
from unmask.model import Transformer
from unmask.objectives import Corrupted, Rows
from unmask.records import read
from unmask.sft_config import SftConfig
from unmask.train import loop, tasks
from unmask.train.loop import train
from unmask.train.parallel import World

GOLDEN = Path(__file__).parent / "golden" / "sft.txt"
SHARED = Path(__file__).parents[2] / "../shared/data/sharegpt_like"


def shown(ids: list[int]) -> str:
    """Bytes as characters, end-of-text as $, the mask as ░, beginning-of-text as ^, what is not scored as a dot."""
    names = {-100: "·", 256: "^", 257: "$", 258: "░", 10: "⏎"}
    return "".join(names.get(token) or chr(token) for token in ids)


CASES: dict[str, dict[str, Any]] = {
    "sharegpt": {},
    "sharegpt all turns": {"turns": "all", "batch_size": 3},
    "sharegpt masked padding": {"padding": "masked"},
    "sharegpt packed": {"turns": "all", "padding": "masked", "packing": True, "batch_size": 4},
    "sharegpt arm packed": {"model": "arm", "turns": "all", "padding": "masked", "packing": True, "batch_size": 4},
    "sharegpt dropped prompts": {"prompt_drop": 0.5, "batch_size": 4},
    "sharegpt arm": {"model": "arm"},
    "sharegpt arm masked padding": {"model": "arm", "padding": "masked"},
    "sharegpt mlm": {"objective": "mlm", "mask_rate": 0.5},
    "alpaca": {},
    "openai": {},
    "completion": {},
    "completion cut": {"length": 8, "too_long": "cut"},
}


def test_what_is_corrupted_and_scored_is_as_it_was_recorded(models: dict[str, str], files: dict[str, str]) -> None:
    """Read the file: the upper line of each pair is what the network reads, the lower what it must predict.

    Below them x is seen, and the same number marks the positions that see one another.
    """
    lines: list[str] = []
    for case, fields in CASES.items():
        settings = {**fields}
        _, batches = opened(sft(models[settings.pop("model", "mdm")], files[case.split()[0]], seed=5, **settings))
        part, scored = batches[0].parts[0], batches[0].scored
        lines.append(f"{case}: divided by {scored}")
        for row in range(len(part.inputs_BL)):
            lines.append("  " + shown(part.inputs_BL[row].tolist()))
            lines.append("  " + shown(part.targets_BL[row].tolist()))
            if part.present_BL is not None:
                lines.append("  " + "".join("x" if seen else " " for seen in part.present_BL[row].tolist()) + "|")
            if part.segment_BL is not None:
                lines.append("  " + "".join(" " if n < 0 else str(n) for n in part.segment_BL[row].tolist()) + "|")
    text = "\n".join(lines) + "\n"
    if not GOLDEN.exists():
        GOLDEN.write_text(text, encoding="utf-8")
    assert text == GOLDEN.read_text(encoding="utf-8")


@pytest.mark.parametrize("padding", ["eos", "masked"])
@pytest.mark.parametrize("objective", ["mdm", "arm", "any_order", "mlm", "span"])
def test_the_prompt_is_never_corrupted_nor_scored_and_the_answer_as_the_objective_does(
    objective: str, padding: str, models: dict[str, str], files: dict[str, str]
) -> None:
    model = models["arm" if objective == "arm" else "mdm"]
    run = sft(model, files["many"], objective=objective, padding=padding, batch_size=8)
    task, batches = opened(run)
    corrupt = tasks.with_settings(run, 258, 256)
    masked = 0
    for step in range(12):
        (part,) = batches[step].parts
        tokens_BL = torch.full(part.inputs_BL.shape, 257)
        answer_BL = torch.zeros(part.inputs_BL.shape, dtype=torch.bool)
        for row, number in enumerate(task.order[step]):
            prompt, answer = task.train[int(number)]
            tokens_BL[row, : len(prompt) + len(answer)] = torch.tensor([*prompt, *answer])
            answer_BL[row, len(prompt) : None if padding == "eos" else len(prompt) + len(answer)] = True
        plain = corrupt(tokens_BL, seeding.generator(0, "corruption", step), rows=Rows(0, 8))
        scored_BL = part.targets_BL != -100
        assert not (scored_BL & ~answer_BL).any()
        assert torch.equal(part.targets_BL[answer_BL], plain.targets_BL[answer_BL])
        assert torch.equal(part.weights_BL[answer_BL], plain.weights_BL[answer_BL])
        assert not part.weights_BL[~answer_BL].any()
        assert batches[step].scored == answer_BL.sum()
        if objective != "arm":
            assert torch.equal(part.inputs_BL[~answer_BL], tokens_BL[~answer_BL])
            assert torch.equal(part.inputs_BL == 258, scored_BL)
        else:
            assert torch.equal(part.inputs_BL, plain.inputs_BL)
        masked += int(scored_BL.sum())
    assert masked


@pytest.mark.parametrize("padding", ["eos", "masked"])
def test_the_loss_of_a_step_is_divided_by_the_answer_positions(
    padding: str, models: dict[str, str], files: dict[str, str]
) -> None:
    task, batches = opened(sft(models["mdm"], files["many"], padding=padding, batch_size=6))
    model = unmask.load(models["mdm"], "cpu").model
    batch = batches[0]
    found = loop.backward(model, batch.parts, tokens=batch.scored, world=ALONE, bfloat16=False)
    expected, positions = 0.0, 0
    for row, number in enumerate(task.order[0]):
        (part,) = batch.parts
        pair = task.train[int(number)]
        # with masked padding each row is as it would be alone
        end = part.inputs_BL.shape[1] if padding == "eos" else len(pair.prompt) + len(pair.answer)
        with torch.no_grad():
            logits_LV = model(part.inputs_BL[row : row + 1, :end])[0]
        nll_L = F.cross_entropy(logits_LV, part.targets_BL[row, :end], reduction="none", ignore_index=-100)
        expected += (part.weights_BL[row, :end] * nll_L).sum().item()
        positions += end - len(pair.prompt)
    assert found == pytest.approx(expected / positions, rel=1e-5)


@pytest.mark.parametrize("fields", [{}, {"shifted": True}, {"block_length": 4}])
def test_padding_that_is_not_seen_changes_nothing(fields: dict[str, Any]) -> None:
    model = network(**fields).model
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(parameter.numel()))
    tokens_BL = torch.randint(250, (3, 12), generator=torch.Generator().manual_seed(0))
    lengths = (12, 7, 4)
    real_BL = torch.arange(12) < torch.tensor(lengths)[:, None]
    scored_BL = real_BL & (torch.rand(3, 12, generator=torch.Generator().manual_seed(1)) < 0.6)
    inputs_BL, targets_BL = tokens_BL.masked_fill(scored_BL, 258), tokens_BL.masked_fill(~scored_BL, -100)
    whole = Corrupted(
        inputs_BL, targets_BL, scored_BL.float(), tokens_BL if "block_length" in fields else None, real_BL
    )
    together = loop.backward(model, [whole], tokens=1, world=ALONE, bfloat16=False)
    alone = 0.0
    for row, end in enumerate(lengths):
        part = tasks.split(whole, 1)[row]
        names = ("inputs_BL", "targets_BL", "weights_BL", "clean_BL")
        short = [None if (each := getattr(part, name)) is None else each[:, :end] for name in names]
        alone += loop.backward(model, [Corrupted(*short)], tokens=1, world=ALONE, bfloat16=False)
    assert together == pytest.approx(alone, rel=1e-5)


def test_prompts_are_dropped_whole_and_by_a_choice_for_each_example(
    models: dict[str, str], files: dict[str, str]
) -> None:
    task, batches = opened(sft(models["mdm"], files["many"], prompt_drop=0.25, batch_size=8))
    dropped = 0
    for step in range(50):
        (part,) = batches[step].parts
        for row, number in enumerate(task.order[step]):
            prompt, _ = task.train[int(number)]
            seen = part.inputs_BL[row, : len(prompt)].tolist()
            assert seen == prompt or set(seen) == {258}
            assert (part.targets_BL[row, : len(prompt)] == -100).all()
            dropped += seen != prompt
    assert 60 < dropped < 140  # of 400


def test_each_process_has_its_rows_of_the_same_global_batch(models: dict[str, str], files: dict[str, str]) -> None:
    run = sft(models["mdm"], files["many"], batch_size=8, prompt_drop=0.3, padding="masked", micro_batch_size=3)
    (_, whole), *halves = (opened(run, world) for world in (ALONE, *(World(r, 2, ALONE.device) for r in (0, 1))))
    for step in (0, 5):
        for name in ("inputs_BL", "targets_BL", "weights_BL", "present_BL"):
            ours = torch.cat([getattr(part, name) for _, half in halves for part in half[step].parts])
            assert torch.equal(ours, torch.cat([getattr(part, name) for part in whole[step].parts]))
        assert {half[step].scored for _, half in halves} == {whole[step].scored}


@pytest.mark.parametrize("objective", ["mdm", "arm"])
def test_a_run_learns_keeps_the_template_and_writes_answers(
    objective: str,
    models: dict[str, str],
    files: dict[str, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = sft(models[objective], files["sharegpt"], turns="all", steps=60, batch_size=6, learning_rate=2e-2)
    records = list(train(run, tmp_path / "run"))
    start, end = records[0], records[-1]
    assert (start["objective"], start["formats"], start["examples"], start["held_out"]) == (
        objective,
        {"sharegpt": 2},
        3,
        0,
    )
    assert json.loads((tmp_path / "run/config.json").read_text())["objective"] == objective
    assert end["tokens"] == 60 * 6 * 31 == start["tokens"]  # the longest example is in each batch of six
    assert losses(records)[60] < 0.3 * losses(records)[1]
    lm = unmask.load(tmp_path / "run", "cpu")
    assert lm.tokenizer.chat_template == SHORT
    prompt, answer = lm.tokenizer.encode("u:Name? a:"), [*lm.tokenizer.encode("Vic"), 257]
    padding = [257] * (21 - len(answer) if objective == "mdm" else 0)  # as long as it was trained
    told = lm.score(prompt, answer + padding).log_likelihood
    assert told > lm.score(lm.tokenizer.encode("u:Hi? a:"), answer + padding).log_likelihood + 2
    written = lm.generate("u:Name? a:", max_new_tokens=21, temperature=0.0)
    assert 10 < len(written.text) < 20  # it ends by itself
    assert lm.generate("Name?", chat=True, max_new_tokens=21, temperature=0.0).tokens == written.tokens
    assert cli.main(["sample", str(tmp_path / "run"), "--chat", "--prompt=Name?", "--max-new-tokens=21"]) == 0
    assert "u:Name" not in capsys.readouterr().out
    assert cli.main(["sample", str(tmp_path / "run"), "--chat"]) == 2
    assert objective == "mdm" or written.text == "u:Name? a:Vic"


def test_an_arm_is_fine_tuned_into_an_mdm_on_demand(models: dict[str, str], files: dict[str, str], tmp_path) -> None:
    run = sft(models["arm"], files["many"], objective="mdm", padding="masked", anneal_share=0.5, length=96)
    records = list(train(run, tmp_path / "run"))
    assert [record["bidirectional"] for record in records if record["kind"] == "train"] == [0, 0.5, 1, 1]
    assert unmask.load(tmp_path / "run", "cpu").config.shifted


@pytest.mark.parametrize("buckets", [1, 3])
def test_a_resumed_run_gives_the_same_losses_to_the_last_bit(
    buckets: int, models: dict[str, str], files: dict[str, str], tmp_path: Path
) -> None:
    run = sft(
        models["mdm"],
        files["many"],
        steps=9,
        batch_size=6,
        checkpoint_every=4,
        bucket_batches=buckets,
        prompt_drop=0.2,
        validation_share=0.1,
    )
    whole = list(train(run, tmp_path / "whole"))
    first = stopped(run, tmp_path / "stopped", 5)
    second = list(train(run, tmp_path / "stopped", resume=True))
    assert (second[0]["step"], second[0]["tokens"]) == (5, whole[0]["tokens"])
    assert losses(first) | losses(second) == losses(whole)
    assert (second[-1]["loss"], second[-1]["tokens"]) == (whole[-1]["loss"], whole[-1]["tokens"])
    assert [record["tokens"] for record in read(tmp_path / "stopped/metrics.jsonl") if record["kind"] == "train"] == [
        record["tokens"] for record in whole if record["kind"] == "train"
    ]


def test_a_run_does_not_go_on_with_other_conversations(
    models: dict[str, str], files: dict[str, str], tmp_path: Path
) -> None:
    list(train(sft(models["mdm"], files["many"]), tmp_path / "run"))
    with pytest.raises(UsageError, match="the run began on another corpus than these conversations"):
        list(train(sft(models["mdm"], files["alpaca"]), tmp_path / "run", resume=True))
    with pytest.raises(UsageError, match=r"holds another run \(padding 'eos' instead of 'masked'"):
        list(train(sft(models["mdm"], files["many"], padding="masked"), tmp_path / "run", resume=True))


def test_an_arms_validation_is_the_nll_of_held_out_answers(models: dict[str, str], files: dict[str, str]) -> None:
    task, _ = opened(sft(models["arm"], files["many"], validation_share=0.2))
    assert (len(task.train), len(task.held_out)) == (32, 8)
    lm = unmask.load(models["arm"], "cpu")
    validation = task.validation()
    assert validation is not None
    found = validation.measure(lm.model, ALONE, bfloat16=False)
    pairs = [task.held_out[index] for index in range(8)]
    nll = -sum(lm.score(pair.prompt, pair.answer).log_likelihood for pair in pairs)
    tokens = sum(len(pair.answer) for pair in pairs)
    assert found["loss"] == pytest.approx(nll / tokens, rel=1e-5)
    assert (found["bound"], found["windows"], found["split"]) == (False, 8, "held-out")
    # an end of text has no bytes
    assert found["bits_per_byte"] == pytest.approx(nll / (tokens - 8) / 0.6931472, rel=1e-5)


def test_an_mdms_validation_is_what_training_would_measure(models: dict[str, str], files: dict[str, str]) -> None:
    valid = {"validation_conversations": (files["sharegpt"],), "padding": "masked"}
    task, _ = opened(sft(models["mdm"], files["many"], validation_draws=64, **valid))
    model = unmask.load(models["mdm"], "cpu").model
    with torch.no_grad():
        model.head_weight.mul_(20)
    validation = task.validation()
    assert validation is not None
    found = validation.measure(model, ALONE, bfloat16=False)
    assert (found["bound"], found["windows"]) == (True, 2)
    _, batches = opened(sft(models["mdm"], files["sharegpt"], padding="masked", batch_size=2000))
    (part,), scored = batches[0]
    with torch.no_grad():
        loss = model.loss(part.inputs_BL, part.targets_BL, part.weights_BL, present_BL=part.present_BL).item() / scored
    assert found["loss"] == pytest.approx(loss, rel=0.03)


def test_examples_that_are_too_long_are_counted_and_left_out_or_cut(
    models: dict[str, str], files: dict[str, str]
) -> None:
    task, _ = opened(sft(models["mdm"], files["completion"], length=8))
    assert (len(task.train), task.facts["too_long"]) == (1, 1)
    assert task.warnings == ["1 example of more than 8 tokens: left out"]
    task, _ = opened(sft(models["mdm"], files["completion"], length=8, too_long="cut"))
    assert [shown(task.train[index].answer) for index in range(2)] == ["4, s", "2$"]
    assert task.warnings == ["1 example of more than 8 tokens: cut"]
    task, _ = opened(sft(models["mdm"], files["completion"], files["openai"], length=8, too_long="cut"))
    assert task.warnings == ["2 examples of more than 8 tokens: cut", "1 example of more than 8 tokens: left out"]
    with pytest.raises(UnmaskError, match="no example is left: 2 of more than 4 tokens"):
        opened(sft(models["mdm"], files["completion"], length=4, too_long="cut"))


def test_copies_of_a_held_out_conversation_are_measured_once_so_that_the_error_is_true(
    models: dict[str, str], tmp_path: Path
) -> None:
    path = tmp_path / "copies.json"
    path.write_text(json.dumps([{"prompt": f"{n // 3}:", "completion": "abc"} for n in range(12)]))
    task, _ = opened(sft(models["mdm"], str(path), validation_share=0.25, validation_draws=1))
    assert (len(task.train), len(task.held_out), task.facts["held_out"]) == (9, 1, 1)
    validation = task.validation()
    assert validation is not None
    found = validation.measure(unmask.load(models["mdm"], "cpu").model, ALONE, bfloat16=False)
    assert (found["windows"], found["standard_error"]) == (1, None)


def test_a_single_conversation_is_trained_on_and_not_validated_on_and_that_is_told(
    models: dict[str, str], tmp_path: Path
) -> None:
    path = tmp_path / "one.json"
    path.write_text(json.dumps([{"prompt": "1:", "completion": "abc"}]))
    task, _ = opened(sft(models["mdm"], str(path), validation_share=0.02))
    assert (len(task.train), task.validation()) == (1, None)
    assert task.warnings == [
        "there is but one conversation, so none is held out to validate on: --validation-conversations gives some"
    ]


def test_items_that_are_skipped_are_told_of(models: dict[str, str], tmp_path: Path) -> None:
    items = [*FILES["completion"], *({"prompt": "a", "completion": ""} for _ in range(5))]
    (tmp_path / "chat.json").write_text(json.dumps(items))
    task, _ = opened(sft(models["mdm"], str(tmp_path / "chat.json"), broken="skip"))
    assert task.facts["broken"] == 5
    (told,) = task.warnings
    assert told.startswith("5 items left out: ")
    assert told.endswith("and 2 more")
    assert "item 3: an empty answer" in told
    (tmp_path / "chat.json").write_text(json.dumps(items[-2:]))
    with pytest.raises(UnmaskError, match=r"no example is left: 2 broken items: give others$"):
        opened(sft(models["mdm"], str(tmp_path / "chat.json"), broken="skip"))


def test_a_template_that_begins_with_bos_does_not_give_an_arm_two(
    models: dict[str, str], files: dict[str, str]
) -> None:
    (Path(files["openai"]).parent / "bos.jinja").write_text("{{ bos_token }}" + SHORT)
    template = str(Path(files["openai"]).parent / "bos.jinja")
    for objective, beginning in (("mdm", "^"), ("arm", "")):
        task, _ = opened(sft(models[objective], files["openai"], template=template))
        assert shown(task.train[1].prompt) == beginning + "u:Yo a:"


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"conversations": ()}, "no data: give --data, one or more files of conversations"),
        ({"init_from": ""}, "no model to fine-tune: give --model"),
        ({"objective": "arm"}, r"--model \S+: a masked network, and objective arm trains a causal one"),
        ({"model": "arm", "prompt_drop": 0.1}, "prompt_drop 0.1: a prompt is dropped by masking it"),
        ({"warmup_steps": 9}, "warmup_steps 9 must be less than the 4 steps"),
    ],
)
def test_a_run_that_cannot_be_is_refused_before_anything_is_written(
    fields: dict[str, Any], told: str, models: dict[str, str], files: dict[str, str], tmp_path: Path
) -> None:
    settings = dict(fields)
    run = sft(models[settings.pop("model", "mdm")], files["many"], **settings)
    with pytest.raises(UsageError, match=told):
        list(train(run, tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_all_problems_of_a_config_are_told_at_once() -> None:
    with pytest.raises(
        UsageError, match=r"turns 'none' must be first or all; .*flops .*epochs 0 must be positive"
    ) as told:
        SftConfig(turns="none", flops=1e9, epochs=0, init_from="x")  # type: ignore[arg-type]
    assert "\n" not in str(told.value)


def test_defaults_are_the_papers() -> None:
    run = SftConfig()
    assert (run.epochs, run.batch_size, run.learning_rate, run.final_learning_rate) == (3, 256, 2e-4, 0.1)
    assert (run.turns, run.padding, run.mask_eps, run.prompt_drop) == ("first", "eos", 1e-3, 0)
    assert run.steps_of(90_000) == 1055
    assert (run.warmup(10_000), run.warmup(50)) == (200, 5)


def command(*arguments: str) -> int:
    return cli.main(["train", "sft", *arguments])


def test_the_command_line_takes_files_and_tells_what_they_hold(
    models: dict[str, str], files: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--model", models["mdm"], "--data", files["many"], files["alpaca"], "--batch-size=8", "--no-tensorboard"]
    assert command(*options, f"--out={tmp_path / 'run'}", "--epochs=0.5", "--json") == 0
    out, err = capsys.readouterr()
    end = json.loads(out)
    assert (end["split"], end["bound"], end["step"]) == ("held-out", True, 3)
    start = read(tmp_path / "run/metrics.jsonl")[0]
    assert (start["formats"], start["examples"] + start["held_out"]) == ({"completion": 40, "alpaca": 2}, 42)
    assert "held-out" in err
    with pytest.raises(SystemExit) as asked:
        command("--help")
    assert asked.value.code == 0
    told = capsys.readouterr().out
    for option in ("--model STR", "--data [STR [STR ...]]", "--prompt-drop"):
        assert option in told
    assert "flops" not in told  # which fine-tuning has no option for
    for typed, meant in (("--modle", "--model"), ("--dta", "--data"), ("--conversation", "--conversations")):
        assert command(*options, f"--out={tmp_path / 'other'}", typed, "x") == 2
        assert capsys.readouterr().err.endswith(f"x: did you mean {meant}? see unmask train sft --help\n")
    for other in ("tokenizer", "flops", "size", "short-share", "kv-heads", "validation-split"):
        assert f"│ --{other} " not in told


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('[{"messages": [{"role": "user", "content": "a"}]}]', "item 1: a conversation without an answer"),
        ('[{"messages": [{"role": "judge", "content": "a"}]}]', "item 1: message 1: unknown role 'judge'"),
        (json.dumps([FILES["alpaca"][0], FILES["openai"][0]]), "item 2: openai, and item 1 is alpaca"),
        ("", "holds no conversations"),
    ],
)
def test_bad_conversations_are_one_line_on_the_command_line(
    text: str, told: str, models: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "chat.json").write_text(text)
    assert command("--model", models["mdm"], f"--data={tmp_path / 'chat.json'}", f"--out={tmp_path / 'run'}") == 1
    err = capsys.readouterr().err
    assert told in err
    assert err.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_model_without_end_of_text_or_tokenizer_is_refused(
    models: dict[str, str], files: dict[str, str], tmp_path: Path
) -> None:
    network().save(tmp_path / "model")
    config = tmp_path / "model/tokenizer_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "eos_token": None}))
    with pytest.raises(UsageError, match="its tokenizer has no end-of-text token"):
        list(train(sft(str(tmp_path / "model"), files["many"]), tmp_path / "run"))
    fields = json.loads((tmp_path / "model/config.json").read_text())
    (tmp_path / "model/config.json").write_text(json.dumps({**fields, "tokenizer": None}))
    (tmp_path / "model/tokenizer.json").unlink()
    with pytest.raises(UsageError, match="has no tokenizer to read conversations with"):
        list(train(sft(str(tmp_path / "model"), files["many"]), tmp_path / "run"))


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared/data/sharegpt_like")
def test_real_conversations_in_vicunas_template_train(models: dict[str, str], tmp_path: Path) -> None:
    real = [str(SHARED / f"{name}.json") for name in ("fastchat_dummy_conversation", "gpteacher_roleplay")]
    tokenizer = tokenizers.byte_level()
    LanguageModel(
        Transformer(ModelConfig.of_size("33K", vocab_size=258, context_length=512, mask_id=258)), tokenizer, "mdm"
    ).save(tmp_path / "model")
    run = sft(str(tmp_path / "model"), *real, batch_size=8, steps=2, bucket_batches=8, validation_windows=4)
    records = list(train(run, tmp_path / "run"))
    assert records[0]["formats"] == {"sharegpt": 500, "alpaca": 1923}
    assert records[0]["examples"] + records[0]["too_long"] == 2423
    assert "ASSISTANT" in str(unmask.load(tmp_path / "run", "cpu").tokenizer.chat_template)
