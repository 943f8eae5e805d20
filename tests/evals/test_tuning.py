import pytest

from small_benchmarks import data_folder, language_model
from unmask.errors import UsageError
from unmask.evals.tuning import Tuning, split_items, tune


def test_items_that_choose_are_never_reported():
    choose_on, report_on = split_items(50, 0.2, seed=3)
    assert len(choose_on) == 10
    assert sorted(choose_on + report_on) == list(range(50))
    assert split_items(50, 0.2, seed=3) == (choose_on, report_on)
    assert split_items(50, 0.2, seed=4) != (choose_on, report_on)
    for total, share in ((3, 0.1), (1, 0.5)):
        with pytest.raises(UsageError, match="leaves nothing"):
            split_items(total, share, 0)
    with pytest.raises(UsageError, match="between 0 and 1"):
        Tuning("piqa", share=1.0).check()


def test_what_is_best_on_one_part_is_reported_on_the_other(tmp_path):
    data_dir = data_folder(tmp_path)
    steps = []
    tuning = Tuning("piqa", data_dir, weights=(0.0, 2.0), estimators=("auto",), share=0.5, num_samples=4)
    found = tune(language_model(causal=False), tuning, on_step=steps.append)
    chosen = max(found["tried"], key=lambda each: (each["value"], -each["guidance"]))
    assert found["chosen"] == {"guidance": chosen["guidance"], "estimator": "auto"}
    assert all(each["items"] == 3 for each in [*found["tried"], *found["reported"].values()])
    assert not set(found["items"]["chosen_on"]) & set(found["items"]["reported_on"])
    assert len(steps) == 2 + len(found["reported"])
    if chosen["guidance"]:
        assert found["reported"]["without guidance, at equal network calls"]["num_samples"] == 8


def test_an_autoregressive_model_has_no_guidance_to_tune(tmp_path):
    with pytest.raises(UsageError, match="no mask token"):
        tune(language_model(causal=True), Tuning("piqa", tmp_path))
