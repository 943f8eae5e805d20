import io

import torch
from rich.console import Console

from unmask.samplers import Step
from unmask.view import EARLIER, FRESH, GIVEN, MASK, MASKED, DenoisingView

MASK_ID = 9


def pieces(tokens):
    return ["" if token == MASK_ID else f"w{token} " for token in tokens]


def styles(text):
    return {text.plain[span.start : span.end]: span.style for span in text.spans}


def test_given_fresh_earlier_and_masked_tokens_look_different():
    view = DenoisingView(pieces, MASK_ID)
    text = view.render([1, 2, MASK_ID, 3, MASK_ID], [-1, 4, -1, 0, -1], 5)
    assert text.plain == f"w1 w2 {MASK}w3 {MASK}\n\n2 masked, step 5, 5 network calls"
    found = styles(text)
    assert (found["w1 "], found["w2 "], found["w3 "], found[MASK]) == (GIVEN, FRESH, EARLIER, MASKED)


def test_text_that_looks_like_markup_is_shown_as_it_is():
    view = DenoisingView(lambda tokens: ["[bold]x[/bold]"] * len(tokens), MASK_ID)
    assert view.render([1], [0], 1).plain.startswith("[bold]x[/bold]")


def test_the_view_draws_each_step():
    written = io.StringIO()
    console = Console(file=written, force_terminal=True, width=60)
    tokens_BL, steps_BL = torch.tensor([[1, MASK_ID]]), torch.tensor([[0, -1]])
    with DenoisingView(pieces, MASK_ID, console) as view:
        view.on_step(Step(tokens_BL, steps_BL, torch.full((1, 2), 0.5), torch.tensor([1])))
        view.on_step(Step(torch.tensor([[1, 2]]), torch.tensor([[0, 1]]), torch.full((1, 2), 0.5), torch.tensor([2])))
    assert "w2" in written.getvalue()
    assert "0 masked" in written.getvalue()
