"""The loss and its gradients, from hidden states: ours against plain torch and torch's `linear_cross_entropy`.

    python benchmarks/loss.py [--json benchmarks/results/loss.json]

Each side in a process of its own, in turn, with glibc told to keep what it frees, so that page faults do not decide.
The baseline `plain` forms all logits (`cross_entropy(hidden @ head.T)`); `linear` is `linear_cross_entropy` as it
comes, `linear chunked` the same with `LinearCrossEntropyOptions()`. torch's chunked form takes no weight for each
position, which the 1/t of the bound needs, so all sides compute the unweighted sum here.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

SIDES = ("plain", "linear", "linear chunked", "ours")
SHAPES = ((1024, 256, 32000), (4096, 384, 32000), (2048, 192, 4096))
"""Scored positions, width, vocabulary."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2, help="processes of each side, in turn")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--side", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        side, *shape = options.side
        print(json.dumps(measure(side, *map(int, shape))))
        return
    rows = []
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(2**33), "MALLOC_TRIM_THRESHOLD_": str(2**33)}
    for shape in SHAPES:
        found: dict[str, list[dict]] = {side: [] for side in SIDES}
        for _ in range(options.rounds):
            for side in SIDES:
                command = [sys.executable, __file__, "--side", side, *map(str, shape)]
                done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
                found[side].append(json.loads(done.stdout.splitlines()[-1]))
        plain = statistics.median(found["plain"][0]["seconds"])
        for side, results in found.items():
            seconds = statistics.median(second for result in results for second in result["seconds"])
            if side == "plain":
                plain = seconds
            row = {
                "positions": shape[0],
                "width": shape[1],
                "vocabulary": shape[2],
                "side": side,
                "seconds": seconds,
                "speed_ratio": plain / seconds,
                "working_mib": statistics.median(result["working_mib"] for result in results),
                "loss": results[0]["loss"],
            }
            rows.append(row)
            print(
                f"{shape[0]} positions, width {shape[1]}, vocabulary {shape[2]}, {side:14s}: {seconds * 1e3:6.1f} ms, "
                f"{row['speed_ratio']:.2f}x plain, {row['working_mib']:5.0f} MiB, loss {row['loss']:.6g}",
                flush=True,
            )
    if options.json:
        from unmask import machine

        report = {"machine": machine.describe(), "versions": machine.versions(), "rows": rows}
        options.json.write_text(json.dumps(report, indent=2) + "\n")


def measure(side: str, positions: int, width: int, vocabulary: int) -> dict:
    import torch
    from torch.nn import functional as F

    from unmask.loss import weighted_cross_entropy

    generator = torch.Generator().manual_seed(0)
    hidden_ND = torch.randn(positions, width, generator=generator, requires_grad=True)
    head_VD = (0.1 * torch.randn(vocabulary, width, generator=generator)).requires_grad_()
    targets_N = torch.randint(vocabulary, (positions,), generator=generator)
    weights_N = torch.ones(positions)
    losses = {
        "plain": lambda: F.cross_entropy(hidden_ND @ head_VD.T, targets_N, reduction="sum"),
        "linear": lambda: F.linear_cross_entropy(hidden_ND, head_VD, targets_N, reduction="sum"),
        "linear chunked": lambda: F.linear_cross_entropy(
            hidden_ND, head_VD, targets_N, reduction="sum", options=torch.nn.LinearCrossEntropyOptions()
        ),
        "ours": lambda: weighted_cross_entropy(hidden_ND, head_VD, targets_N, weights_N),
    }
    idle = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds, loss = [], torch.zeros(())
    for number in range(6):
        hidden_ND.grad = head_VD.grad = None
        begun = time.perf_counter()
        loss = losses[side]()
        loss.backward()
        if number:
            seconds.append(time.perf_counter() - begun)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"seconds": seconds, "working_mib": (peak - idle) / 1024, "loss": loss.item()}


if __name__ == "__main__":
    main()
