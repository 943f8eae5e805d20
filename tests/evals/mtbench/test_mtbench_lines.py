"""JSON lines that survive a kill."""

import json

import pytest

from unmask.errors import UnmaskError, UsageError
from unmask.evals.journal import Journal
from unmask.evals.mtbench import lines


def test_what_is_written_can_be_read(tmp_path):
    path = tmp_path / "deep" / "file.jsonl"
    with Journal(path) as journal:
        journal.write({"a": 1})
        assert [record for record, _ in lines.read(path)] == [{"a": 1}]  # at once
        journal.write({"a": "ü\u2028\n"})
    with Journal(path) as journal:
        journal.write({"a": 3})
    assert [record["a"] for record, _ in lines.read(path)] == [1, "ü\u2028\n", 3]
    assert lines.read(path)[2][1].endswith("line 3")


@pytest.mark.parametrize("cut", range(1, 10))
def test_a_last_line_that_was_cut_short_is_left_out_and_taken_off(tmp_path, cut):
    path = tmp_path / "file.jsonl"
    whole = json.dumps({"a": 1}) + "\n" + json.dumps({"a": 2}) + "\n"
    path.write_text(whole[:-cut])
    expected = [1, 2] if cut == 1 else [1]  # only the end of the line is missing
    assert [record["a"] for record, _ in lines.read(path)] == expected
    with Journal(path) as journal:
        journal.write({"a": 3})
    assert [record["a"] for record, _ in lines.read(path)] == [*expected, 3]


@pytest.mark.parametrize(
    ("content", "error", "told"),
    [
        (b"", UsageError, "is empty"),
        (b"\n\n", UsageError, "is empty"),
        (b'{"a": \n{}\n', UnmaskError, "line 1: not JSON"),
        (b"[1]\n", UnmaskError, "line 1: no JSON object"),
        (b'{"a": "\xff"}\n', UnmaskError, "not UTF-8"),
    ],
)
def test_a_damaged_file_is_told_with_its_place(tmp_path, content, error, told):
    (tmp_path / "file.jsonl").write_bytes(content)
    with pytest.raises(error, match=told):
        lines.read(tmp_path / "file.jsonl")


def test_a_missing_file_is_told_with_its_option(tmp_path):
    with pytest.raises(UsageError, match=r"--questions .*absent: no such file"):
        lines.read(tmp_path / "absent", "--questions")
    with pytest.raises(UsageError, match="a folder"):
        lines.read(tmp_path)
