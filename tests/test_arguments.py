"""One-line complaints about wrong arguments."""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import pytest
import tyro

from unmask.arguments import parse
from unmask.errors import UnmaskError, UsageError


@dataclass(frozen=True)
class Inner:
    depth: int = 1

    def __post_init__(self) -> None:
        if self.depth < 1:
            raise UsageError(f"depth {self.depth} must be at least 1")


@dataclass(frozen=True)
class Options:
    """Write something."""

    model: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="MODEL")]]
    """The model's directory."""
    out: Path
    """Where to write."""
    steps: int = 8
    """Network calls."""
    guidance: float = 0.0
    """Weight."""
    sampler: Literal["ancestral", "confidence"] = "ancestral"
    """Sampler."""
    json: bool = False
    """Print JSON."""
    crop: tuple[int, int] = (0, 0)
    """First and last."""
    inner: Inner = field(default_factory=Inner)

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise UnmaskError(f"steps {self.steps} must be at least 1")
        if self.guidance < -1:
            raise ValueError(f"guidance {self.guidance} is too small")


def complaint(*argv: str, output: io.TextIOWrapper | None = None) -> str:
    output = output or io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    with contextlib.redirect_stdout(output), pytest.raises(UsageError) as caught:
        parse(Options, argv, prog="unmask write")
    return str(caught.value)


def test_arguments_become_the_dataclass() -> None:
    options = parse(Options, ["m", "--out", "a/b", "--steps", "3", "--inner.depth", "2"], prog="unmask write")
    assert options == Options(model="m", out=Path("a/b"), steps=3, inner=Inner(2))


def test_parsing_starts_from_the_default_that_is_given() -> None:
    start = Options(model="m", out=Path("o"), steps=5)
    assert parse(Options, ["--guidance", "0.5"], prog="p", default=start, config=[]) == Options(
        model="m", out=Path("o"), steps=5, guidance=0.5
    )


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "missing MODEL, --out PATH"),
        (["m"], "missing --out PATH"),
        (["m", "--foo", "1"], "missing --out PATH; unknown argument --foo, 1"),
        (["m", "--out", "o", "--steps", "x"], "--steps: 'x' is not a whole number"),
        (["m", "--out", "o", "--guidance", "big"], "--guidance: 'big' is not a number"),
        (["m", "--out", "o", "--sampler", "c"], "--sampler: 'c' must be one of 'ancestral', 'confidence'"),
        (["m", "--out", "o", "--steps"], "--steps: needs a value"),
        (["m", "--out", "o", "--crop", "1"], "--crop: needs 2 values"),
        (["m", "--out", "o", "n"], "unknown argument n"),
        (["m", "--out", "o", "--guidance", "-2"], "Options: guidance -2.0 is too small"),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])  # by which tyro chooses how to draw its box
def test_a_wrong_argument_is_one_line_with_option_value_and_where_to_read_on(
    argv: list[str], message: str, encoding: str
) -> None:
    output = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    assert complaint(*argv, output=output) == f"{message}; see unmask write --help"


def test_a_misspelt_option_gets_the_nearest() -> None:
    assert complaint("m", "--out", "o", "--stepz", "3").startswith("unknown argument --stepz, 3: did you mean --steps?")


def test_a_long_value_stays_in_one_piece() -> None:
    path = "/a-very-long-folder" * 40
    assert f"{path!r} must be one of" in complaint("m", "--out", "o", "--sampler", path)


def test_colours_do_not_reach_the_message(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm-256color")
    assert complaint("m", output=terminal) == "missing --out PATH; see unmask write --help"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--steps", "0"], "steps 0 must be at least 1"),
        (["--inner.depth", "0"], "depth 0 must be at least 1"),
    ],
)
def test_an_error_of_the_options_themselves_comes_through_unchanged(argv: list[str], message: str) -> None:
    with pytest.raises(UnmaskError) as caught:
        parse(Options, ["m", "--out", "o", *argv], prog="unmask write")
    assert str(caught.value) == message


def test_a_switch_has_one_form_unless_both_are_asked_for() -> None:
    argv = ["m", "--out", "o"]
    assert parse(Options, [*argv, "--json"], prog="p").json
    assert complaint(*argv, "--no-json").startswith("unknown argument --no-json")
    assert not parse(Options, [*argv, "--no-json"], prog="p", config=()).json


@dataclass(frozen=True)
class Wordy:
    """What is said of the command as a whole takes more than a line of eighty characters, so that it has to be wrapped.

    So does this.
    """

    text: str = ""
    """Where a docstring goes on
    in another line, help is one paragraph, wrapped where
    (parentheses or not) the terminal ends."""


def test_help_is_wrapped_where_the_terminal_ends_alone(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        parse(Wordy, ["--help"], prog="unmask write")
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    told = " ".join(" ".join(lines).replace("│", " ").split())
    assert "so that it has to be wrapped. So does this." in told
    (first,) = [line for line in lines if "Where a docstring" in line]
    assert "goes on in another line" in first


def test_help_is_printed_and_exits_with_success(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(Options, ["--help"], prog="unmask write")
    assert not caught.value.code
    printed = capsys.readouterr().out
    assert "Write something." in printed
    assert "Network calls." in printed
