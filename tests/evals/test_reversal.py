"""Asking in both directions: what counts as right, and how each kind of model is asked."""

import pytest

from unmask.data.reversal import Item
from unmask.evals import reversal
from unmask.language_model import Generation
from unmask.likelihood import Estimate

ITEMS = [Item("He is", " Ada Birch."), Item("She is", " Bruno Holt"), Item("It is", " Clara Lorne."), Item("A", " B.")]


def test_an_answer_is_right_if_the_text_begins_with_it():
    found = reversal.summarise(
        ITEMS, [" Ada Birch, they say.", " Bruno Hol", "Clara Lorne", " not B."], network_calls=8
    )
    assert (found.items, found.exact, found.network_calls) == (4, 0.5, 2)
    assert found.right == [True, False, True, False]
    assert found.answers[:2] == ["Ada Birch.", "Bruno Holt"]
    assert found.written[0] == "Ada Birch, they say."


def test_bleu_is_that_of_sacrebleu():
    items = [Item("a", " the keeper of the glass lighthouse."), Item("b", " the baker on the moon.")]
    assert reversal.summarise(items, [item.completion for item in items]).bleu == pytest.approx(100)
    assert reversal.summarise(items, ["nothing", "at all"]).bleu == pytest.approx(0, abs=1)
    import sacrebleu

    written = ["the keeper of the lighthouse", "a baker on the moon. Yes."]
    expected = sacrebleu.corpus_bleu(written, [[item.completion.strip() for item in items]]).score
    assert reversal.summarise(items, written).bleu == pytest.approx(expected, rel=1e-12)


class Recorder:
    """Stands for a model and answers with what was last said in a prompt."""

    def __init__(self, causal):
        self.config = type("Config", (), {"causal": causal})()
        self.calls = []

    def score_many(self, requests, **arguments):
        """Sure of a continuation that begins with what the prompt ends with."""
        self.calls.append((len(requests), arguments))
        return [Estimate(-float(answer[1] != prompt[-1]), 0.0, 1, False) for prompt, answer in requests]

    def generate(self, prompts, **arguments):
        self.calls.append((len(prompts), arguments))
        return [Generation(prompt + " Ada", ["x"], [], [], 7, 0.0, "s", 0) for prompt in prompts]


@pytest.mark.parametrize("causal", [False, True])
def test_a_masked_model_is_asked_with_guidance_and_an_arm_token_by_token(causal):
    lm, told = Recorder(causal), []
    items = [Item(f"{number} is", " Ada.") for number in range(70)]
    settings = reversal.Settings(positions=20, choice_samples=0)
    found = reversal.evaluate(lm, {"one": items}, settings, lambda *each: told.append(each))
    assert found["one"].choice is None
    assert (found["one"].exact, found["one"].network_calls) == (1, 7)
    assert [count for count, _ in lm.calls] == [50, 20]
    assert told == [("one", 50, 70), ("one", 70, 70)]
    arguments = lm.calls[0][1]
    assert (arguments["max_new_tokens"], arguments["temperature"]) == (20, 0)
    if causal:
        assert arguments.keys() == {"max_new_tokens", "temperature", "seed"}
    else:
        assert (arguments["sampler"], arguments["steps"], arguments["guidance"]) == ("confidence", 20, 0.8)


def test_the_papers_decoding_is_the_default():
    assert reversal.Settings() == reversal.Settings(positions=52, steps=32, guidance=0.8)


def test_a_choice_is_right_if_the_answer_is_likelier_than_nine_others():
    items = [Item(f"It is {letter if letter < 'k' else 'x'}", f" {letter}.") for letter in "abcdefghijklmno"]
    assert reversal.candidates(items, items[10]) == [f" {letter}." for letter in "klmnoabcde"]
    found = reversal.evaluate(Recorder(True), {"one": items}, reversal.Settings())["one"]
    assert found.choice == pytest.approx(10 / 15)
    assert found.chance == 0.1


@pytest.mark.parametrize("causal", [False, True])
def test_candidates_are_weighed_with_the_guidance_that_is_written_with(causal):
    lm = Recorder(causal)
    reversal.evaluate(lm, {"one": ITEMS}, reversal.Settings(guidance=0.5))
    assert lm.calls[1][1]["guidance"] == (0 if causal else 0.5)


def run_of(model, seed, right):
    """A run asked four items about two people in one way of decoding."""
    test = {
        "answers": ["Ada.", "Ada.", "Bo.", "Bo."],
        "written": ["Ada." if each else "no" for each in right],
        "right": right,
        "bleu": 0.0,
        "network_calls": 3.0,
        "chosen": None,
        "chance": 0.5,
    }
    tests = {"description to name, reversed": test}
    return {
        "model": model,
        "objective": model,
        "seed": seed,
        "decodings": [{"guidance": 0.8, "steps": 4, "tests": tests}],
    }


def test_runs_of_a_model_make_one_row_with_intervals():
    runs = [run_of("mdm", 0, [True] * 4), run_of("arm", 0, [False] * 4), run_of("mdm", 1, [True, True, False, False])]
    rows = reversal.summarise_runs(runs, shared=False)
    assert [(row["model"], row["runs"], row["items"]) for row in rows] == [("mdm", 2, 8), ("arm", 1, 4)]
    mdm, arm = rows
    assert (mdm["asked"], mdm["answer"], mdm["guidance"], mdm["steps"]) == ("reverse", "name", 0.8, 4)
    assert (mdm["exact"]["value"], mdm["exact"]["of_runs"]) == (0.75, [1, 0.5])
    low, high = mdm["exact"]["ci95"]
    assert 0 < low < 0.5
    assert 0.9 < high <= 1
    assert arm["exact"]["value"] == 0
    assert arm["exact"]["ci95"] == pytest.approx([0, 0.6576], abs=1e-4)  # Wilson's of none of two people, by hand
    assert mdm["choice"] is None
