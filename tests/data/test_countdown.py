"""Countdown: which chains of equations reach the target, and what is generated."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unmask.data import countdown
from unmask.data.countdown import Countdown, Ranges
from unmask.errors import UsageError

RANGES = st.builds(Ranges, st.integers(2, 5), st.integers(3, 50), st.integers(50, 200))


@pytest.mark.parametrize(
    ("written", "right"),
    [
        ("44-15=29,79-29=50", True),
        (" 44 - 15 = 29, 79 - 29 = 50\n", True),
        ("79-44=35,35+15=50", True),  # another way
        ("15+79=94,94-44=50", True),
        ("79+15=94,94-44=50", True),
        ("79-29=50,44-15=29", False),  # 29 is used before it is there
        ("44-15=29,29+50=79", False),  # ends elsewhere
        ("44-15=29,79-29=51", False),
        ("44-15=28,79-28=51", False),
        ("44+6=50", False),
        ("79-29=50", False),  # too short
        ("44-15=29,79-29=50,50*1=50", False),  # too long
        ("44-15=29,79-29=50,", False),
        ("44-44=0,0+50=50", False),  # one number twice
        ("15-44=-29,79+-29=50", False),  # below zero
        ("044-15=29,79-29=50", False),
        ("44-15=29,79-29=50.", False),
        ("44-15=29;79-29=50", False),
        ("44-15=29,79-29=50 = 50", False),
        ("the answer: 44-15=29,79-29=50", False),
        ("4 4-15=29,79-29=50", False),
        ("44−15=29,79−29=50", False),  # a typographer's minus
        ("٤٤-١٥=٢٩,٧٩-٢٩=٥٠", False),  # digits of another script
        ("", False),
        (",", False),
        ("=,=", False),
        (f"{'9' * 5000}+15={'9' * 5000},79-29=50", False),
        (f"44*15={'6' * 5000},79-29=50", False),
        ("44*" * 20000, False),
        ("44" + " " * 50000 + ",", False),
    ],
)
def test_any_chain_that_uses_each_number_once_and_ends_at_the_target_is_right(written, right):
    assert countdown.reaches([15, 44, 79], 50, written) is right


@pytest.mark.parametrize(
    ("numbers", "target", "written", "right"),
    [
        ([6, 2, 3], 9, "6/2=3,3*3=9", True),
        ([6, 2, 3], 9, "6/3=2,2*2=4", False),
        ([7, 2, 3], 9, "7/2=3,3*3=9", False),  # no whole number
        ([5, 0, 3], 3, "5*0=0,0+3=3", True),
        ([5, 0, 3], 3, "5/0=0,0+3=3", False),
        ([5, 0, 3], 3, "0/5=0,3-0=3", True),
        ([4, 4, 2], 2, "4-4=0,0+2=2", True),
        ([4, 4, 2], 8, "4+2=6,6+2=8", False),  # the two twice, one four not at all
        ([1, 2, 3, 4], 24, "1*2=2,3*4=12,2*12=24", True),
        ([1, 2, 3, 4], 24, "1*2=2,2*3=6,6*4=24", True),
        ([1, 2, 3, 4], 24, "2*3=6,6*4=24", False),
    ],
)
def test_every_operation_has_a_whole_result_that_is_not_below_zero(numbers, target, written, right):
    assert countdown.reaches(numbers, target, written) is right


@settings(deadline=None)
@given(RANGES, st.integers(0, 1000))
def test_what_is_generated_is_in_range_and_solved_by_its_answer(ranges, seed):
    for problem in countdown.generate(ranges, 3, seed):
        assert len(problem.numbers) == ranges.numbers
        assert all(1 <= number <= ranges.largest for number in problem.numbers)
        assert 1 <= problem.target <= ranges.target
        assert countdown.reaches(problem.numbers, problem.target, problem.answer)
        assert countdown.parse({"input": problem.question, "output": problem.answer}, "here") == problem


@settings(deadline=None)
@given(st.data())
def test_the_check_agrees_with_all_chains_there_are(data):
    """For what is written at random, and for solutions with a letter changed or chains in another order."""
    ranges = Ranges(data.draw(st.integers(2, 3)), data.draw(st.integers(3, 30)))
    (problem,) = countdown.generate(ranges, 1, data.draw(st.integers(0, 1000)))
    place = data.draw(st.integers(0, len(problem.answer) - 1))
    letter = data.draw(st.sampled_from("0123456789+-*/=,"))
    changed = problem.answer[:place] + letter + problem.answer[place + 1 :]
    reversed_ = ",".join(reversed(problem.answer.split(",")))
    anything = data.draw(st.text("0123456789+-*/=,", max_size=30))
    right = set(chains(problem.numbers, problem.target))
    assert problem.answer in right
    for written in (changed, reversed_, anything, *right):
        assert countdown.reaches(problem.numbers, problem.target, written) is (written in right)


def chains(numbers, target):
    """All chains of equations that reach the target."""
    for first, second in itertools.permutations(range(len(numbers)), 2):
        rest = [number for place, number in enumerate(numbers) if place not in (first, second)]
        for operation in "+-*/":
            value = countdown.applied(numbers[first], operation, numbers[second])
            if value is None:
                continue
            equation = f"{numbers[first]}{operation}{numbers[second]}={value}"
            if rest:
                yield from (f"{equation},{more}" for more in chains([*rest, value], target))
            elif value == target:
                yield equation


def test_no_problem_comes_twice_or_is_one_that_is_asked_in_whatever_order():
    ranges = Ranges(3, 6, 30)
    asked = countdown.generate(ranges, 100, seed=1)
    train = countdown.generate(ranges, 200, seed=2, apart_from=asked)
    assert len({each.key for each in [*asked, *train]}) == 300
    assert Countdown("3,1,2,6", "", "").key == Countdown("1,2,3,6", "", "").key != Countdown("1,2,6,3", "", "").key
    assert countdown.generate(ranges, 100, seed=1) == asked != countdown.generate(ranges, 100, seed=3)


def test_more_problems_than_there_are_are_refused():
    with pytest.raises(UsageError, match=r"--problems: only \d+ of 500 found, .* countdown of 2 numbers up to 5"):
        countdown.generate(Ranges(2, 5, 100), 500)


@pytest.mark.parametrize(
    ("ranges", "told"),
    [((1, 20, 100), "--numbers 1"), ((3, 0, 100), "--largest-number 0"), ((3, 20, 10**7), "--largest-target 10000000")],
)
def test_ranges_are_checked(ranges, told):
    with pytest.raises(UsageError, match=told):
        Ranges(*ranges)
