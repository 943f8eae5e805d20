"""Problems with rationales: their formats, the two examples of each, and what is wrong in a file."""

from pathlib import Path

import pytest

from unmask.data import problems
from unmask.data.problems import Problem
from unmask.errors import UnmaskError, UsageError

SHARED = Path(__file__).parents[2] / "../shared/data"
DENG = "Anna has 3 eggs and buys 4. How many?||<<3+4=7>> #### 7\n"


def test_a_problem_of_deng_gives_two_examples(tmp_path):
    (tmp_path / "a.txt").write_text(DENG + "\nWhat is 5?|| #### 5\n")
    first, second = problems.read(tmp_path / "a.txt")
    assert first == Problem("Anna has 3 eggs and buys 4. How many?", "<<3+4=7>>", "7")
    assert first.examples() == [
        ("Anna has 3 eggs and buys 4. How many? ||", " <<3+4=7>>"),
        ("Anna has 3 eggs and buys 4. How many? || <<3+4=7>> ####", " 7"),
    ]
    assert second.examples() == [("What is 5? || ####", " 5")]


def test_gsm8ks_own_rationales_are_read(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"question": "How many?", "answer": "It is 3+4.\\nSo 7.\\n#### 7"}\n')
    assert problems.read(tmp_path / "a.jsonl") == [Problem("How many?", "It is 3+4.\nSo 7.", "7")]


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
    ],
)
def test_what_is_wrong_is_named_with_its_line(tmp_path, name, text, told):
    (tmp_path / name).write_text(text)
    with pytest.raises(UnmaskError, match=told):
        problems.read(tmp_path / name)


def test_a_file_that_is_not_there_is_named():
    with pytest.raises(UsageError, match=r"nowhere\.txt: no such file"):
        problems.read("nowhere.txt")


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the shared data")
@pytest.mark.parametrize(
    ("file", "count"),
    [
        ("gsm8k_deng/train_no_aug.txt", 6973),
        ("gsm8k_deng/test.txt", 1319),
        ("gsm8k_deng/valid.txt", 500),
        ("hub/openai/gsm8k/main/train.jsonl", 7473),
        ("hub/openai/gsm8k/main/test.jsonl", 1319),
    ],
)
def test_the_published_files_are_read(file, count):
    assert len(problems.read(SHARED / file)) == count


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
