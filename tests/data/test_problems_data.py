"""Problems: the formats of their files, the two examples of each, and what is wrong in a file."""

from pathlib import Path

import pytest

from unmask.data import problem_files, problems
from unmask.data.countdown import Countdown
from unmask.data.problems import Problem
from unmask.errors import UnmaskError, UsageError

SHARED = Path(__file__).parents[2] / "../shared/data"
DENG = "Anna has 3 eggs and buys 4. How many?||<<3+4=7>> #### 7\n"
COUNTDOWN = '{"input": "15,44,79,50", "output": "44-15=29,79-29=50"}\n'


def test_a_problem_of_deng_gives_two_examples(tmp_path):
    (tmp_path / "a.txt").write_text(DENG + "\nWhat is 5?|| #### 5\n")
    first, second = problem_files.read(tmp_path / "a.txt")
    assert first == Problem("Anna has 3 eggs and buys 4. How many?", "<<3+4=7>>", "7")
    assert first.examples() == [
        ("Anna has 3 eggs and buys 4. How many? ||", " <<3+4=7>>"),
        ("Anna has 3 eggs and buys 4. How many? || <<3+4=7>> ####", " 7"),
    ]
    assert second.examples() == [("What is 5? || ####", " 5")]


def test_gsm8ks_own_rationales_are_read(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"question": "How many?", "answer": "It is 3+4.\\nSo 7.\\n#### 7"}\n')
    assert problem_files.read(tmp_path / "a.jsonl") == [Problem("How many?", "It is 3+4.\nSo 7.", "7")]


def test_countdown_is_read_with_its_solution_as_answer_and_no_rationale(tmp_path):
    (tmp_path / "a.jsonl").write_text(COUNTDOWN)
    (found,) = problem_files.read(tmp_path / "a.jsonl")
    assert found == Countdown("15,44,79,50", "", "44-15=29,79-29=50")
    assert found.examples() == [("15,44,79,50 || ####", " 44-15=29,79-29=50")]


def test_one_kind_of_problems_at_a_time():
    sum_, countdown = Problem("1+1", "", "2"), Countdown("1,2,3", "", "1+2=3")
    problem_files.check_one_kind([sum_, sum_])
    problem_files.check_one_kind([countdown])
    with pytest.raises(UsageError, match="some problems are countdown, others are not"):
        problem_files.check_one_kind([countdown, sum_])


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("a.txt", DENG + "What? 7 #### 7", r"a.txt: line 2: no \|\| between question and rationale"),
        ("a.txt", "What?||1+1=2", "line 1: no #### before the answer"),
        ("a.txt", "What?||1+1=2 ####", "line 1: an empty answer"),
        ("a.txt", "||1+1=2 #### 2", "line 1: an empty question"),
        ("a.txt", "\n", "a.txt: holds no problems"),
        ("a.jsonl", DENG, "line 1: not JSON"),
        ("a.jsonl", '{"question": "What?"}', "line 1: no texts 'question' and 'answer'"),
        ("a.jsonl", "[1, 2]", "line 1: no texts 'question' and 'answer'"),
        ("a.jsonl", COUNTDOWN + '{"input": "1,x,3", "output": ""}', "line 2: input '1,x,3': give two or more numbers"),
        ("a.jsonl", '{"input": [1, 2, 3], "output": "1+2=3"}', r"line 1: input \[1, 2, 3\]: give two or more"),
        ("a.jsonl", '{"input": "30,7,23", "output": "23"}', "line 1: output '23': no solution of 30,7,23: give"),
        ("a.jsonl", '{"input": "30,7,23"}', "line 1: output None: no solution of 30,7,23"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(tmp_path, name, text, told):
    (tmp_path / name).write_text(text)
    with pytest.raises(UnmaskError, match=told):
        problem_files.read(tmp_path / name)


def test_a_file_that_is_not_there_is_named():
    with pytest.raises(UsageError, match=r"nowhere\.txt: no such file"):
        problem_files.read("nowhere.txt")


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the shared data")
@pytest.mark.parametrize(
    ("file", "count"),
    [
        ("gsm8k_deng/train_no_aug.txt", 6973),
        ("gsm8k_deng/test.txt", 1319),
        ("gsm8k_deng/valid.txt", 500),
        ("hub/openai/gsm8k/main/train.jsonl", 7473),
        ("hub/openai/gsm8k/main/test.jsonl", 1319),
        ("planning/cd3_test.jsonl", 1000),
        ("planning/cd4_test.jsonl", 1000),
    ],
)
def test_the_published_files_are_read(file, count):
    assert len(problem_files.read(SHARED / file)) == count


def test_products_have_their_partial_products_as_rationale():
    assert problems.product(12, 34) == Problem("1 2 * 3 4", "4 8 + 3 6 0", "4 0 8")


def test_no_product_is_asked_that_was_trained_on_in_either_order():
    train, test = problems.multiplication(1, 40, 5, seed=1)

    def factors(problem):
        return tuple(sorted(problem.question.split(" * ")))

    assert len({factors(each) for each in [*train, *test]}) == 45
    assert problems.multiplication(1, 40, 5, seed=1) == (train, test) != problems.multiplication(1, 40, 5, seed=2)
    with pytest.raises(UsageError, match="together no more than the 45 products"):
        problems.multiplication(1, 41, 5)
    with pytest.raises(UsageError, match="--digits 0"):
        problems.multiplication(0, 1, 1)
