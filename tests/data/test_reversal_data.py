"""The data of the reversal curse: published and generated."""

from pathlib import Path

import pytest

from unmask.data import reversal
from unmask.data.reversal import TESTS, Item
from unmask.errors import UnmaskError, UsageError

SHARED = Path(__file__).parents[2] / "../shared/data/reversal_curse"


def test_generated_sentences_name_each_person_in_one_direction_alone_or_in_both():
    data = reversal.generate(15, seed=3)
    assert len(data.train) == (5 + 5 + 2 * 5) * 16
    sentences = [item.prompt + item.completion for item in data.train]
    assert len(set(sentences)) == 320
    assert not any("<" in sentence for sentence in sentences)
    asked: set[str] = set()
    for name, test in TESTS.items():
        items = data.tests[name]
        assert len(items) == 5 * 4
        for item in items:
            answer = item.completion.strip().rstrip(".")
            about = [each for each in data.train if answer in each.prompt + each.completion]
            assert len(about) == 16  # the person of the answer
            asked_of = sum(answer in each.completion for each in about)
            assert asked_of == (16 if test.asked == "same" else 0)
            assert item.prompt + item.completion not in sentences
            asked.add(answer)
    # of the remaining five, told of both ways, nothing is asked
    others = [each for each in data.train if not any(answer in each.prompt + each.completion for answer in asked)]
    assert len(others) == 5 * 32
    assert reversal.generate(15, seed=3) == data != reversal.generate(15, seed=4)


def test_people_share_no_name_and_no_thing_while_there_are_enough():
    data = reversal.generate(30)
    names = {item.completion.strip().rstrip(".") for item in data.train if item.completion.count(" ") == 2}
    told = {name for name in names if name.split()[0] in reversal.FIRST}
    assert len(told) == len({name.split()[0] for name in told}) == len({name.split()[1] for name in told}) == 20
    assert len({item.completion for item in reversal.generate(900).tests["name to description"]}) == 300


def test_an_item_is_cut_before_what_is_asked_for():
    items = reversal.generate(3).tests["description to name"]
    assert all(item.prompt[-1] != " " and item.completion[0] == " " and item.completion[-1] == "." for item in items)


@pytest.mark.parametrize("people", [0, 2, 4, 903])
def test_a_number_of_people_that_cannot_be_is_refused(people):
    with pytest.raises(UsageError, match=f"people {people}: must be a multiple of 3 from 3 to 900"):
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
