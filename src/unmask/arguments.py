"""Command-line arguments of one command: a dataclass parsed by tyro, with one-line errors.

tyro explains a wrong argument in a box of several lines. Here every complaint becomes one `UsageError` that names the
option, its value and what is allowed, as all of unmask's errors do.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib
import io
import os
import re
import shutil
import textwrap
from collections.abc import Generator, Sequence
from typing import Any, TypeVar, get_args
from unittest import mock

import tyro

from unmask.errors import UnmaskError, UsageError, unknown_name

T = TypeVar("T")

PLAIN_WORDS = {
    r"invalid literal for int\(\) with base 10: (.*)": r"\1 is not a whole number",
    r"could not convert string to float: (.*)": r"\1 is not a number",
    r"^invalid choice (.*) for argument '(.*)'. Expected one of \((.*?),?\)": r"\2: \1 must be one of \3",
    r"^Missing value for argument '(.*)'. Expected 1 values": r"\1: needs a value",
    r"^Missing value for argument '(.*)'. Expected (\d+) values": r"\1: needs \2 values",
}
"""What tyro and Python say of a wrong value, and how we say it."""


def parse(
    options: type[T],
    argv: Sequence[str],
    *,
    prog: str,
    default: T | None = None,
    config: Sequence[Any] = (tyro.conf.FlagCreatePairsOff,),
) -> T:
    """The `options` (a dataclass, or a union of them for subcommands) that `argv` asks for.

    `prog` is the command as typed ("unmask train"), `default` an instance to start from (a recipe's config) and
    `config` tyro's markers; with none of them, each switch has both forms, `--x` and `--no-x`. `--help` prints the
    help and exits 0. Raises `UsageError` for a wrong argument; errors that the dataclass itself raises come through
    unchanged.
    """
    subcommands = _subcommands(options)
    if subcommands and argv and not argv[0].startswith("-"):
        name, *rest = argv
        if name not in subcommands:
            raise unknown_name(f"command of {prog}", name, subcommands)
        return parse(subcommands[name], rest, prog=f"{prog} {name}", config=config)
    asked_for_help = any(argument in ("-h", "--help") for argument in argv)
    captured = io.StringIO()
    try:
        layout = _filled_help(getattr(options, "__doc__", None)) if asked_for_help else _unwrapped()
        with contextlib.redirect_stderr(captured), layout:
            start = tyro.MISSING_NONPROP if default is None else default
            return tyro.cli(options, prog=prog, args=list(argv), default=start, config=tuple(config))
    except SystemExit as stop:
        if not stop.code:
            raise
        original = _unmask_error_behind(stop)
        if original is not None:
            raise original from None
        raise UsageError(one_line(captured.getvalue(), prog)) from None


def one_line(box: str, prog: str) -> str:
    """The message in tyro's error `box`, in one line that ends with where to read more."""
    sections = _sections(box)
    message = " ".join(line.strip() for line in sections[0]) if sections else "wrong arguments"
    if message.startswith("Missing from "):
        names = [line.strip() for line in sections[0] if re.match(r" {4}\S", line)]
        message = "missing " + ", ".join(names)
        for title, *lines in sections[1:]:
            if title.startswith("Unrecognized options"):
                message += "; unknown argument " + ", ".join(line.strip() for line in lines)
    elif message.startswith("Unrecognized options: "):
        message = "unknown argument " + message.removeprefix("Unrecognized options: ")
        for title, *lines in sections[1:]:
            spellings = re.findall(r"(--[\w.-]+)", lines[0]) if title.startswith("Perhaps") and lines else []
            if spellings:
                typed = message.removeprefix("unknown argument ").split(",")[0]
                message += f": did you mean {max(spellings, key=lambda each: _likeness(each, typed))}?"
    else:
        message = re.sub(r"^Error parsing (\S+): ", r"\1: ", message.rstrip("."))
        for pythonic, plain in PLAIN_WORDS.items():
            message = re.sub(pythonic, plain, message)
    separator = "" if message.endswith("?") else ";"
    return f"{message}{separator} see {prog} --help"


def _subcommands(options: Any) -> dict[str, Any]:
    """The members by name of a union of commands, each annotated with `tyro.conf.subcommand`; of no union, none."""
    named = [(get_args(member)[0], getattr(get_args(member)[-1], "name", None)) for member in _members(options)]
    return {name: command for command, name in named if name}


def _members(options: Any) -> list[Any]:
    return [member for member in get_args(options) if len(get_args(member)) > 1]


def _likeness(one: str, other: str) -> float:
    return difflib.SequenceMatcher(None, one, other).ratio()


def _sections(box: str) -> list[list[str]]:
    """The lines of tyro's error `box`, without frame, title and colours, split at its horizontal rules."""
    lines = re.sub(r"\x1b\[[0-9;]*m", "", box).splitlines()
    if lines and lines[0].startswith("╭"):
        lines = [line.strip("│") for line in lines[1:-1]]
    else:  # where standard output is not UTF-8: no frame, and the title over a rule
        lines = [line[1:] for line in lines[2:]]
    sections: list[list[str]] = [[]]
    for line in (line[1:].rstrip() for line in lines):
        if re.fullmatch(r"[─-]+", line):
            sections.append([])
        elif line:
            sections[-1].append(line)
    return [section for section in sections if section]


def _unmask_error_behind(error: BaseException) -> UnmaskError | None:
    """The `UnmaskError` that tyro turned into this exit, if there was one."""
    behind: BaseException | None = error
    while behind is not None:
        if isinstance(behind, UnmaskError):
            return behind
        behind = behind.__context__
    return None


def _paragraphs(text: str) -> str:
    """`text` with the lines of each paragraph joined."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in re.split(r"\n[ \t]*\n", text.strip()))


@contextlib.contextmanager
def _filled_help(about: str | None) -> Generator[None]:
    """Let tyro wrap help anew where it keeps the ends of a docstring's lines, and `about`, which it does not wrap.

    tyro has no option for this. A version of it without the function that is replaced prints help as it does by itself.
    """
    width = shutil.get_terminal_size().columns
    whole = _paragraphs(about or "")
    filled = "\n\n".join(textwrap.fill(paragraph, width) for paragraph in whole.split("\n\n"))

    def lines(text: str) -> str:
        joined = _paragraphs(text)
        return filled if joined == whole else joined

    with contextlib.ExitStack() as replaced:
        with contextlib.suppress(ImportError, AttributeError):
            strings = importlib.import_module("tyro._strings")
            replaced.enter_context(mock.patch.object(strings, "remove_single_line_breaks", lines))
        yield


@contextlib.contextmanager
def _unwrapped() -> Generator[None]:
    """Let tyro draw its box as wide as the message: a path broken over two lines cannot be put together again."""
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "10000"
    try:
        yield
    finally:
        if before is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = before
