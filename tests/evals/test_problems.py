"""Two decodings of a problem, and when an answer is right."""

import pytest

from unmask.data.countdown import Countdown
from unmask.data.problems import Problem
from unmask.errors import UnmaskError
from unmask.evals import problems
from unmask.language_model import Generation


@pytest.mark.parametrize(
    ("expected", "written", "same"),
    [
        ("18", "18", True),
        ("5.5", "5.50", True),
        ("70000", "70,000", True),
        ("0.5", "1/2", True),
        ("18", "$18", True),
        ("4 0 8", "4 0 8", True),
        ("4 0 8", "4 8 0", False),
        ("18", "19", False),
        ("18", "", False),
        ("18", "eggs", False),
        ("18", "so #### 18", True),
    ],
)
def test_answers_are_compared_as_numbers(expected, written, same):
    assert problems.equal(expected, written) is same


class Solver:
    """Stands for a model: adds in its rationale, and answers what the rationale in its prompt ends with."""

    def __init__(self, causal):
        self.config = type("Config", (), {"causal": causal, "context_length": 60})()
        self.tokenizer = type("Tokenizer", (), {"encode": staticmethod(list)})()
        self.calls = []

    def generate(self, prompts, **arguments):
        self.calls.append((list(prompts), arguments))
        fills = [
            f" {eval(prompt.split(' ||')[0])}" if prompt.endswith("||") else prompt.split()[-2] for prompt in prompts
        ]
        return [
            Generation(prompt + fill, [fill], [], [], 3, 0.0, "s", 0)
            for prompt, fill in zip(prompts, fills, strict=True)
        ]


@pytest.mark.parametrize("causal", [False, True])
def test_the_answer_is_decoded_after_the_rationale_that_was_written(causal):
    lm = Solver(causal)
    asked = [Problem("1+1", "two", "2"), Problem("2+3", "five", "6")]
    found = problems.solve(lm, asked, problems.Settings(8, 4))
    assert (found.rationales, found.answers, found.right) == (["2", "5"], ["2", "5"], [True, False])
    assert found.network_calls == 6
    (first, told), (second, _) = lm.calls
    assert first == ["1+1 ||", "2+3 ||"]
    assert second == ["1+1 || 2 ####", "2+3 || 5 ####"]
    assert (told["max_new_tokens"], told["temperature"]) == (8, 0.1)
    if not causal:
        assert (told["sampler"], told["steps"], told["guidance"]) == ("confidence", 8, 0.1)


def test_a_question_that_leaves_no_room_is_not_solved():
    lm = Solver(True)
    found = problems.solve(lm, [Problem("1+" * 40 + "1", "", "41"), Problem("1+1", "", "2")], problems.Settings(8, 4))
    assert (found.answers, found.right) == (["", "2"], [False, True])


def test_countdown_is_decoded_once_and_any_right_chain_counts():
    class Chains(Solver):
        def generate(self, prompts, **arguments):
            self.calls.append((list(prompts), arguments))
            fills = [" 4*2=8,3+8=11", " 2*4=8,3+8=12"]
            return [Generation("", [fill], [], [], 5, 0.0, "s", 0) for fill in fills]

    lm = Chains(False)
    found = problems.solve(lm, [Countdown("2,3,4,11", "", "2*4=8,8+3=11")] * 2, problems.Settings(0, 20))
    assert (found.right, found.rationales, found.network_calls) == ([True, False], ["", ""], 5)
    ((asked, told),) = lm.calls
    assert asked == ["2,3,4,11 || ####"] * 2
    assert told["max_new_tokens"] == 20


def test_math_verify_is_asked_for_only_where_it_is_needed(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    problems.check_installed([Countdown("1,2,3", "", "1+2=3")])
    with pytest.raises(UnmaskError, match="needs the package math-verify"):
        problems.check_installed([Problem("1+1", "", "2")])


def test_the_papers_decoding_is_the_default():
    assert problems.Settings(1, 1) == problems.Settings(1, 1, "confidence", 256, 0.1, 0.1)


def test_runs_of_a_model_make_one_row_for_each_decoding():
    def run(model, right):
        return {
            "model": model,
            "objective": model,
            "decodings": [{"sampler": "confidence", "right": right, "network_calls": 4.0}],
        }

    rows = problems.accuracy(
        [run("mdm", [True, False]), run("mdm", [True, True]), run("arm", [False] * 2)], shared=False
    )
    assert [(row["model"], row["runs"], row["problems"], row["accuracy"]["value"]) for row in rows] == [
        ("mdm", 2, 4, 0.75),
        ("arm", 1, 2, 0),
    ]
