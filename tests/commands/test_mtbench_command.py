"""`unmask mtbench`, run as the command line runs it, with tiny models and a judge on this machine."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fake_judge import FakeJudge, serving
from tiny_models import language_model
from unmask import cli
from unmask.data import chat_template
from unmask.data import tokenizer as tokenizing

DATA = Path(__file__).parents[2] / "../shared/data/mt_bench"
QUESTIONS = [
    {"question_id": 1, "category": "writing", "turns": ["Write of the cat.", "Shorter."]},
    {"question_id": 2, "category": "math", "turns": ["What is two and two?", "And three?"]},
    {"question_id": 3, "category": "stem", "turns": ["What is a cell?"]},
    {"question_id": 4, "category": "math", "turns": ["What is one and one, then?", "And four?"]},
]
REFERENCES = [{"question_id": i, "choices": [{"index": 0, "turns": ["It is 4.", "It is 7."]}]} for i in (2, 4)]
PROMPTS = [
    {"name": name, "system_prompt": f"You are {name}.", "prompt_template": template}
    for name, template in {
        "single-v1": "Q {question} A {answer}",
        "single-math-v1": "R {ref_answer_1} Q {question} A {answer}",
        "single-v1-multi-turn": "Q {question_1} A {answer_1} Q {question_2} A {answer_2}",
        "single-math-v1-multi-turn": "R {ref_answer_2} Q {question_2} A {answer_2}",
        "pair-v2": "{answer_a} {answer_b}",
    }.items()
]


def write_lines(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def read_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    place = tmp_path_factory.mktemp("models")
    plain = tokenizing.train_bpe(iter(["The cat sat on the mat. What is a cell? USER: ASSISTANT:"] * 20), 280)
    for name in ("mdm", "arm", "small"):
        tokenizer = plain.with_chat_template(chat_template.VICUNA)
        length = 48 if name == "small" else 400
        language_model(tokenizer, causal=name == "arm", context_length=length, sharpened=True).save(place / name)
    language_model(plain, causal=False).save(place / "untaught")
    return place


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("OPENAI_API_KEY", "right")
    write_lines(tmp_path / "question.jsonl", QUESTIONS)
    write_lines(tmp_path / "judge_prompts.jsonl", PROMPTS)
    write_lines(tmp_path / "references.jsonl", REFERENCES)
    return tmp_path


@pytest.fixture
def unmask(place, capsys):
    def run(*arguments):
        capsys.readouterr()
        return cli.main(["mtbench", *map(str, arguments)]), *capsys.readouterr()

    return run


COMMON = ("--questions", "question.jsonl")
SHORT = (*COMMON, "--out", "out", "--max-new-tokens", "6")
GRADING = (*COMMON, "--prompts", "judge_prompts.jsonl", "--references", "references.jsonl", "--judge", "judge", "--yes")


def test_answers_are_fastchats_lines_with_seconds_and_calls(unmask, place, models):
    status, out, err = unmask("answers", models / "mdm", *SHORT, "--steps", "3", "--guidance", "0.5")
    assert status == 0, err
    assert "mdm-confidence-3-steps-w=0.5: 4 questions answered in 7 turns (4 new)" in out
    records = read_lines(place / "out/model_answer/mdm-confidence-3-steps-w=0.5.jsonl")
    assert [record["question_id"] for record in records] == [1, 2, 3, 4]
    for record, question in zip(records, QUESTIONS, strict=True):
        assert {"question_id", "answer_id", "model_id", "choices", "tstamp"} <= set(record)
        (choice,) = record["choices"]
        turns = len(question["turns"])
        assert choice["index"] == 0
        assert len(choice["turns"]) == turns
        assert choice["network_calls"] == [6] * turns  # two a step under guidance
        assert min(choice["seconds"]) > 0
        assert choice["room"] == [6] * turns
    assert [record["unmask"]["temperature"] for record in records] == [0.7, 0.0, 0.1, 0.0]
    assert len({record["answer_id"] for record in records}) == 4


def test_an_answer_does_not_depend_on_its_batch_nor_on_what_else_is_asked(unmask, place, models):
    for number, about in enumerate((("--batch-size", 1), ("--batch-size", 3), ("--question-ids", 4, 1))):
        assert unmask("answers", models / "arm", *SHORT, "--model-id", number, *about)[0] == 0
    one, three, some = (
        {record["question_id"]: record["choices"][0]["turns"] for record in read_lines(path)}
        for path in sorted((place / "out/model_answer").iterdir())
    )
    assert one == three
    assert some == {1: one[1], 4: one[4]}
    _, told, _ = unmask("answers", models / "arm", *SHORT, "--model-id", "single", "--question-ids", 3)
    assert told.startswith("single: 1 question answered in 1 turn (1 new); ")


def test_answering_goes_on_after_a_kill(unmask, place, models):
    assert unmask("answers", models / "arm", *SHORT)[0] == 0
    path = place / "out/model_answer/arm.jsonl"
    whole = read_lines(path)
    text = path.read_text().splitlines(keepends=True)
    path.write_text(text[0] + text[2] + text[3][:20])
    status, out, _ = unmask("answers", models / "arm", *SHORT, "--json")
    assert status == 0
    assert json.loads(out)["new"] == 2
    again = read_lines(path)
    assert [record["choices"][0]["turns"] for record in again] == [record["choices"][0]["turns"] for record in whole]
    assert again[0] == whole[0]
    status, _, err = unmask("answers", models / "arm", *SHORT, "--seed", "1")
    assert status == 2
    assert "was answered with seed 0, not 1: give another --model-id, or remove the file" in err
    assert "has answers" not in err
    status, _, err = unmask("answers", models / "mdm", *SHORT, "--model-id", "arm")
    assert "was answered with weights" in err


def test_a_conversation_that_fills_the_context_gets_what_is_left(unmask, place, models):
    (place / "bare.jinja").write_text("{% for m in messages %}{{ m['content'] + eos_token }}{% endfor %}")
    assert unmask("answers", models / "small", *SHORT, "--template", "bare.jinja", "--max-new-tokens", 40)[0] == 0
    choices = {r["question_id"]: r["choices"][0] for r in read_lines(next((place / "out/model_answer").iterdir()))}
    assert 0 < choices[4]["room"][0] < 40
    assert choices[4]["room"][1] == choices[4]["network_calls"][1] == 0
    assert choices[4]["turns"][1] == ""


def test_a_refused_setting_leaves_no_empty_file_of_answers(unmask, place, models):
    status, _, err = unmask("answers", models / "arm", *SHORT, "--guidance", "1")
    assert (status, "needs a mask token" in err) == (2, True)
    assert not list((place / "out").rglob("*.jsonl"))


def test_a_mistyped_subcommand_or_option_has_the_nearest_named(unmask, models):
    status, _, err = unmask("answer", models / "arm", *SHORT)
    assert (status, err.count("\n")) == (2, 1)
    assert "unknown command of unmask mtbench 'answer': did you mean 'answers'? known: answers, judge, report" in err
    status, _, err = unmask("answers", models / "arm", *SHORT, "--samplr", "block")
    assert status == 2
    assert "did you mean --sampler? see unmask mtbench answers --help" in err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["untaught"], "untaught: has no chat template"),
        (["mdm", "--template", "vicunna"], "did you mean 'vicuna'"),
        (["mdm", "--questions", "absent"], "--questions absent: no such file"),
        (["mdm", "--question-ids", "9"], "question 9: not in question.jsonl, which has 4 (1 to 4)"),
        (["mdm", "--categories", "maths"], "unknown category 'maths': did you mean 'math'"),
        (["mdm", "--categories", "math", "--question-ids", "1"], "no question is of both"),
        (["mdm", "--limit", "-1"], "--limit -1"),
        (["mdm", "--max-new-tokens", "0"], "--max-new-tokens 0"),
        (["mdm", "--temperature", "-1"], "--temperature -1"),
        (["mdm", "--model-id", "a/b"], "--model-id a/b: becomes the name of a file"),
        (["mdm", "--sampler", "confidense"], "did you mean 'confidence'"),
        (["arm", "--guidance", "1"], "needs a mask token"),
    ],
)
def test_what_is_wrong_with_answers_is_one_line(unmask, models, arguments, told):
    name, *rest = arguments
    status, out, err = unmask("answers", models / name, *SHORT, *rest)
    assert status == 2
    assert told in err
    assert err.count("\n") == 1
    assert out == ""


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('{"question_id": 5, "category": "math", "turns": []}', "line 5: question 5 has an empty turn or none"),
        ('{"question_id": 5, "category": "math", "turns": [" "]}', "line 5: question 5 has an empty turn or none"),
        ('{"question_id": 1, "category": "math", "turns": ["?"]}', "line 5: question 1 for the second time"),
        ('{"question": 5}', "line 5: no question"),
    ],
)
def test_a_damaged_question_is_told_with_its_line(unmask, place, models, line, told):
    with (place / "question.jsonl").open("a") as file:
        file.write(line + "\n")
    status, _, err = unmask("answers", models / "mdm", *SHORT)
    assert status == 1
    assert told in err
    assert err.count("\n") == 1


@pytest.fixture
def answered(unmask, models):
    for name in ("mdm", "arm"):
        assert unmask("answers", models / name, *SHORT, "--model-id", name)[0] == 0


@pytest.fixture
def judge(answered):
    judge = FakeJudge()
    with serving(judge) as judge.url:
        yield judge


def test_judgments_are_fastchats_lines_and_what_is_there_is_not_asked_again(unmask, place, judge):
    judge.judgment = lambda body: "[[3.5]]" if "math" in body["messages"][0]["content"] else "Fine [1] yes. [[8]]"
    prices = ("--price-in", 10, "--price-out", 20, "--base-url", judge.url)
    status, out, err = unmask("judge", "out", *GRADING, *prices, "--json")
    assert status == 0, err
    assert err.startswith(f"14 judgments by judge at {judge.url} of 2 models: about ")
    assert "2,800 out (at most 28,672); about 0.06 (at most" in err
    summary = json.loads(out)
    assert summary["cost"] == pytest.approx(14 * (100 * 10 + 10 * 20) / 1e6)
    assert summary["models"]["arm"] == {
        "judgments": 7,
        "unrated": 0,
        "score": (3 * 8 + 4 * 3.5) / 7,
        "turns": {"1": 5.75, "2": 5.0},
    }
    records = read_lines(place / "out/model_judgment/judge_single.jsonl")
    assert len(records) == len(judge.requests) == 14
    answers = {r["question_id"]: r["choices"][0]["turns"] for r in read_lines(place / "out/model_answer/arm.jsonl")}
    by_key = {(record["model"], record["question_id"], record["turn"]): record for record in records}
    record = by_key["arm", 2, 2]
    assert record["judge"] == ["judge", "single-math-v1-multi-turn"]
    assert record["user_prompt"] == f"R It is 7. Q And three? A {answers[2][1]}"
    assert (record["score"], record["judgment"]) == (3.5, "[[3.5]]")
    assert by_key["arm", 3, 1]["score"] == 8
    sent = next(body for body in judge.requests if body["messages"][1]["content"] == record["user_prompt"])
    assert sent["messages"][0] == {"role": "system", "content": "You are single-math-v1-multi-turn."}
    assert (sent["model"], sent["temperature"], sent["max_tokens"]) == ("judge", 0.0, 2048)
    # again: nothing is asked; an answer that has changed is judged anew
    status, out, err = unmask("judge", "out", *GRADING, *prices)
    assert "0 judgments by judge" in err
    assert "(14 are there)" in err
    path = place / "out/model_answer/arm.jsonl"
    changed = [{**r, "answer_id": "other"} if r["question_id"] == 3 else r for r in read_lines(path)]
    write_lines(path, changed)
    status, out, err = unmask("judge", "out", *GRADING, *prices)
    assert "about 100 tokens" in err or "1 judgment by judge" in err
    assert "[1 new judgment: " in out
    assert len(judge.requests) == 15


def test_a_judgment_without_rating_counts_in_no_mean_and_is_asked_for_again(unmask, place, judge):
    judge.judgment = lambda body: "I cannot say; see [2023]." if "cell" in str(body) else "[[6]]"
    status, out, _ = unmask("judge", "out", *GRADING, "--base-url", judge.url, "--models", "arm", "--json")
    assert status == 0
    assert json.loads(out)["models"]["arm"]["unrated"] == 1
    assert json.loads(out)["models"]["arm"]["score"] == 6
    records = read_lines(place / "out/model_judgment/judge_single.jsonl")
    assert [record["score"] for record in records if record["question_id"] == 3] == [-1]
    judge.judgment = "[[9]]"
    status, out, _ = unmask("judge", "out", *GRADING, "--base-url", judge.url, "--models", "arm", "--json")
    assert json.loads(out)["new"] == 1
    assert json.loads(out)["models"]["arm"]["unrated"] == 0


def test_what_was_judged_before_a_failure_is_kept(unmask, place, judge):
    def turn_bad(number):
        if number > 5:
            judge.key = "changed"

    judge.on_request = turn_bad
    status, _, err = unmask("judge", "out", *GRADING, "--base-url", judge.url, "--parallel", "1")
    assert status == 1
    assert "401 Unauthorized (Incorrect API key provided)" in err.splitlines()[-1]
    assert len(read_lines(place / "out/model_judgment/judge_single.jsonl")) == 5
    judge.key, judge.on_request = "right", lambda number: None
    status, _, err = unmask("judge", "out", *GRADING, "--base-url", judge.url)
    assert status == 0
    assert "9 judgments by judge" in err
    keys = [
        (r["model"], r["question_id"], r["turn"]) for r in read_lines(place / "out/model_judgment/judge_single.jsonl")
    ]
    assert len(set(keys)) == len(keys) == 14


def test_a_judge_that_is_killed_is_continued(unmask, place, judge):
    command = [sys.executable, "-m", "unmask", "mtbench", "judge", "out", *GRADING, "--base-url", judge.url]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen([*command, "--parallel", "1"], env=environment, stderr=subprocess.PIPE)
    path = place / "out/model_judgment/judge_single.jsonl"

    def kill(number):
        if number == 4:
            while len(path.read_text().splitlines()) < 3:  # the third answer may be written while this one is asked for
                time.sleep(0.01)
            process.send_signal(signal.SIGKILL)

    judge.on_request = kill
    assert process.wait(120) == -signal.SIGKILL
    process.stderr.close()
    assert len(path.read_text().splitlines()) == 3
    path.write_text(path.read_text()[:-30])  # and in the middle of a line
    judge.on_request = lambda number: None
    status, _, err = unmask("judge", "out", *GRADING, "--base-url", judge.url)
    assert status == 0, err
    assert "(2 are there)" in err
    assert len(read_lines(path)) == 14


def test_nothing_is_sent_unless_it_is_confirmed(unmask, judge, monkeypatch):
    asking = [each for each in GRADING if each != "--yes"]
    status, _, err = unmask("judge", "out", *asking, "--base-url", judge.url)
    assert status == 2
    assert "14 judgments" in err
    assert "--yes: is needed to start where there is no terminal" in err
    status, _, err = unmask("judge", "out", *GRADING, "--base-url", judge.url, "--dry-run")
    assert (status, judge.requests) == (0, [])


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"--questions": "absent"}, "--questions absent: no such file"),
        ({"--prompts": "absent"}, "--prompts absent: no such file"),
        ({"--prompts": "references.jsonl"}, "line 1: no judge prompt"),
        ({"--references": "absent"}, "--references absent: no such file"),
        ({"--models": "other"}, "--models other: no other.jsonl in out/model_answer: there are arm, mdm"),
        ({"--body": "x"}, "--body x: must be a JSON object"),
        ({"--price-in": "1"}, "--price-in and --price-out: give both"),
        ({"--price-in": "-1", "--price-out": "1"}, "--price-in -1.0: must not be negative"),
        ({"--parallel": "0"}, "--parallel 0"),
        ({"--api-key": "wrong"}, "401 Unauthorized (Incorrect API key provided): check --api-key"),
        ({"--questions": "others.jsonl"}, "answers another set of questions than others.jsonl"),
    ],
)
def test_what_is_wrong_with_judging_is_one_line(unmask, place, judge, changes, told):
    write_lines(place / "others.jsonl", QUESTIONS[:3])
    given = (part for pair in changes.items() for part in pair)
    status, out, err = unmask("judge", "out", *GRADING, "--base-url", judge.url, *given)
    assert status in (1, 2)
    assert told in err.splitlines()[-1]
    assert out == ""


def test_answers_of_others_are_judged_too_and_checked(unmask, place, judge):
    path = place / "out/model_answer/theirs.jsonl"
    fields = {"answer_id": "x", "model_id": "theirs", "tstamp": 1.0}
    for choices, told in (
        ([{"index": 0, "turns": []}], "line 1: the answer to question 1 has no turns"),
        ([], "has no turns"),
        ([{"index": 0, "turns": ["a", "b", "c"]}], "3 turns, and question 1 has 2"),
    ):
        write_lines(path, [{"question_id": 1, "choices": choices, **fields}])
        status, _, err = unmask("judge", "out", *GRADING, "--base-url", judge.url)
        assert status == 1
        assert told in err
    write_lines(path, [{"question_id": 9, "choices": [{"index": 0, "turns": ["a"]}], **fields}])
    status, _, err = unmask("judge", "out", *GRADING, "--base-url", judge.url)
    assert "line 1: question 9: not in question.jsonl" in err
    write_lines(path, [{"question_id": 1, "choices": [{"index": 0, "turns": ["{a}", "b"]}], **fields}])
    assert unmask("judge", "out", *GRADING, "--base-url", judge.url, "--models", "theirs")[0] == 0
    # two are asked at once, and either may come first
    sent = sorted(body["messages"][1]["content"] for body in judge.requests)
    assert sent == ["Q Write of the cat. A {a}", "Q Write of the cat. A {a} Q Shorter. A b"]


def test_a_question_that_needs_a_reference_and_has_none_is_told(unmask, judge):
    without = [each for each in GRADING if each not in ("--references", "references.jsonl")]
    status, _, err = unmask("judge", "out", *without, "--base-url", judge.url)
    assert status == 2
    assert "--references: question 2 (math) is judged beside a reference answer and has none" in err


@pytest.mark.skipif(not DATA.is_dir(), reason="needs FastChat's MT-Bench files")
def test_fastchats_own_files_are_read_and_all_prompts_can_be_made(tmp_path):
    from unmask.evals.mtbench import answers, judging, questions

    found = questions.read(DATA / "question.jsonl")
    assert len(found.questions) == 80
    assert set(found.categories) == set(questions.TEMPERATURES)
    prompts = judging.read_prompts(DATA / "judge_prompts.jsonl")
    references = judging.read_references(DATA / "reference_gpt-4.jsonl", found)
    tasks = judging.tasks({"gpt-4": references}, prompts, references)
    assert len(tasks) == 60
    assert {task.prompt.name for task in tasks} == {"single-math-v1", "single-math-v1-multi-turn"}
    assert all(references[task.key.question_id].turns[0].text in task.user_prompt for task in tasks)
    assert answers.read(DATA / "reference_gpt-4.jsonl", found)[101].turns[0].seconds is None


def test_a_report_has_scores_against_seconds_by_turn_and_category(unmask, place, judge):
    judge.judgment = lambda body: "[[4]]" if "math" in body["messages"][0]["content"] else "[[8]]"
    assert unmask("judge", "out", *GRADING, "--base-url", judge.url)[0] == 0
    status, out, err = unmask("report", "out", *COMMON)
    assert status == 0, err
    assert "mdm beside arm: +0.00 points" in out
    result = json.loads((place / "out/report/mt-bench.json").read_text())
    assert (result["judge"], result["measure"], result["baseline"]) == ("judge", "score", "arm")
    groups = {(each["category"], each["turn"]): each for each in result["models"]["mdm"]["groups"]}
    assert set(groups) == {
        ("all", "all"),
        ("all", "1"),
        ("all", "2"),
        ("writing", "all"),
        ("math", "all"),
        ("stem", "all"),
    }
    assert groups["all", "all"]["score"]["value"] == pytest.approx((3 * 8 + 4 * 4) / 7)  # FastChat's mean over turns
    low, high = groups["all", "all"]["score"]["ci95"]
    assert 4 <= low < groups["all", "all"]["score"]["value"] < high <= 8
    assert groups["all", "1"]["score"]["value"] == 6
    assert groups["math", "all"]["score"] == {"value": 4.0, "ci95": None}
    lines = (place / "out/report/mt-bench.csv").read_text().splitlines()
    assert len(lines) == 1 + 2 * 6
    page = (place / "out/report/index.html").read_text()
    assert "MT-Bench: score against seconds" in page
    assert "No judge graded" not in page
    for name in ("mt-bench.svg", "mt-bench.png", "mt-bench-narrow-dark.svg"):
        assert (place / "out/report/figures" / name).stat().st_size > 1000


def test_without_a_judge_there_is_perplexity_and_the_page_says_that_it_is_no_score(unmask, place, models, answered):
    status, _, err = unmask("report", "out", *COMMON)
    assert status == 2
    assert "has no grades: run unmask mtbench judge, or give --reference" in err
    status, out, err = unmask("report", "out", *COMMON, "--reference", models / "arm", "--json")
    assert status == 0, err
    result = json.loads(out)
    figures = result["models"]["mdm"]["groups"][0]
    assert (result["measure"], result["judge"]) == ("perplexity", None)
    assert "score" not in figures
    assert figures["perplexity"]["value"] > 1
    assert figures["words"]["value"] > 0
    assert "No judge graded these answers" in (place / "out/report/index.html").read_text()


def test_a_report_compares_what_all_have_answered_and_tells_what_is_missing(unmask, place, models, answered, judge):
    path = place / "out/model_answer/mdm.jsonl"
    write_lines(path, [record for record in read_lines(path) if record["question_id"] != 3])
    status, out, _ = unmask("report", "out", *COMMON, "--reference", models / "arm", "--json")
    assert (json.loads(out)["questions"], json.loads(out)["turns"]) == (3, 6)
    assert unmask("judge", "out", *GRADING, "--base-url", judge.url, "--models", "arm")[0] == 0
    status, _, err = unmask("report", "out", *COMMON)
    assert status == 1
    assert "has no grade for turn 1 of question 1 by mdm: run unmask mtbench judge again" in err
    assert unmask("report", "out", *COMMON, "--models", "arm")[0] == 0
    status, _, err = unmask("report", "out", *COMMON, "--judge", "other")
    assert "--judge other: has graded nothing here: there are judge" in err
    write_lines(path, [])
    write_lines(place / "others.jsonl", QUESTIONS[:3])
    status, _, err = unmask("report", "out", "--questions", "others.jsonl", "--models", "arm")
    assert "answers another set of questions than others.jsonl" in err
