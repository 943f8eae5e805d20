import re

import pytest

from unmask.report import trace_page

PIECES = ["We", " <b>", " hold", " these", "&"]
TRACE = {
    "model": "runs/mdm",
    "mask_id": 9,
    "samples": [
        {
            "pieces": PIECES,
            "tokens": [1, 2, 3, 4, 5, 6],
            "reveal_steps": [-1, 0, 2, 2, 1, 2],
            "network_calls": 3,
            "sampler": "remask",
            "seed": 4,
            "steps": [
                {
                    "network_calls": 1,
                    "revealed": [
                        {"position": 1, "token": 2, "step": 0, "confidence": 0.9},
                        {"position": 3, "token": 7, "step": 0, "confidence": 0.1},
                    ],
                    "masked_again": [],
                },
                {
                    "network_calls": 2,
                    "revealed": [{"position": 4, "token": 5, "step": 1, "confidence": None}],
                    "masked_again": [3],
                },
                {
                    "network_calls": 3,
                    "revealed": [
                        {"position": 2, "token": 3, "step": 2, "confidence": 0.5},
                        {"position": 3, "token": 4, "step": 2, "confidence": 0.75},
                        {"position": 5, "token": 6, "step": 2, "confidence": 0.25},
                    ],
                    "masked_again": [],
                },
            ],
        }
    ],
}


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> str:
    return trace_page.write(TRACE, tmp_path_factory.mktemp("page") / "new" / "trace.html").read_text(encoding="utf-8")


def test_a_token_has_the_step_and_the_confidence_that_it_got_last():
    assert trace_page.reveals(TRACE["samples"][0], 5) == {1: (0, 0.9), 4: (1, None), 2: (2, 0.5), 3: (2, 0.75)}


def test_tokens_are_shaded_by_their_step_and_by_their_confidence(page):
    when, how_surely = re.findall(r"<blockquote>(.*?)</blockquote>", page)
    given = '<span class="given">We</span>'
    assert when.startswith(given)
    assert how_surely.startswith(given)
    spans = r'<span class="s(\d)" title="(.*?)">(.*?)</span>'
    titles = ["step 1 of 3, confidence 0.900", "step 3 of 3, confidence 0.500", "step 3 of 3, confidence 0.750"]
    titles += ["step 2 of 3"]
    texts = [" &lt;b&gt;", " hold", " these", "&amp;"]
    assert re.findall(spans, when) == list(zip("0552", titles, texts, strict=True))
    assert re.findall(spans, how_surely) == list(zip("0420", titles, texts, strict=True))


def test_the_states_on_the_way_have_blocks_for_masks(page):
    states = re.findall(r'<td class="n">(\d)</td><td class="n">(\d)</td><td><span class="wrap state">(.*?)<', page)
    mask = trace_page.MASK
    assert states == [
        ("1", "1", f"We &lt;b&gt;{mask} these{mask}"),
        ("2", "2", f"We &lt;b&gt;{mask}{mask}&amp;"),
        ("3", "3", "We &lt;b&gt; hold these&amp;"),
    ]


def test_the_page_tells_what_it_took(page):
    assert "remask, 3 steps, 3 network calls, seed 4" in page
    assert "1 token masked again on the way" in page
    assert "mean confidence 0.72, lowest 0.50" in page
    assert "<script" not in page


def test_control_characters_of_a_token_are_shown_as_their_pictures():
    sample = {**TRACE["samples"][0], "pieces": ["We", "\r", "\r\n", "\x07", "\x7f\x80"]}
    page = trace_page.page_html({**TRACE, "samples": [sample]})
    assert re.findall(r' title="[^"]*"(>[^<]*<)', page)[:4] == [">\u240d<", ">\u240d\n<", ">\u2407<", ">\u2421\ufffd<"]
    assert "\r" not in page
