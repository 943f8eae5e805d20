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
    assert found.exact_ci95 == pytest.approx((0.15004, 0.84996), abs=1e-4)  # Wilson, by hand
    assert found.samples[0] == {"prompt": "He is", "expected": "Ada Birch", "written": "Ada Birch, they say."}


def test_bleu_is_that_of_sacrebleu():
    items = [Item("a", " the keeper of the glass lighthouse."), Item("b", " the baker on the moon.")]
    assert reversal.summarise(items, [item.completion for item in items]).bleu == pytest.approx(100)
    assert reversal.summarise(items, ["nothing", "at all"]).bleu == pytest.approx(0, abs=1)


class Recorder:
    """Stands for a model and answers with what was last said in a prompt."""

    def __init__(self, causal):
        self.config = type("Config", (), {"causal": causal})()
        self.calls = []

    def score_many(self, requests, **arguments):
        """Sure of a continuation that begins with what the prompt ends with."""
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
    assert (found["one"].choice, found["one"].choice_ci95) == (None, None)
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
    assert found.choice_ci95 == pytest.approx((0.4171, 0.8482), abs=1e-3)
    assert found.chance == 0.1
