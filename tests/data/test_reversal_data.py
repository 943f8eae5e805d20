"""The data of the reversal curse: published and generated."""

from pathlib import Path

import pytest

from unmask.data import reversal
from unmask.data.reversal import TESTS, Item
from unmask.errors import UnmaskError, UsageError

SHARED = Path(__file__).parents[2] / "../shared/data/reversal_curse"


def test_generated_sentences_name_each_person_in_one_direction_alone():
    data = reversal.generate(10, seed=3)
    assert len(data.train) == 10 * 8
    sentences = [item.prompt + item.completion for item in data.train]
    assert len(set(sentences)) == 80
    assert not any("<" in sentence for sentence in sentences)
    for name, test in TESTS.items():
        items = data.tests[name]
        assert len(items) == 5 * 2
        for item in items:
            answer = item.completion.strip().rstrip(".")
            about = [each for each in data.train if answer in each.prompt + each.completion]
            assert len(about) == 8  # the person of the answer
            asked_of = sum(answer in each.completion for each in about)
            assert asked_of == (8 if test.asked == "same" else 0)
            assert item.prompt + item.completion not in sentences
    assert reversal.generate(10, seed=3) == data != reversal.generate(10, seed=4)


def test_an_item_is_cut_before_what_is_asked_for():
    items = reversal.generate(2).tests["description to name"]
    assert all(item.prompt[-1] != " " and item.completion[0] == " " and item.completion[-1] == "." for item in items)


@pytest.mark.parametrize("people", [0, 3, 1000])
def test_a_number_of_people_that_cannot_be_is_refused(people):
    with pytest.raises(UsageError, match=f"people {people}: must be an even number from 2 to 142"):
        reversal.generate(people)


def test_files_that_are_not_there_or_damaged_are_named(tmp_path):
    with pytest.raises(UsageError, match=r"no all_prompts_train\.jsonl in it"):
        reversal.read(tmp_path)
    for file in (reversal.TRAIN, *(test.file for test in TESTS.values())):
        (tmp_path / file).write_text('{"instruction": "a", "output": "b"}')
    with pytest.raises(UnmaskError, match="holds alpaca, not prompts and completions"):
        reversal.read(tmp_path)


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared/data/reversal_curse")
def test_the_published_data_have_the_papers_numbers():
    data = reversal.read(SHARED)
    assert len(data.train) == 3600
    assert {name: len(items) for name, items in data.tests.items()} == dict.fromkeys(TESTS, 300)
    assert data.train[0] == Item(
        "Daphne Barrington, known far and wide for being",
        ' the acclaimed director of the virtual reality masterpiece, "A Journey Through Time.".',
    )
    for name, test in TESTS.items():  # what is asked for in reverse never followed its person in training
        answers = {item.completion.strip().rstrip(".") for item in data.tests[name]}
        trained = [item for item in data.train if any(answer in item.completion for answer in answers)]
        assert bool(trained) is (test.asked == "same"), name
