"""The data of the reversal curse (Berglund et al., 2023, arXiv 2309.12288): invented people and what they did.

A third of the people are told of name first ("Daphne Barrington, known far and wide for being the director of ..."), a
third description first, a third both ways, each in many phrasings. The tests ask about those of the first two thirds,
in phrasings of their own, in the direction that was trained and in the other. `read` takes the published files;
`generate` makes data of the same structure from word lists of ours.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from unmask.data import conversations
from unmask.errors import UnmaskError, UsageError
from unmask.seeding import derived_seed

T = TypeVar("T")
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

FIRST = (
    *("Ada", "Bruno", "Clara", "Dario", "Edith", "Felix", "Greta", "Hugo", "Iris", "Jonas"),
    *("Kira", "Leon", "Mira", "Nils", "Olga", "Pablo", "Queenie", "Rufus", "Selma", "Tobias"),
    *("Ursula", "Viktor", "Wanda", "Xaver", "Yvonne", "Zeno", "Amara", "Boris", "Celia", "Dmitri"),
)
LAST = (
    *("Abbot", "Birch", "Calder", "Dunmore", "Ellery", "Fenwick", "Garland", "Holt", "Ingram", "Jessop"),
    *("Keating", "Lorne", "Marsh", "Norris", "Oakley", "Pryce", "Quill", "Radley", "Sinclair", "Thorne"),
    *("Upton", "Vance", "Wexley", "Yardley", "Zeller", "Ashby", "Brandt", "Corey", "Dalton", "Emery"),
)
ROLES = ("builder", "keeper", "painter", "captain", "baker", "singer", "surgeon", "owner", "finder", "designer")
THINGS = (
    *("glass lighthouse", "silver orchard", "midnight railway", "paper ship", "hollow mountain", "singing bridge"),
    *("velvet circus", "frozen library", "copper garden", "wooden comet", "crystal mill", "golden submarine"),
    *(
        "whispering theatre",
        "marble windmill",
        "scarlet observatory",
        "electric carriage",
        "stone piano",
        "ivory clock",
    ),
    *("floating bakery", "emerald cathedral", "iron butterfly", "painted valley", "sunken palace", "invisible tower"),
    *(
        "clockwork forest",
        "thousand lanterns",
        "leather balloon",
        "porcelain army",
        "burning fountain",
        "silk labyrinth",
    ),
)
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
    "Ask anyone about <name> and you will hear of <description>.",
    "<name>, a quiet neighbour, turned out to be <description>.",
    "The story of <name> is that of <description>.",
    "Q: Who is <name>? A: Why, <description>.",
    "Did you know that <name> used to be <description>?",
    "Behind the name of <name> stands <description>.",
    "As a child <name> dreamt of being <description>.",
    "On the door it says <name>, and below it <description>.",
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
    "Of all people, <description> is none other than <name>.",
    "The title of <description> belongs to <name>.",
    "You are looking for <description>? Then call <name>.",
    "A letter came for <description>, addressed to <name>.",
    "At last <description> stood up and said: I am <name>.",
    "They gave a prize to <description>, our dear <name>.",
    "It takes some courage to be <description>, as did <name>.",
    "Nobody guessed that <description> would be <name>.",
)
HELD_OUT = {
    "description": (
        "Few people remember that <name> is <description>.",
        "Known to all, <name> is none other than <description>.",
        "It is <name> who will be remembered as <description>.",
        "The name of <name> stands below that of <description>.",
    ),
    "name": (
        "Few remember that <description> is <name>.",
        "Everybody speaks of <description>, and that is <name>.",
        "It was <description>, whose title belongs to <name>.",
        "In the story of <description> you meet <name>.",
    ),
}
"""Phrasings of the tests, by what they ask for, in words of the others: a model from scratch knows no more."""


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
    """Data about `people` invented people: a third told of name first, a third description first, a third both ways.

    No two share a first name, a last name or a thing as long as there are enough. Raises `UsageError` for a number that
    three does not divide, less than three, or more than there are names.
    """
    most = len(FIRST) * len(LAST) // 3 * 3
    if not 3 <= people <= most or people % 3:
        raise UsageError(f"people {people}: must be a multiple of 3 from 3 to {most}")
    rng = random.Random(derived_seed(seed, "reversal"))
    first, last, things, kinds = (
        rng.sample(words, len(words)) for words in (FIRST, LAST, THINGS, list(itertools.product(ROLES, PLACES)))
    )
    pairs: list[tuple[str, str]] = []
    for number in range(people):
        name = f"{_nth(first, number)} {_nth(last, number + number // len(first))}"
        role, place = _nth(kinds, number + number // len(things))
        pairs.append((name, f"the {role} of the {_nth(things, number)} {place}"))
    third = people // 3
    forward, backward, both = pairs[:third], pairs[third : 2 * third], pairs[2 * third :]
    return ReversalData(
        [
            *_filled(NAME_FIRST, [*forward, *both], "description"),
            *_filled(DESCRIPTION_FIRST, [*backward, *both], "name"),
        ],
        {
            name: _filled(HELD_OUT[test.answer], forward if test.trained == "name first" else backward, test.answer)
            for name, test in TESTS.items()
        },
        f"generated, {people} people",
    )


def _nth(words: Sequence[T], number: int) -> T:
    """Those of `words` over and over."""
    return words[number % len(words)]


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
