"""The machine and the versions behind a result, in words, and places that libraries may write to."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.metadata
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, cast

from unmask.wording import counted

VERSIONED = ("unmask", "torch", "numpy", "scipy", "grain", "tokenizers", "transformers", "datasets", "safetensors")
"""The distributions whose versions can change a result."""

CACHES = {"MPLCONFIGDIR": "matplotlib", "XDG_CACHE_HOME": "cache"}
"""Variables that name a folder to write to, and what to call it below ours; Hugging Face's follows the second."""

MALLOPT = {
    -3: 2**30,  # M_MMAP_THRESHOLD: map nothing below 1 GiB on its own
    -1: 2**31 - 1,  # M_TRIM_THRESHOLD: give nothing back before 2 GiB are free at the end
    -2: 2**26,  # M_TOP_PAD: ask for 64 MiB more than is needed
}
"""glibc's parameters by their numbers in malloc.h, and what `keep_freed_memory` sets them to (an int each)."""


def describe() -> str:
    """The machine in words: processor, cores that this process may use, memory, accelerators, system.

    Accelerators are named only where torch is loaded already, so that a report needs no torch.
    """
    cores = usable_cores()
    parts = [f"{_processor()}, {counted(cores, 'core')}"]
    memory = _memory_bytes()
    if memory:
        parts.append(f"{memory / 2**30:.0f} GiB memory")
    parts.append(_accelerators())
    parts.append(f"{platform.system()} {platform.machine()}")
    return ", ".join(part for part in parts if part)


def versions() -> dict[str, str]:
    """The versions of Python and of each installed distribution in `VERSIONED`."""
    found = {"python": platform.python_version()}
    for name in VERSIONED:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def usable_cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def set_up_environment() -> None:
    """Give the libraries a temporary folder for their caches where the home directory cannot be written to.

    Variables that are set already stay as they are. Call it before importing matplotlib, datasets or transformers.
    """
    if _writable(Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())):
        return
    missing = {variable: name for variable, name in CACHES.items() if variable not in os.environ}
    if missing:
        ours = _private_folder()
        for variable, name in missing.items():
            os.environ[variable] = str(ours / name)


def keep_freed_memory(device: object = "cpu") -> bool:
    """Tell glibc to keep the memory that is freed instead of giving it back to the system; whether it listened.

    `device`, a torch.device or its name, is where the work is done: only for a CPU anything is told.

    Each step of a training or a sampler on a CPU frees and takes the same large tensors. By default glibc maps them
    anew each time, and the system clears every page at its first use: `benchmarks/train_step.py` has what that costs.
    Elsewhere than on Linux with glibc this does nothing. It holds for the rest of the process.
    """
    if str(device).partition(":")[0] != "cpu" or platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return all(mallopt(parameter, value) for parameter, value in MALLOPT.items())


def _writable(folder: Path) -> bool:
    """Whether `folder` can be written to, by doing it: a read-only mount does not show in the permissions."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def _private_folder() -> Path:
    """A folder below the temporary one that belongs to this user alone, the same one each time where possible."""
    folder = Path(tempfile.gettempdir()) / f"unmask-{os.getuid()}"
    with contextlib.suppress(OSError):
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
        if found.st_uid == os.getuid() and found.st_mode & 0o777 == 0o700 and not folder.is_symlink():
            return folder
    return Path(tempfile.mkdtemp(prefix="unmask-"))


def _processor() -> str:
    """The processor's name as the system gives it."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    if sys.platform == "darwin":
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            name = subprocess.run(
                ["sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True, check=True
            )
            return name.stdout.strip()
    return platform.processor() or platform.machine()


def _memory_bytes() -> int:
    """Memory in bytes that this process may use: the machine's, or the container's where that is less; 0 if unknown."""
    try:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return 0
    with contextlib.suppress(OSError, ValueError):
        total = min(total, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return total


def _accelerators() -> str:
    torch = cast(Any, sys.modules.get("torch"))
    if torch is None or not torch.cuda.is_available():
        return ""
    names = [str(torch.cuda.get_device_name(index)) for index in range(torch.cuda.device_count())]
    return ", ".join(f"{names.count(name)} x {name}" for name in dict.fromkeys(names))
