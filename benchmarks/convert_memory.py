"""Memory and time of a conversion, for a synthetic checkpoint of many shards, and what opening the result takes.

    python benchmarks/convert_memory.py [--layers 32 --width 1536] [--shard-mb 128] [--json benchmarks/results/...]

The checkpoint is a Llama in Transformers' layout, bfloat16, as safetensors and as pickles. Each side runs in a process
of its own; measured is the peak of resident memory (VmHWM, mapped files included) beyond what the process had after it
converted a tiny model, that is after all imports. The baseline of the conversion is what a short script does: all
shards into one dictionary, and `save_file`. A conversion waits until its file is on the disk, so the script's is
flushed too (its seconds without that stand beside); the two sides take turns, from a flushed disk, and the medians of
the rounds are compared. The baseline of opening is torch's way: a network with its usual initialisation,
then `load_state_dict`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

VOCABULARY = 32000
MIB = 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--width", type=int, default=1536)
    parser.add_argument("--shard-mb", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--side", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        side, source, out = options.side
        print(json.dumps(SIDES[side](Path(source), Path(out))))
        return

    from unmask import machine

    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for suffix in ("safetensors", "bin"):
            source = Path(folder) / suffix
            largest, total = write_checkpoint(source, options.layers, options.width, options.shard_mb * MIB, suffix)
            found: dict[str, list[dict[str, float]]] = {"convert": [], "script": []}
            for _ in range(options.rounds):
                for side, rounds in found.items():
                    out = Path(folder) / f"{suffix}-{side}"
                    shutil.rmtree(out, ignore_errors=True)
                    os.sync()
                    rounds.append(measured(side, source, out))
            sides = {side: medians(rounds) for side, rounds in found.items()}
            ours, script = sides["convert"], sides["script"]
            row = {"format": suffix, "checkpoint_mib": total / MIB, "largest_shard_mib": largest / MIB, **sides}
            row["peak_in_shards"] = ours["peak_mib"] * MIB / largest
            row["memory_ratio"] = ours["peak_mib"] / script["peak_mib"]
            row["speed_ratio"] = script["seconds"] / ours["seconds"]
            rows.append(row)
            print(
                f"{suffix}: {total / MIB:,.0f} MiB in shards of up to {largest / MIB:,.0f} MiB: peak "
                f"{ours['peak_mib']:,.0f} MiB beyond the imports, {row['peak_in_shards']:.2f} shards, "
                f"{row['memory_ratio']:.3f}x the script's {script['peak_mib']:,.0f} MiB; "
                f"{ours['seconds']:.1f} s, {row['speed_ratio']:.2f}x as fast as the script ({script['seconds']:.1f} s, "
                f"without flushing {script['unflushed_seconds']:.1f} s)"
            )
        model = Path(folder) / "safetensors-convert"
        opening = {side: measured(side, model, model) for side in ("load", "initialise-and-load")}
        ratio = opening["initialise-and-load"]["seconds"] / opening["load"]["seconds"]
        print(
            f"opening it: {opening['load']['seconds']:.2f} s and {opening['load']['peak_mib']:,.0f} MiB, {ratio:.2f}x "
            f"as fast as initialising first ({opening['initialise-and-load']['seconds']:.2f} s, "
            f"{opening['initialise-and-load']['peak_mib']:,.0f} MiB)"
        )
    if options.json:
        result = {"machine": machine.describe(), "versions": machine.versions(), "rounds": options.rounds}
        result |= {"conversion": rows, "opening": {**opening, "speed_ratio": ratio}}
        options.json.write_text(json.dumps(result, indent=2) + "\n")


def write_checkpoint(
    folder: Path, layers: int, width: int, shard_bytes: int, suffix: str, vocabulary: int = VOCABULARY
) -> tuple[int, int]:
    """Write a Llama of this shape in shards; bytes of the largest one, and of all."""
    import torch
    from safetensors.torch import save_file

    from unmask import llama_names
    from unmask.config import ModelConfig

    hidden = width * 8 // 3 // 64 * 64
    config = ModelConfig(layers, width // 64, width, hidden, vocabulary, 2048, causal=True)
    folder.mkdir(parents=True)
    shards: list[dict[str, torch.Tensor]] = [{}]
    sizes = [0]
    for name, shape in llama_names.shapes(config).items():
        tensor = torch.zeros(shape, dtype=torch.bfloat16)
        if sizes[-1] and sizes[-1] + tensor.nbytes > shard_bytes:
            shards.append({})
            sizes.append(0)
        shards[-1][name] = tensor
        sizes[-1] += tensor.nbytes
    stem = "model" if suffix == "safetensors" else "pytorch_model"
    names = [f"{stem}-{number + 1:05d}-of-{len(shards):05d}.{suffix}" for number in range(len(shards))]
    for name, shard in zip(names, shards, strict=True):
        save_file(shard, folder / name, {"format": "pt"}) if suffix == "safetensors" else torch.save(
            shard, folder / name
        )
    index = {tensor: name for name, shard in zip(names, shards, strict=True) for tensor in shard}
    (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps({"weight_map": index}))
    fields = {
        "model_type": "llama",
        "num_hidden_layers": layers,
        "num_attention_heads": width // 64,
        "hidden_size": width,
        "intermediate_size": hidden,
        "vocab_size": vocabulary,
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 2048,
    }
    (folder / "config.json").write_text(json.dumps(fields))
    return max(sizes), sum(sizes)


def measured(side: str, source: Path, out: Path) -> dict[str, float]:
    """One side in a process of its own: peak of memory beyond its imports, and seconds."""
    command = [sys.executable, __file__, "--side", side, str(source), str(out)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def medians(rounds: list[dict[str, float]]) -> dict[str, float]:
    """The median of each figure."""
    return {name: statistics.median(each[name] for each in rounds) for name in rounds[0]}


def convert(source: Path, out: Path) -> dict[str, float]:
    from unmask.convert import convert

    with tempfile.TemporaryDirectory() as folder:
        write_checkpoint(Path(folder) / "tiny", 1, 64, MIB, "safetensors")
        convert("hf", Path(folder) / "tiny", Path(folder) / "out")
    return timed(lambda: convert("hf", source, out))


def script(source: Path, out: Path) -> dict[str, float]:
    import torch
    from safetensors.torch import load_file, save_file

    def run() -> None:
        weights = {}
        for shard in sorted(source.glob("*-of-*")):
            safe = shard.suffix == ".safetensors"
            weights |= load_file(shard) if safe else torch.load(shard, weights_only=True)
        out.mkdir()
        save_file(weights, out / "model.safetensors")

    begun = time.perf_counter()
    found = timed(run)
    with (out / "model.safetensors").open("rb") as file:
        os.fsync(file.fileno())
    return {**found, "seconds": time.perf_counter() - begun, "unflushed_seconds": found["seconds"]}


def load(source: Path, out: Path) -> dict[str, float]:
    import torch

    import unmask

    return timed(lambda: total(unmask.load(source, "cpu", torch.bfloat16).model))


def initialise_and_load(source: Path, out: Path) -> dict[str, float]:
    import torch

    from unmask import language_model, model_directory
    from unmask.model import Transformer

    assert language_model

    def run() -> None:
        stored = model_directory.read(source)
        model = Transformer(stored.config).to(torch.bfloat16)
        model.load_state_dict(model_directory.fitting_weights(stored))
        total(model)

    return timed(run)


def total(model: object) -> float:
    """Something that reads all weights, so that mapped ones count."""
    return sum(float(parameter.sum()) for parameter in model.parameters())


SIDES = {"convert": convert, "script": script, "load": load, "initialise-and-load": initialise_and_load}


def timed(work) -> dict[str, float]:
    before = peak()
    begun = time.perf_counter()
    work()
    return {"peak_mib": (peak() - before) / MIB, "seconds": time.perf_counter() - begun}


def peak() -> int:
    """The peak of resident memory of this process in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    raise SystemExit("needs Linux: /proc/self/status has no VmHWM")


if __name__ == "__main__":
    main()
