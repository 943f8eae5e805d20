"""A conversion takes the memory of one shard and a little, however large the checkpoint is."""

import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[2] / "benchmarks/convert_memory.py"
MIB = 2**20


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="the peak of memory is read from /proc")
@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_the_peak_of_memory_is_near_one_shard(suffix, tmp_path):
    write = runpy.run_path(str(BENCHMARK))["write_checkpoint"]
    shard, total = write(tmp_path / "source", 16, 768, 24 * MIB, suffix, 2000)
    assert total > 8 * shard
    command = [sys.executable, str(BENCHMARK), "--side", "convert", str(tmp_path / "source"), str(tmp_path / "out")]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert (tmp_path / "out/model.safetensors").stat().st_size > total
    assert found["peak_mib"] * MIB < 1.25 * shard + 24 * MIB
