import csv
import io
import math

import numpy as np
import pytest

from unmask.errors import UsageError
from unmask.evals import compare


def result(values, doc_ids=None, masks=0.01, calls=100, task="piqa"):
    figures = {"value": float(np.mean(values)), "stderr_items": 0.1, "stderr_estimate": masks}
    return {
        "unmask": {
            "tasks": {
                task: {"items": len(values), "network_calls": calls, "seconds": 2.0, "metrics": {"acc": figures}}
            },
            "items": {task: {"doc_id": doc_ids or list(range(len(values))), "acc": values}},
        }
    }


def test_differences_are_paired_on_the_items_in_common():
    first = result([1.0, 0.0, 1.0, 0.0], masks=0.03)
    other = result([1.0, 1.0, 1.0, 1.0], doc_ids=[1, 2, 3, 9], masks=0.04)
    rows = compare.compare([first, other], ["a", "b"])
    assert [(row.model, row.value) for row in rows] == [("a", 0.5), ("b", 1.0)]
    assert rows[0].difference is None
    assert rows[1].difference == pytest.approx(2 / 3)  # items 1, 2, 3: 1 - 0, 1 - 1, 1 - 0
    assert rows[1].difference_stderr_items == pytest.approx(np.std([1, 0, 1], ddof=1) / math.sqrt(3))
    assert rows[1].difference_stderr_estimate == pytest.approx(0.05)


def test_models_need_not_have_the_same_tasks():
    rows = compare.compare([result([1.0]), result([0.0], task="boolq")], ["a", "b"])
    assert [(row.task, row.model, row.difference) for row in rows] == [("piqa", "a", None), ("boolq", "b", None)]


def test_every_format_has_every_row():
    rows = compare.compare([result([1.0, 0.0]), result([0.0, 0.0], calls=None)], ["our_model", "100% & more"])
    table = list(csv.DictReader(io.StringIO(compare.comma_separated(rows))))
    assert [row["model"] for row in table] == ["our_model", "100% & more"]
    assert float(table[1]["difference"]) == -0.5
    assert table[1]["network_calls"] == ""
    assert compare.markdown(rows).count("\n") == 4
    assert r"our\_model" in compare.latex(rows)
    assert r"100\% \& more" in compare.latex(rows)
    assert "100% &amp; more" in compare.web_page(rows)


def test_latex_writes_signs_and_negative_numbers_as_it_must():
    row = compare.Row("a^b", "{~}", "c\\d$#", -0.5, None, 0.1, 3, None, 1.0, -0.25, None, None)
    line = compare.latex([row]).splitlines()[4]
    assert line.startswith(r"a\textasciicircum{}b & \{\textasciitilde{}\} & c\textbackslash{}d\$\# & $-$0.5000 &")
    assert "& $-$0.2500 &" in line


def test_names_repeat_their_folder_only_where_they_must(tmp_path):
    assert compare.names_of([tmp_path / "a.json", tmp_path / "b.json"]) == ["a", "b"]
    assert compare.names_of([tmp_path / "x/a.json", tmp_path / "y/a.json"]) == [
        str(tmp_path / "x/a"),
        str(tmp_path / "y/a"),
    ]


def test_nothing_to_compare_is_an_error():
    with pytest.raises(UsageError, match="at least one result"):
        compare.compare([], [])
