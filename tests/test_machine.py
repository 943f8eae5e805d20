"""The machine in words, and caches for a home directory that cannot be written to."""

from __future__ import annotations

import os
import platform
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch

from unmask import machine


def test_the_description_is_one_line_that_names_cores_and_system() -> None:
    description = machine.describe()
    assert "\n" not in description
    assert f"{machine.usable_cores()} core" in description
    assert os.uname().sysname in description


def test_the_description_loads_no_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    machine.describe()
    assert "torch" not in sys.modules


def test_accelerators_are_counted_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    class Cuda:
        names = ("A", "B", "A")

        def is_available(self) -> bool:
            return True

        def device_count(self) -> int:
            return len(self.names)

        def get_device_name(self, index: int) -> str:
            return self.names[index]

    class Torch:
        cuda = Cuda()

    monkeypatch.setitem(sys.modules, "torch", Torch())  # type: ignore[arg-type]
    assert "2 x A, 1 x B" in machine.describe()


def test_versions_name_python_and_what_is_installed() -> None:
    versions = machine.versions()
    assert versions["python"] == ".".join(map(str, sys.version_info[:3]))
    assert versions["torch"].startswith("2.")
    assert "unmask" in versions


@pytest.fixture
def no_caches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An environment that names no cache folders, and a temporary folder of its own."""
    for variable in machine.CACHES:
        monkeypatch.setenv(variable, "")  # so that it is restored afterwards
        monkeypatch.delenv(variable)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_a_writable_home_is_left_alone(no_caches: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(no_caches / "home"))
    machine.set_up_environment()
    assert not set(machine.CACHES) & set(os.environ)


def test_a_home_that_cannot_be_written_to_gets_private_temporary_caches(
    no_caches: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/proc/no-home")
    monkeypatch.setenv("MPLCONFIGDIR", "/chosen/by/the/user")
    machine.set_up_environment()
    assert os.environ["MPLCONFIGDIR"] == "/chosen/by/the/user"
    folder = Path(os.environ["XDG_CACHE_HOME"]).parent
    assert folder.parent == no_caches
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_cache_folder_that_others_could_write_to_is_not_used(
    no_caches: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/proc/no-home")
    planted = no_caches / f"unmask-{os.getuid()}"
    planted.mkdir()
    planted.chmod(0o777)
    machine.set_up_environment()
    assert Path(os.environ["XDG_CACHE_HOME"]).parent != planted


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_glibc_is_told_to_keep_what_is_freed() -> None:
    # in a process of its own, since it lasts: a block that was freed is taken again without new pages
    script = """
import resource
from unmask.machine import keep_freed_memory

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def take():
    before = faults()
    memory = bytearray(2**20)
    for place in range(0, 2**20, 4096):
        memory[place] = 1
    return faults() - before

by_default = [take() for _ in range(8)][-1]
assert keep_freed_memory()
print(by_default, [take() for _ in range(8)][-1])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    by_default, kept = map(int, done.stdout.split())
    assert kept < 10
    assert kept <= by_default


def test_nothing_is_told_for_another_device_than_a_cpu() -> None:
    assert not machine.keep_freed_memory("cuda:0")
    assert not machine.keep_freed_memory(torch.device("cuda"))


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert not machine.keep_freed_memory()
