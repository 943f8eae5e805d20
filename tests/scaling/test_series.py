from __future__ import annotations

import pytest

from unmask.scaling.series import baseline_of, kind, label, pairs, series_name


@pytest.mark.parametrize(
    ("fields", "name", "words"),
    [
        ({"objective": "mdm"}, "mdm", "MDM"),
        ({"objective": "mlm", "mask_rate": 0.3}, "mlm@0.3", "MLM 30%"),
        ({"objective": "span", "mask_rate": 0.125}, "span@0.125", "span corruption 12.5%"),
        ({"objective": "arm", "unique_tokens": 1e6}, "arm@u1000000", "ARM, 1M unique"),
        ({"objective": "mlm", "mask_rate": 0.5, "unique_tokens": 1234567}, "mlm@0.5@u1234567", "MLM 50%, 1.23M unique"),
        ({"objective": "any_order"}, "any_order", "any order"),
    ],
)
def test_a_series_is_named_by_what_its_runs_share(fields, name, words):
    assert series_name(**fields) == name
    assert label(name) == words
    assert kind(name) == fields["objective"]


@pytest.mark.parametrize("name", ["a@b", "mlm@much", "@", "", "x@u", "two\nlines"])
def test_any_name_of_an_objective_is_its_own_label(name):
    assert label(name) == kind(name) == name


def test_series_are_compared_with_the_arm_on_the_same_data():
    assert baseline_of(["mdm", "arm"]) == "arm"
    assert baseline_of(["mdm", "arm@u500"]) == "arm@u500"
    assert baseline_of(["mdm", "mlm@0.15"]) == "mdm"
    names = ["mlm@0.3", "mdm@u100", "arm@u100", "arm", "mdm", "mdm@u900"]
    assert pairs(names) == [("mdm", "arm"), ("mdm@u100", "arm@u100"), ("mlm@0.3", "arm")]
    assert pairs(["mdm"]) == pairs([]) == []
