import json
import math
import sys

import numpy as np
import pytest
import torch

from small_benchmarks import LAMBADA, data_folder, language_model, write_lines
from unmask import likelihood
from unmask.errors import UnmaskError, UsageError
from unmask.evals import harness
from unmask.evals.evaluate import Run, evaluate, read, write
from unmask.evals.harness import Record, UnmaskLM, rolling_windows


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return data_folder(tmp_path_factory.mktemp("hub"))


@pytest.fixture(scope="module")
def mdm():
    return language_model(causal=False)


def test_multiple_choice_is_scored_as_score_many_does(mdm, data_dir):
    model = UnmaskLM(mdm, num_samples=20, progress=False)
    result = evaluate(model, Run(("piqa",), data_dir, limit=3))
    samples = result["samples"]["piqa"]
    for place, sample in enumerate(samples):
        pairs = [tuple(arguments) for arguments in sample["arguments"]]
        expected = mdm.score_many(pairs, num_samples=20)
        for number, (estimate, (value, _)) in enumerate(zip(expected, sample["filtered_resps"], strict=True)):
            assert value == pytest.approx(estimate.log_likelihood, abs=1e-4)
            record = model.log.records["piqa", place, number]
            assert record.standard_error == pytest.approx(estimate.standard_error, abs=1e-4)
            assert record.network_calls == estimate.network_calls
        best = max(range(2), key=lambda i: sample["filtered_resps"][i][0])
        assert sample["acc"] == (best == sample["target"])
    figures = result["unmask"]["tasks"]["piqa"]
    assert figures["items"] == 3
    assert 0 < figures["network_calls"] <= 6 * 20
    assert figures["metrics"]["acc"]["value"] == pytest.approx(np.mean([sample["acc"] for sample in samples]))
    assert result["unmask"]["items"]["piqa"]["doc_id"] == [0, 1, 2]


def test_the_masks_part_of_the_error_shrinks_with_the_draws_and_is_0_where_exact(mdm, data_dir):
    errors = {}
    for num_samples in (3, 100):
        model = UnmaskLM(mdm, num_samples=num_samples, progress=False)
        metrics = evaluate(model, Run(("piqa", "boolq"), data_dir))["unmask"]["tasks"]
        errors[num_samples] = metrics["piqa"]["metrics"]["acc_norm"]["stderr_estimate"]
        boolq = metrics["boolq"]["metrics"]["acc"]["stderr_estimate"]
    assert errors[3] > errors[100] >= 0
    assert boolq == 0  # " yes" and " no" are 4 and 3 bytes: 15 and 7 sets of masks


def test_lambada_reports_its_accuracy_with_and_without_the_length_as_a_hint(mdm, data_dir):
    model = UnmaskLM(mdm, progress=False, search_lengths=4)
    metrics = evaluate(model, Run(("lambada_openai",), data_dir))["unmask"]["tasks"]["lambada_openai"]["metrics"]
    assert set(metrics) == {"acc", "perplexity", "acc_length_given", "acc_length_searched"}
    assert metrics["acc"] == metrics["acc_length_given"]
    total = sum(
        -likelihood_of(mdm, text["text"].rsplit(" ", 1)[0], " " + text["text"].rsplit(" ", 1)[1]) for text in LAMBADA
    )
    assert metrics["perplexity"]["value"] == pytest.approx(math.exp(total / len(LAMBADA)), rel=1e-4)


def likelihood_of(lm, prompt, continuation):
    return lm.score(prompt, continuation).log_likelihood


def test_greedy_answers_are_those_of_greedy_decoding(mdm, tmp_path):
    prompt = "the cat sat on the"
    length = 4
    written = likelihood.greedy(mdm.logits_fn, [mdm.tokenizer.encode(prompt)], [length], mask_id=mdm.mask_id)[0]
    model = UnmaskLM(mdm, progress=False, search_lengths=5)
    pairs = [(tuple(mdm.tokenizer.encode(prompt)), written.tokens)]
    spent = type("Spent", (), {"network_calls": 0})()
    model._known[pairs[0]] = Record()
    model._decode(pairs, spent)
    assert model._known[pairs[0]].greedy is True
    assert spent.network_calls == 4 + 1 + 2 + 3 + 4 + 5


def test_an_autoregressive_model_is_scored_exactly_and_its_greedy_answers_need_no_hint(data_dir):
    arm = language_model(causal=True)
    model = UnmaskLM(arm, progress=False)
    tasks = evaluate(model, Run(("piqa", "lambada_openai"), data_dir))["unmask"]["tasks"]
    assert tasks["piqa"]["network_calls"] <= 12
    assert tasks["piqa"]["metrics"]["acc"]["stderr_estimate"] == 0
    for place, row in enumerate(LAMBADA):
        prompt, _ = row["text"].rsplit(" ", 1)
        record = model.log.records["lambada_openai", place, 0]
        first = arm.generate(prompt, max_new_tokens=4, temperature=0.0).tokens[-4:]
        assert record.greedy == (first == arm.tokenizer.encode(" mat"))


def test_guidance_changes_the_figures_and_doubles_the_calls_of_each_request(mdm, data_dir):
    calls, values = {}, {}
    for weight in (0.0, 1.0):
        model = UnmaskLM(mdm, guidance=weight, estimator="chain", progress=False, search_lengths=0)
        evaluate(model, Run(("boolq",), data_dir))
        calls[weight] = [record.network_calls for record in model.log.records.values()]
        values[weight] = [record.log_likelihood for record in model.log.records.values()]
    assert calls[1.0] == [2 * each for each in calls[0.0]]
    assert values[1.0] != values[0.0]


def test_long_prompts_are_cut_on_the_left_and_counted(data_dir):
    lm = language_model(causal=False, context_length=24)
    model = UnmaskLM(lm, num_samples=8, progress=False)
    figures = evaluate(model, Run(("boolq",), data_dir))["unmask"]["tasks"]["boolq"]
    assert figures["truncated"] == 10
    record = model.log.records["boolq", 0, 0]
    prompt = lm.tokenizer.encode("Numbers.\nQuestion: is 0 odd?\nAnswer:")
    answer = lm.tokenizer.encode(" no")
    assert record.truncated == len(prompt) + len(answer) - 24
    fits = likelihood.Request(tuple(prompt[record.truncated :]), tuple(answer))
    alone = lm.score_tokens([fits], likelihood.Settings(num_samples=8)).estimates[0]
    assert record.log_likelihood == pytest.approx(alone.log_likelihood, abs=1e-5)


def test_items_that_cannot_be_scored_are_left_out_and_listed(tmp_path):
    rows = [
        {"goal": "open it", "sol1": "lift", "sol2": "push", "label": 0},
        {"goal": "close it", "sol1": "x" * 80, "sol2": "pull", "label": 1},
        {"goal": "leave it", "sol1": "go", "sol2": "stay", "label": 1},
    ]
    write_lines(tmp_path / "baber/piqa/validation.jsonl", rows)
    model = UnmaskLM(language_model(causal=False, context_length=64), num_samples=4, progress=False)
    result = evaluate(model, Run(("piqa",), tmp_path))
    figures = result["unmask"]["tasks"]["piqa"]
    assert figures["items"] == 2
    assert figures["errors"] == [{"doc_id": 1, "error": "its answer has 81 tokens and the context 64"}]
    assert result["unmask"]["items"]["piqa"]["doc_id"] == [0, 2]
    assert not math.isnan(figures["metrics"]["acc"]["value"])


def test_an_empty_answer_is_an_error_of_its_item(tmp_path):
    rows = [{"goal": "go", "sol1": sol1, "sol2": "b", "label": 0} for sol1 in ("a", "", "c")]
    write_lines(tmp_path / "baber/piqa/validation.jsonl", rows)
    model = UnmaskLM(language_model(causal=False), progress=False)
    figures = evaluate(model, Run(("piqa",), tmp_path))["unmask"]["tasks"]["piqa"]
    assert figures["errors"] == [{"doc_id": 1, "error": "its answer is empty"}]
    write_lines(tmp_path / "baber/piqa/validation.jsonl", rows[1:])
    with pytest.raises(UnmaskError, match=r"validation.jsonl: item 0 .* has an empty answer: task 'piqa' can't"):
        evaluate(model, Run(("piqa",), tmp_path))


def test_many_calls_of_exact_are_told_first(tmp_path, capsys, monkeypatch):
    rows = [{"goal": "go", "sol1": "x" * 5, "sol2": "y" * 7, "label": 0}]
    write_lines(tmp_path / "baber/piqa/validation.jsonl", rows)
    monkeypatch.setattr(harness, "MANY_SETS", 300)
    evaluate(UnmaskLM(language_model(causal=False), estimator="exact"), Run(("piqa",), tmp_path))
    assert "piqa: the estimator 'exact' sums over 318 sets of masks" in capsys.readouterr().err
    monkeypatch.setattr(harness, "MANY_SETS", 320)
    evaluate(UnmaskLM(language_model(causal=False), estimator="exact"), Run(("piqa",), tmp_path))
    assert "exact" not in capsys.readouterr().err


def test_an_answer_too_long_for_exact_is_an_error_of_its_item_alone(tmp_path):
    rows = [
        {"goal": "open it", "sol1": "lift", "sol2": "push", "label": 0},
        {"goal": "close it", "sol1": "x" * 20, "sol2": "pull", "label": 1},
    ]
    write_lines(tmp_path / "baber/piqa/validation.jsonl", rows)
    run = Run(("piqa",), tmp_path)
    figures = evaluate(UnmaskLM(language_model(causal=False), estimator="exact", progress=False), run)["unmask"]
    error = "its answer has 21 tokens and the estimator 'exact' takes at most 20: take auto"
    assert figures["tasks"]["piqa"]["errors"] == [{"doc_id": 1, "error": error}]
    assert figures["tasks"]["piqa"]["items"] == 1
    assert figures["items"]["piqa"]["doc_id"] == [0]
    arm = evaluate(UnmaskLM(language_model(causal=True), estimator="exact", progress=False), run)["unmask"]
    assert arm["tasks"]["piqa"]["errors"] == []


def test_a_text_too_long_for_exact_is_an_error_of_its_own():
    from lm_eval.api.instance import Instance

    model = UnmaskLM(language_model(causal=False), estimator="exact", progress=False)
    requests = [
        Instance("loglikelihood_rolling", {}, (text,), 0, ("wikitext", doc_id, 1))
        for doc_id, text in enumerate(("x" * 21, "We"))
    ]
    values = model.loglikelihood_rolling(requests)
    assert math.isnan(values[0])
    assert values[1] == pytest.approx(model.lm.score("", "We", estimator="exact").log_likelihood, abs=1e-4)
    assert "a window of its text has 21 tokens" in model.log.records["wikitext", 0, 0].error


def test_the_harness_alone_is_warned_of_requests_without_a_score(mdm, tmp_path, caplog):
    from lm_eval.api.instance import Instance

    model = UnmaskLM(mdm, estimator="exact", progress=False)
    request = Instance("loglikelihood", {}, ("go", " " + "x" * 30), 0, ("piqa", 0, 1))
    assert math.isnan(model.loglikelihood([request])[0][0])
    assert "piqa: 1 request without a score (its answer has 31 tokens" in caplog.text
    caplog.clear()
    rows = [{"goal": "go", "sol1": answer, "sol2": "y", "label": 0} for answer in ("x" * 30, "z")]
    write_lines(tmp_path / "baber/piqa/validation.jsonl", rows)
    evaluate(model, Run(("piqa",), tmp_path))
    assert "without a score" not in caplog.text


def test_tasks_go_on_where_all_items_of_another_fail_and_nothing_is_computed_or_counted_twice(data_dir, tmp_path):
    write_lines(tmp_path / "baber/piqa/validation.jsonl", [{"goal": "go", "sol1": "x" * 30, "sol2": "y", "label": 0}])
    for name in ("aps", "openai"):
        (tmp_path / name).symlink_to(data_dir / name)
    lm = language_model(causal=False)
    settings = {"estimator": "exact", "max_gen_toks": 4, "progress": False}
    run = Run(("piqa", "boolq", "gsm8k"), tmp_path, num_fewshot=0)
    tasks = evaluate(UnmaskLM(lm, **settings), run)["unmask"]["tasks"]
    alone = evaluate(UnmaskLM(lm, **settings), Run(("boolq", "gsm8k"), tmp_path, num_fewshot=0))["unmask"]["tasks"]
    assert (tasks["piqa"]["items"], tasks["piqa"]["metrics"], len(tasks["piqa"]["errors"])) == (0, {}, 1)
    for task in ("boolq", "gsm8k"):
        assert tasks[task]["metrics"] == alone[task]["metrics"]
        assert tasks[task]["network_calls"] == alone[task]["network_calls"]


def test_a_task_with_nothing_but_empty_answers_is_an_error(tmp_path):
    write_lines(tmp_path / "EleutherAI/lambada_openai/default/test.jsonl", [{"text": "x" * 30}])
    model = UnmaskLM(language_model(causal=False, context_length=16), progress=False)
    with pytest.raises(UsageError, match=r"'lambada_openai': its only item can't be scored; item 0: its answer has 31"):
        evaluate(model, Run(("lambada_openai",), tmp_path))


def test_texts_are_generated_up_to_the_stop_strings(mdm, data_dir):
    model = UnmaskLM(mdm, max_gen_toks=8, steps=4, progress=False)
    result = evaluate(model, Run(("gsm8k",), data_dir, num_fewshot=0))
    assert set(result["unmask"]["tasks"]["gsm8k"]["metrics"]) == {
        "exact_match,strict-match",
        "exact_match,flexible-extract",
    }
    assert result["unmask"]["tasks"]["gsm8k"]["network_calls"] == 2 * 4
    prompt = "Question: What is 0 and 1?\nAnswer:"
    text = mdm.generate(prompt, max_new_tokens=8, steps=4, temperature=0.0).fills[0]
    assert result["samples"]["gsm8k"][0]["resps"] == [[text]]


def test_a_text_that_is_drawn_several_times_is_another_one_each_time(mdm):
    from lm_eval.api.instance import Instance

    model = UnmaskLM(mdm, max_gen_toks=8, progress=False)
    for drawn, different in ((True, 3), (False, 1)):
        options = {"do_sample": drawn, "temperature": 1.0, "until": []}
        request = Instance("generate_until", {}, ("the cat", options), 0, ("gsm8k", 0, 3))
        texts = model.generate_until([request] * 3)
        assert len(set(texts)) == different
    (text,) = model.generate_until([request])
    assert text == mdm.generate("the cat", max_new_tokens=8, temperature=0.0).fills[0]


def test_few_examples_come_from_the_training_split(mdm, data_dir):
    model = UnmaskLM(mdm, max_gen_toks=4, progress=False)
    result = evaluate(model, Run(("gsm8k",), data_dir, limit=1, num_fewshot=2))
    assert result["samples"]["gsm8k"][0]["arguments"][0][0].count("####") == 2
    assert result["unmask"]["tasks"]["gsm8k"]["truncated"] == 1


def test_rolling_windows_score_every_token_once_with_context():
    windows = rolling_windows(list(range(25)), 10)
    assert [token for _, scored in windows for token in scored] == list(range(25))
    assert windows[0] == ((), tuple(range(10)))
    assert windows[1] == (tuple(range(5, 10)), tuple(range(10, 15)))
    assert all(len(context) + len(scored) <= 10 for context, scored in windows)
    assert rolling_windows([], 10) == []


def test_rolling_likelihood_of_an_arm_is_that_of_the_text():
    from lm_eval.api.instance import Instance

    arm = language_model(causal=True)
    model = UnmaskLM(arm, progress=False)
    request = Instance("loglikelihood_rolling", {}, ("We the people",), 0, ("wikitext", 0, 1))
    (value,) = model.loglikelihood_rolling([request])
    assert value == pytest.approx(arm.score("", "We the people").log_likelihood, abs=1e-4)


def test_chat_templates_are_rendered_and_their_lack_is_said(mdm):
    model = UnmaskLM(mdm, progress=False)
    with pytest.raises(UsageError, match="no chat template"):
        model.apply_chat_template([{"role": "user", "content": "Hi"}])
    mdm_with = language_model(causal=False)
    mdm_with.tokenizer.chat_template = (
        "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}"
        "{% if add_generation_prompt %}<bot>{% endif %}"
    )
    model = UnmaskLM(mdm_with, progress=False)
    assert model.apply_chat_template([{"role": "user", "content": "Hi"}]) == "<user>Hi<bot>"


def test_special_tokens_of_a_chat_template_are_such_and_those_in_a_message_are_text(data_dir):
    lm = language_model(causal=True, context_length=256)
    tokenizer = lm.tokenizer
    lm.tokenizer.chat_template = "{% for m in messages %}{{ bos_token }}{{ m['content'] }}{{ eos_token }}{% endfor %}"
    model = UnmaskLM(lm, max_gen_toks=4, progress=False)
    text = "say <|eos|>"
    assert model.tok_encode("<|bos|>") == tokenizer.encode("<|bos|>")
    rendered = model.apply_chat_template([{"role": "user", "content": text}])
    assert model.tok_encode(rendered) == [tokenizer.bos_id, *tokenizer.encode(text), tokenizer.eos_id]
    run = Run(("lambada_openai", "gsm8k"), data_dir, limit=2, num_fewshot=0, apply_chat_template=True)
    result = evaluate(model, run)
    prompt, answer = result["samples"]["lambada_openai"][0]["arguments"][0]
    given = model.tok_encode(prompt)
    assert (given[0], given[-1]) == (tokenizer.bos_id, tokenizer.eos_id)
    expected = lm.score(given, tokenizer.encode(answer)).log_likelihood
    assert result["samples"]["lambada_openai"][0]["filtered_resps"][0][0] == pytest.approx(expected, abs=1e-4)
    asked = model.tok_encode(result["samples"]["gsm8k"][1]["arguments"][0][0])
    written = lm.generate([asked], max_new_tokens=4, temperature=0.0)[0].fills[0]
    assert result["samples"]["gsm8k"][1]["resps"] == [[written.split("Question:")[0]]]
    evaluate(model, Run(("boolq",), data_dir, limit=1))
    assert model.tok_encode("<|bos|>") == tokenizer.encode("<|bos|>")


def test_arguments_may_be_text_as_the_harness_gives_them(mdm):
    model = UnmaskLM(mdm, guidance="0.6", num_samples="16", batch_size="4", seed="2", progress=False)
    assert model.settings == likelihood.Settings("auto", 16, 0.6, 2, 4)
    assert UnmaskLM(mdm, batch_size="auto:4").settings.batch_size is None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"pretrained": ""}, "name a model directory"),
        ({"guidance": -0.5}, "guidance -0.5"),
        ({"guidance": math.nan}, "guidance nan"),
        ({"estimator": "chian"}, "did you mean 'chain'"),
        ({"guidence": "0.5"}, "unknown model argument 'guidence': did you mean 'guidance'"),
        ({"num_samples": "many"}, "num_samples 'many': must be a whole number"),
        ({"guidance": "high"}, "guidance 'high': must be a number"),
        ({"max_gen_toks": 0}, "max_gen_toks 0: must be at least 1"),
        ({"search_lengths": -1}, "search_lengths -1: must be 0"),
        ({"sampler": "confidense"}, "did you mean 'confidence'"),
        ({"pretrained": "nowhere", "guidance": -1}, "guidance -1"),
    ],
)
def test_bad_arguments_are_named(mdm, arguments, words):
    with pytest.raises(UsageError, match=words):
        UnmaskLM(**{"pretrained": mdm, **arguments})


def test_the_harness_makes_our_model_by_its_name(mdm, tmp_path):
    from lm_eval.api.registry import get_model

    from unmask.evals.__main__ import register

    mdm.save(tmp_path)
    register()
    register()
    model = get_model("unmask").create_from_arg_string(
        f"pretrained={tmp_path},guidance=0.6,estimator=chain", {"batch_size": 2, "max_batch_size": None, "device": None}
    )
    assert isinstance(model, UnmaskLM)
    assert model.settings == likelihood.Settings("chain", guidance=0.6, batch_size=2)


def harness_command(monkeypatch, capsys, *arguments):
    """Exit status and standard error of `python -m unmask.evals`."""
    from unmask.evals import __main__ as command

    monkeypatch.setattr(sys, "argv", ["unmask.evals", *arguments])
    with pytest.raises(SystemExit) as status:
        command.main()
    return status.value.code, capsys.readouterr().err


@pytest.mark.parametrize("arguments", [("run", "--tasks", "boolq,piqqa"), ("--model", "hf", "--tasks=piqqa")])
def test_the_harness_s_command_line_refuses_an_unknown_task_in_one_line(monkeypatch, capsys, arguments):
    status, err = harness_command(monkeypatch, capsys, *arguments)
    assert (status, len(err.splitlines())) == (2, 1)
    assert "unknown task 'piqqa': did you mean 'piqa'" in err


def test_patterns_and_files_of_tasks_are_the_harness_s_to_find(tmp_path, monkeypatch):
    from unmask.evals.__main__ import require_known_tasks

    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("task: mine")
    require_known_tasks(["--tasks", "piqa*", "mine.yaml,boolq", "--batch_size", "4"])
    require_known_tasks(["--tasks", "mine", "--include_path", str(tmp_path)])
    require_known_tasks(["ls", "tasks"])
    with pytest.raises(UsageError, match="unknown task 'no_such_thing'"):
        require_known_tasks(["--tasks", "piqa", "no_such_thing"])


def test_an_estimator_that_masks_is_refused_for_an_arm():
    with pytest.raises(UsageError, match="autoregressive model has no mask token"):
        UnmaskLM(language_model(causal=True), estimator="mc")


@pytest.mark.parametrize(
    ("run", "words"),
    [
        (Run(()), "name at least one task"),
        (Run(("piqa",), limit=0), "--limit 0"),
        (Run(("piqa",), num_fewshot=-1), "--num-fewshot -1"),
    ],
)
def test_bad_runs_are_named(mdm, run, words):
    with pytest.raises(UsageError, match=words):
        evaluate(UnmaskLM(mdm), run)


def test_a_written_result_is_the_harness_json_with_our_part_and_without_this_machine_s_folders(mdm, data_dir, tmp_path):
    result = evaluate(UnmaskLM(mdm, num_samples=4, progress=False), Run(("piqa",), data_dir))
    write(result, tmp_path / "out/r.json")
    text = (tmp_path / "out/r.json").read_text()
    assert str(data_dir) not in text
    stored = read(tmp_path / "out/r.json")
    assert stored["results"]["piqa"]["acc,none"] == result["unmask"]["tasks"]["piqa"]["metrics"]["acc"]["value"]
    assert "samples" not in stored
    assert stored["configs"]["piqa"]["dataset_path"] == "baber/piqa"
    (tmp_path / "other.json").write_text(json.dumps({"a": 1}))
    with pytest.raises(UsageError, match="not a result of unmask eval"):
        read(tmp_path / "other.json")
    with pytest.raises(UsageError, match="no such file"):
        read(tmp_path / "none.json")


def test_the_estimate_error_of_accuracy_is_its_spread_over_seeds(mdm, data_dir):
    values, errors = [], []
    for seed in range(6):
        model = UnmaskLM(mdm, num_samples=3, seed=seed, progress=False)
        figures = evaluate(model, Run(("piqa",), data_dir))["unmask"]["tasks"]["piqa"]["metrics"]["acc_norm"]
        values.append(figures["value"])
        errors.append(figures["stderr_estimate"])
    spread = torch.tensor(values).std().item()
    assert spread / 4 < np.mean(errors) < 4 * spread + 0.1
