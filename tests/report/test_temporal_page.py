"""What the temporal experiment's page says in words."""

from unmask.report import temporal_page


def model(percent, ci95, bound=False):
    return {
        "name": "arm:1",
        "objective": "arm",
        "factor": 1,
        "bound": bound,
        "perplexity_percent": {"value": percent, "ci95": ci95},
        "bits_per_byte": {"in-period": 2.0, "shifted": 1.9 if percent < 0 else 2.2},
    }


def test_a_model_that_is_better_on_later_text_is_said_to_be_lower():
    words = [
        temporal_page.findings({"models": [model(*case)], "comparisons": []})[0]
        for case in ((-1.13, None), (3.0, (-1.0, 7.0)))
    ]
    assert words[0].endswith("its perplexity is 1.1% lower on later text, its bits per byte 5.0% lower")
    assert "is 3.0% higher on later text (95% -1.0 to +7.0), its bits per byte 10.0% higher" in words[1]
