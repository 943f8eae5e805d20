"""What `unmask gsm8k` and `unmask reversal` put into a folder before they train."""

import pytest

from unmask.data import tokenizer
from unmask.errors import UsageError
from unmask.recipes import small_tuning

LINES = [{"prompt": "1 + 1", "completion": "2"}]


def test_a_new_model_is_not_trained_where_one_of_another_size_was(tmp_path):
    known = tokenizer.byte_level()

    def new(size):
        return small_tuning.new_model(tmp_path / "start", size, known, "arm", 0, context_length=16)

    new("33K")
    assert new("16K") == new("16K")  # nothing was trained from the other
    (tmp_path / "run").mkdir()
    assert new("16K")
    before = (tmp_path / "start/model.safetensors").read_bytes()
    with pytest.raises(UsageError, match=r"start: holds a model of 16,\d+ parameters, and --size 33K has 32,\d+: give"):
        new("33K")
    assert (tmp_path / "start/model.safetensors").read_bytes() == before


def test_examples_are_not_written_over_those_that_a_model_was_trained_on(tmp_path):
    path = tmp_path / "examples.jsonl"
    small_tuning.examples_file(path, LINES * 3, "problems")
    small_tuning.examples_file(tmp_path / "left.jsonl", LINES, "sentences")
    small_tuning.examples_file(path, LINES, "problems")  # nothing was trained on the others
    (tmp_path / "mdm/run").mkdir(parents=True)
    assert small_tuning.examples_file(path, LINES, "problems") == path
    before = path.read_text()
    with pytest.raises(UsageError, match=r"examples.jsonl: holds other problems than these: give the options"):
        small_tuning.examples_file(path, LINES * 2, "problems")
    with pytest.raises(UsageError, match=r"examples.jsonl: is another command's: give another --out"):
        small_tuning.examples_file(tmp_path / "sentences.jsonl", LINES, "sentences")
    assert path.read_text() == before
    assert {each.name for each in tmp_path.iterdir()} == {"examples.jsonl", "left.jsonl", "mdm"}
