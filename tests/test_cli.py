"""The command line: help, dispatch, exit statuses, and one line instead of a traceback."""

from __future__ import annotations

import errno
import importlib
import importlib.metadata
import os
import pkgutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import unmask.commands
from unmask import cli
from unmask.errors import UnmaskError, UsageError

HEAVY = {"torch", "numpy", "scipy", "matplotlib", "transformers", "datasets", "grain", "tyro", "rich"}


def unmask_process(*argv: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "unmask", *argv], capture_output=True, text=True, check=False, timeout=300, **options
    )


# Whole processes


def test_help_teaches_every_command_in_the_order_of_a_first_use() -> None:
    finished = unmask_process("--help")
    assert finished.returncode == 0
    assert finished.stderr == ""
    positions = [finished.stdout.index(f"\n  {name} ") for name in cli.COMMANDS]
    assert positions == sorted(positions)
    for command in cli.COMMANDS.values():
        assert command.summary in finished.stdout
        assert command.example in finished.stdout
    assert max(map(len, finished.stdout.splitlines())) <= 120


def test_help_imports_nothing_heavy() -> None:
    program = "import sys; from unmask.cli import main; main(['--help']); print(*sys.modules, file=sys.stderr)"
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not HEAVY & set(finished.stderr.split())


def test_no_command_shows_the_help() -> None:
    assert unmask_process().stdout == unmask_process("help").stdout == unmask_process("-h").stdout


def test_version_is_the_installed_one() -> None:
    assert unmask_process("--version").stdout == f"unmask {importlib.metadata.version('unmask')}\n"


def test_the_script_and_the_module_are_the_same() -> None:
    script = Path(sys.executable).with_name("unmask")
    finished = subprocess.run([script, "--version"], capture_output=True, text=True, check=True)
    assert finished.stdout == unmask_process("--version").stdout


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (["trian"], "unknown command 'trian': did you mean 'train'? known: "),
        (["--size", "6M"], "unknown option '--size' before a command: see unmask --help"),
    ],
)
def test_an_unknown_command_is_one_line_and_exits_2(argv: list[str], line: str) -> None:
    finished = unmask_process(*argv)
    assert finished.returncode == 2
    assert finished.stdout == ""
    assert finished.stderr.startswith(f"unmask: error: {line}")
    assert finished.stderr.count("\n") == 1


def test_a_reader_that_closes_the_pipe_is_no_error() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    finished = subprocess.run(
        [sys.executable, "-m", "unmask", "--help"], stdout=writing, stderr=subprocess.PIPE, check=False
    )
    os.close(writing)
    assert finished.returncode == 141
    assert finished.stderr == b""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full to stand for a full disk")
def test_a_full_disk_is_one_line_and_exits_1() -> None:
    with Path("/dev/full").open("w") as full:
        finished = subprocess.run(
            [sys.executable, "-m", "unmask", "--help"], stdout=full, stderr=subprocess.PIPE, check=False, text=True
        )
    assert finished.returncode == 1
    assert finished.stderr == ("unmask: error: No space left on device: free some space, then run the command again\n")


@pytest.mark.parametrize("name", list(cli.COMMANDS))
def test_every_command_has_a_help_of_its_own(name: str) -> None:
    finished = unmask_process(name, "--help", env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert finished.returncode == 0, finished.stderr
    assert f"unmask {name}" in finished.stdout


@pytest.mark.parametrize("name", list(cli.COMMANDS))
def test_every_command_refuses_an_unknown_option_in_one_line(name: str) -> None:
    finished = unmask_process(name, "--no-such-option", "1", env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert finished.returncode == 2, finished.stderr
    assert finished.stderr.startswith("unmask: error: ")
    assert finished.stderr.count("\n") == 1


def test_the_help_lists_the_commands_that_there_are() -> None:
    modules = {
        module.name.replace("_", "-"): importlib.import_module(f"unmask.commands.{module.name}")
        for module in pkgutil.iter_modules(unmask.commands.__path__)
    }
    runnable = {name for name, module in modules.items() if hasattr(module, "run") or hasattr(module, "main")}
    assert runnable == set(cli.COMMANDS)


# Dispatch and errors, with a command that does what the test says


@dataclass(frozen=True)
class Options:
    """Stand-in for a command's options."""

    steps: int = 1
    """Steps."""


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Put a function in the place of `unmask prepare`."""

    def install(run: Callable[[Any], None], *, as_main: bool = False) -> None:
        module: Any = ModuleType("unmask.commands.prepare")
        if as_main:
            module.main = run
        else:
            module.Options, module.run = Options, run
        monkeypatch.setitem(sys.modules, "unmask.commands.prepare", module)

    return install


def raising(error: BaseException) -> Callable[[Any], None]:
    def run(options: Any) -> None:
        raise error

    return run


def test_options_are_parsed_and_handed_to_run(command: Callable[..., None]) -> None:
    seen: list[Any] = []
    command(seen.append)
    assert cli.main(["prepare", "--steps", "3"]) == 0
    assert seen == [Options(steps=3)]


def test_a_command_with_main_gets_the_arguments_as_typed(command: Callable[..., None]) -> None:
    seen: list[Any] = []
    command(seen.append, as_main=True)
    assert cli.main(["prepare", "recipe", "--debug", "--any", "thing"]) == 0
    assert seen == [["recipe", "--any", "thing"]]


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (UnmaskError("shard 3 is cut:\nprepare it again"), 1, "shard 3 is cut: prepare it again"),
        (UsageError("steps 0 must be at least 1"), 2, "steps 0 must be at least 1"),
        (
            OSError(errno.ENOSPC, "No space left on device", "runs/a"),
            1,
            "runs/a: No space left on device: free some space, then run the command again",
        ),
        (
            PermissionError(errno.EACCES, "Permission denied", "model"),
            1,
            "model: Permission denied: check its permissions, or choose another place",
        ),
        (
            RuntimeError("a\nbug"),
            1,
            "RuntimeError: a bug (run again with --debug for the traceback)",
        ),
        (KeyError(), 1, "KeyError: no message (run again with --debug for the traceback)"),
    ],
)
def test_an_error_is_one_line_with_its_status_and_no_traceback(
    error: Exception, status: int, line: str, command: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    command(raising(error))
    assert cli.main(["prepare"]) == status
    captured = capsys.readouterr()
    assert captured.err == f"unmask: error: {line}\n"
    assert captured.out == ""


@pytest.mark.parametrize("argv", [["--debug", "prepare"], ["prepare", "--debug"]])
def test_debug_adds_the_traceback_anywhere(
    argv: list[str], command: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    command(raising(UsageError("steps 0 must be at least 1")))
    assert cli.main(argv) == 2
    *traceback, line = capsys.readouterr().err.splitlines()
    assert traceback[0] == "Traceback (most recent call last):"
    assert line == "unmask: error: steps 0 must be at least 1"


def test_a_wrong_option_of_a_command_exits_2(command: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    command(raising(AssertionError("must not run")))
    assert cli.main(["prepare", "--steps", "many"]) == 2
    assert capsys.readouterr().err == (
        "unmask: error: --steps: 'many' is not a whole number; see unmask prepare --help\n"
    )


def test_an_interruption_exits_130_with_a_line(
    command: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    command(raising(KeyboardInterrupt()))
    assert cli.main(["prepare"]) == 130
    assert capsys.readouterr().err == "\nunmask: interrupted\n"


@pytest.mark.parametrize(
    ("rank", "error", "printed"),
    [
        ("0", UsageError("wrong"), "unmask: error: process 0: wrong\n"),
        ("1", UsageError("wrong"), ""),
        ("1", UnmaskError("failed"), "unmask: error: process 1: failed\n"),
    ],
)
def test_of_several_processes_only_the_first_speaks_of_a_usage_error(
    rank: str,
    error: Exception,
    printed: str,
    command: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RANK", rank)
    command(raising(error))
    assert cli.main(["prepare"]) == error.exit_status  # type: ignore[attr-defined]
    assert capsys.readouterr().err == printed
