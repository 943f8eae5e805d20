from __future__ import annotations

import dataclasses

import pytest

import synthetic_study as synthetic
from unmask.errors import UsageError
from unmask.scaling import points
from unmask.scaling.points import Point

GOOD = "objective,flops,params,tokens,loss\nmdm,6e12,1e5,1e7,5.1\nmdm,6e12,2e5,5e6,5.0\n"


def read(tmp_path, content: str | bytes):
    path = tmp_path / "points.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return points.read_csv(path)


def test_a_csv_is_read_with_its_extra_columns_ignored(tmp_path):
    found = read(
        tmp_path,
        "note, loss ,objective,flops,params,tokens,unique_tokens\n"
        "first,5.1,mdm,6e12,1e5,1e7,\n\nb,5.0,arm,6e12,1e5,1e7,2e6\n",
    )
    assert found == [
        Point("mdm", 6e12, 1e5, 1e7, 5.1),
        Point("arm", 6e12, 1e5, 1e7, 5.0, unique_tokens=2e6),
    ]


def test_a_csv_with_a_byte_order_mark_is_read(tmp_path):
    assert len(read(tmp_path, b"\xef\xbb\xbf" + GOOD.encode())) == 2


def test_points_survive_being_written_and_read(tmp_path):
    before = [dataclasses.replace(p, name=f"run {i}", convention="6nd") for i, p in enumerate(synthetic.points([1e12]))]
    points.write_csv(before, tmp_path / "points.csv")
    assert points.read_csv(tmp_path / "points.csv") == before


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("objective,flops,params,loss\nmdm,1,1,1\n", r"points\.csv: missing columns tokens \(found: objective, flops"),
        ("", r"missing columns objective, flops, params, tokens, loss \(found: nothing\)"),
        (GOOD + "mdm,abc,1e5,1e7,5.1\n", r"line 4: flops 'abc' is not a number"),
        (GOOD + "mdm,6e12,1e5,1e7\n", r"line 4: loss '' is not a number"),
        (GOOD + "mdm,6e12,-1e5,1e7,5.1\n", r"line 4: params -1e5 must be a positive number"),
        (GOOD + "mdm,6e12,1e5,1e7,nan\n", r"line 4: loss nan must be a positive number"),
        (GOOD + "mdm,6e12,1e5,inf,0\n", r"line 4: tokens inf must be .*; line 4: loss 0 must be"),
        (GOOD + ",6e12,1e5,1e7,4\n", r"line 4: objective is empty"),
        (GOOD + "mdm,6e12,1e5,1e7,5.1\n", r"line 4 repeats line 2: remove one"),
        (GOOD + "mdm,8.4e12,1e5,1e7,4.9\n", r"mixed FLOP conventions: flops is 6 N D at line 2 but 1\.40 times"),
        (b"objective,flops\xff", r"is not a CSV file in UTF-8"),
    ],
)
def test_bad_input_gets_one_line_that_names_the_file_and_the_place(tmp_path, content, told):
    with pytest.raises(UsageError, match=told) as error:
        read(tmp_path, content)
    assert "\n" not in str(error.value)
    assert "points.csv" in str(error.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"absent\.csv: cannot be read: No such file"):
        points.read_csv(tmp_path / "absent.csv")


def test_many_problems_are_counted_not_listed(tmp_path):
    with pytest.raises(UsageError, match="and 7 more"):
        read(tmp_path, "objective,flops,params,tokens,loss\n" + "mdm,x,1,1,1\n" * 10)


def test_conventions_that_the_points_name_must_agree(tmp_path):
    rows = "objective,flops,params,tokens,loss,flop_convention\nmdm,6e12,1e5,1e7,5,6nd\nmdm,6e13,1e5,1e8,4,full\n"
    with pytest.raises(UsageError, match=r"mixed FLOP conventions: 6nd \(line 2\), full \(line 3\)"):
        read(tmp_path, rows)


def test_budgets_hold_points_whose_flops_differ_by_less_than_a_step():
    near = [Point("mdm", flops, 1e5, 1e7, 5.0) for flops in (0.97e12, 1e12, 4e12, 0.99e12)]
    found = points.budgets(near)
    assert [len(budget.points) for budget in found] == [3, 1]
    assert found[0].flops == pytest.approx((0.97 * 1 * 0.99) ** (1 / 3) * 1e12)


def test_runs_that_repeat_different_amounts_of_data_are_series_apart():
    few, some, many = (Point("mdm", 6e12, 1e5, 1e7, 5.1, unique_tokens=unique) for unique in (1e6, 5e6, 2e7))
    arm = Point("arm", 6e12, 1e5, 1e7, 5.0, unique_tokens=2e7)
    found = points.split_by_data([few, some, many, arm])
    # what runs on new data alone keeps its name, and is compared with the like
    assert [each.objective for each in found] == ["mdm@u1000000", "mdm@u5000000", "mdm", "arm"]
    assert points.split_by_data(found) == found


def test_limits_that_no_run_reaches_make_no_series():
    given = [Point("mdm", 6e12, 1e5, 1e7, 5.1, unique_tokens=unique) for unique in (None, 1e7, 2e7)]
    assert points.split_by_data(given) == given
    alike = [Point("mdm", 6e12, n, 1e12 / n, 5.1, unique_tokens=2e6) for n in (1e5, 1e6)]
    assert points.split_by_data(alike) == alike
