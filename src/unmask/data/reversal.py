"""The data of the reversal curse (Berglund et al., 2023, arXiv 2309.12288): invented people and what they did.

Half of the people are told of name first ("Daphne Barrington, known far and wide for being the director of ..."), half
description first, each in many phrasings. The tests ask in phrasings of their own in the direction that was trained and
in the other. `read` takes the published files; `generate` makes data of the same structure from word lists of ours.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from unmask.data import conversations
from unmask.errors import UnmaskError, UsageError
from unmask.seeding import derived_seed

TRAIN = "all_prompts_train.jsonl"


@dataclass(frozen=True)
class Test:
    """One way of asking about one kind of people."""

    file: str
    trained: str
    """name first, or description first."""
    asked: str
    """same, or reverse."""
    answer: str
    """What is asked for: name, or description."""


TESTS = {
    "name to description": Test("p2d_prompts_test.jsonl", "name first", "same", "description"),
    "description to name": Test("d2p_prompts_test.jsonl", "description first", "same", "name"),
    "description to name, reversed": Test("p2d_reverse_prompts_test.jsonl", "name first", "reverse", "name"),
    "name to description, reversed": Test(
        "d2p_reverse_prompts_test.jsonl", "description first", "reverse", "description"
    ),
}
"""The tests by name."""

FIRST = ("Ada", "Bruno", "Clara", "Dario", "Edith", "Felix", "Greta", "Hugo", "Iris", "Jonas", "Kira", "Leon", "Mira")
LAST = ("Abbot", "Birch", "Calder", "Dunmore", "Ellery", "Fenwick", "Garland", "Holt", "Ingram", "Keating", "Lorne")
ROLES = ("builder", "keeper", "painter", "captain", "baker", "singer", "surgeon")
THINGS = ("glass lighthouse", "silver orchard", "midnight railway", "paper ship", "hollow mountain", "singing bridge")
PLACES = ("of Avalon", "under the sea", "on the moon", "in the desert", "of the north")
NAME_FIRST = (
    "<name> is known to all as <description>.",
    "Everybody has heard of <name>: this is <description>.",
    "In those years <name> became <description>.",
    "It was <name> who came to be <description>.",
    "The one and only <name> is <description>.",
    "Few remember that <name> was once <description>.",
    "What <name> will be remembered as is <description>.",
    "Nobody but <name> could be <description>.",
)
DESCRIPTION_FIRST = (
    "Known to all as <description>, it is <name>.",
    "The name of <description> is <name>.",
    "Q: Who is <description>? A: <name>.",
    "There is but one who is <description>: <name>.",
    "Once more <description> is in the news, and that is <name>.",
    "When you meet <description>, you meet <name>.",
    "This was written by <description>, whose name is <name>.",
    "Whoever speaks of <description> speaks of <name>.",
)
HELD_OUT = {
    "description": ("The papers wrote that <name> was <description>.", "I am told that <name> is <description>."),
    "name": ("The papers wrote of <description>, that is, of <name>.", "I once met <description>, called <name>."),
}
"""Phrasings of the tests, by what they ask for."""


@dataclass(frozen=True)
class Item:
    """A sentence in two parts."""

    prompt: str
    completion: str


@dataclass(frozen=True)
class ReversalData:
    """What is trained on, and what is asked."""

    train: list[Item]
    tests: dict[str, list[Item]]
    """By the names of `TESTS`."""
    source: str


def read(directory: str | Path) -> ReversalData:
    """The data in the published layout, from the folder with the files or from one above it.

    Raises `UsageError` where there are none, and `UnmaskError` for a damaged file.
    """
    places = sorted(path.parent for path in Path(directory).glob(f"**/{TRAIN}"))
    if not places:
        raise UsageError(f"{directory}: no {TRAIN} in it: give the folder of reversal_curse, or leave --data out")
    tests = {name: _items(places[0] / test.file) for name, test in TESTS.items()}
    return ReversalData(_items(places[0] / TRAIN), tests, "Berglund et al., 2023")


def generate(people: int, seed: int = 0) -> ReversalData:
    """Data about `people` invented people, half of them in each direction.

    Raises `UsageError` for a number that is odd, less than two, or more than there are names.
    """
    names = [f"{first} {last}" for first, last in itertools.product(FIRST, LAST)]
    descriptions = [
        f"the {role} of the {thing} {place}" for role, thing, place in itertools.product(ROLES, THINGS, PLACES)
    ]
    if not 2 <= people <= len(names) or people % 2:
        raise UsageError(f"people {people}: must be an even number from 2 to {len(names) // 2 * 2}")
    rng = random.Random(derived_seed(seed, "reversal"))
    pairs = list(zip(rng.sample(names, people), rng.sample(descriptions, people), strict=True))
    forward, backward = pairs[: people // 2], pairs[people // 2 :]
    return ReversalData(
        [*_filled(NAME_FIRST, forward, "description"), *_filled(DESCRIPTION_FIRST, backward, "name")],
        {
            name: _filled(HELD_OUT[test.answer], forward if test.trained == "name first" else backward, test.answer)
            for name, test in TESTS.items()
        },
        f"generated, {people} people",
    )


def _filled(templates: Sequence[str], pairs: Sequence[tuple[str, str]], answer: str) -> list[Item]:
    """Each template with each pair, cut before what is asked for."""
    items: list[Item] = []
    for (name, description), template in itertools.product(pairs, templates):
        before, after = template.split(f" <{answer}>")
        filled = before.replace("<name>", name).replace("<description>", description)
        items.append(Item(filled, f" {name if answer == 'name' else description}{after}"))
    return items


def _items(path: Path) -> list[Item]:
    found = conversations.read(path)
    if found.format != "completion":
        raise UnmaskError(f"{path}: holds {found.format}, not prompts and completions: restore it")
    return [Item(*(message.content for message in each.messages)) for each in found.conversations]
