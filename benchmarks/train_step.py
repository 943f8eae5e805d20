"""Training steps on this machine: ours against a plain reference, in one run.

    python benchmarks/train_step.py [--sizes 6M 19M] [--lengths 256 1024] [--json benchmarks/results/train_step.json]

The reference does as the paper's released code: logits for every position, the masked ones gathered for the
cross-entropy, AdamW as torch has it by default. Both sides train the same weights on the same masked batch, each in a
process of its own, several times in turn, with the same threads and the same allocator (`--allocator keep` tells glibc
to keep what it frees, which spares page faults; the default is the system's). Printed for each: tokens/s, the peak of
resident memory, also without what an idle process has after its imports, and useful FLOPs (6 N + attention + the head
on the scored positions) as a share of the measured peak of float32 matrix products.
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

VOCABULARY = 32000
KEEP = {
    "MALLOC_MMAP_THRESHOLD_": str(2**33),
    "MALLOC_TRIM_THRESHOLD_": str(2**33),
    "MALLOC_TOP_PAD_": str(2**26),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["6M", "19M"])
    parser.add_argument("--lengths", nargs="+", type=int, default=[256, 1024])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=5, help="timed steps of each process, after two to warm up")
    parser.add_argument("--rounds", type=int, default=2, help="processes of each side, in turn")
    parser.add_argument("--allocator", nargs="+", choices=["default", "keep"], default=["default", "keep"])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--side", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        print(json.dumps(measure(options.side, options.sizes[0], options.lengths[0], options.batch, options.steps)))
        return

    rows = []
    for allocator in options.allocator:
        for size in options.sizes:
            for length in options.lengths:
                row = compare(size, length, options, allocator)
                rows.append(row)
                print(
                    f"{size:>4} length {length:4d}, {allocator:7s} allocator, {row['scored_share']:.0%} scored: "
                    f"{row['ours']['tokens_per_second']:6.0f} tokens/s, {row['speed_ratio']:.2f}x the reference; "
                    f"memory {row['ours']['peak_mib']:5.0f} MiB, {row['memory_ratio']:.2f}x "
                    f"({row['working_memory_ratio']:.2f}x beyond the imports); "
                    f"{row['ours']['share_of_peak']:.0%} of the peak "
                    f"(reference {row['reference']['share_of_peak']:.0%}); "
                    f"losses differ by {row['largest_loss_difference']:.1e}",
                    flush=True,
                )
    if options.json:
        from unmask import machine

        report = {"machine": machine.describe(), "versions": machine.versions(), "batch": options.batch, "rows": rows}
        options.json.write_text(json.dumps(report, indent=2) + "\n")


def compare(size: str, length: int, options: argparse.Namespace, allocator: str) -> dict:
    """Both sides, in turn; medians over all their steps."""
    results: dict[str, list[dict]] = {"reference": [], "ours": []}
    for _ in range(options.rounds):
        for side, found in results.items():
            command = [sys.executable, __file__, "--side", side, "--sizes", size, "--lengths", str(length)]
            command += ["--batch", str(options.batch), "--steps", str(options.steps)]
            environment = {**os.environ, **(KEEP if allocator == "keep" else {})}
            done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
            found.append(json.loads(done.stdout.splitlines()[-1]))
    peak = max(result["matmul_flops_per_second"] for found in results.values() for result in found)
    row: dict = {"size": size, "length": length, "allocator": allocator, "matmul_gflops": peak / 1e9}
    for side, found in results.items():
        seconds = statistics.median(second for result in found for second in result["seconds"])
        row[side] = {
            "seconds_per_step": seconds,
            "tokens_per_second": options.batch * length / seconds,
            "peak_mib": statistics.median(result["peak_mib"] for result in found),
            "idle_mib": statistics.median(result["idle_mib"] for result in found),
            "useful_gflop_per_step": found[0]["useful_flops"] / 1e9,
            "share_of_peak": found[0]["useful_flops"] / seconds / peak,
        }
    ours, reference = row["ours"], row["reference"]
    losses = zip(results["ours"][0]["losses"], results["reference"][0]["losses"], strict=True)
    row["scored_share"] = results["ours"][0]["scored_share"]
    row["speed_ratio"] = reference["seconds_per_step"] / ours["seconds_per_step"]
    row["memory_ratio"] = ours["peak_mib"] / reference["peak_mib"]
    row["working_memory_ratio"] = working(ours) / working(reference)
    row["largest_loss_difference"] = max(abs(a - b) for a, b in losses)
    return row


def working(side: dict) -> float:
    """MiB beyond what the process has after its imports."""
    return side["peak_mib"] - side["idle_mib"]


def measure(side: str, size: str, length: int, batch: int, steps: int) -> dict:
    """One side in this process: seconds and loss of each step, memory, and the peak of matrix products."""
    import torch
    from reference_network import Reference
    from torch.nn import functional as F

    from unmask import objectives, sizes
    from unmask.config import ModelConfig, RunConfig
    from unmask.llama_names import to_llama
    from unmask.model import Transformer
    from unmask.train import optim

    idle = resident_mib()
    run = RunConfig()
    config = ModelConfig.of_size(size, vocab_size=VOCABULARY, context_length=length, mask_id=VOCABULARY)
    model = Transformer(config)
    model.init_weights(torch.Generator().manual_seed(0))
    if side == "reference":
        weights = to_llama(model.state_dict(), config)
        model = Reference(config)
        model.load_state_dict(weights)
        del weights
        groups = [
            {"params": [p for p in model.parameters() if p.ndim >= 2], "weight_decay": run.weight_decay},
            {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=run.learning_rate, betas=(run.beta1, run.beta2))
    else:
        optimizer = optim.build_optimizer(model, run)
    tokens_BL = torch.randint(VOCABULARY, (batch, length), generator=torch.Generator().manual_seed(1))
    corrupted = objectives.mdm(tokens_BL, torch.Generator().manual_seed(2), mask_id=VOCABULARY)
    scored_BL = corrupted.targets_BL != objectives.IGNORE
    share = scored_BL.float().mean().item()

    def reference_loss() -> torch.Tensor:
        logits_BLV = model(corrupted.inputs_BL)
        nll_S = F.cross_entropy(logits_BLV[scored_BL], tokens_BL[scored_BL], reduction="none")
        return (nll_S * corrupted.weights_BL[scored_BL]).sum() / tokens_BL.numel()

    def our_loss() -> torch.Tensor:
        return model.loss(corrupted.inputs_BL, corrupted.targets_BL, corrupted.weights_BL) / tokens_BL.numel()

    def reference_step() -> float:
        loss = reference_loss()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), run.clip)
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    def our_step() -> float:
        loss = our_loss()
        loss.backward()
        optim.gradient_norm(model, run.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    step = reference_step if side == "reference" else our_step
    losses, seconds = [], []
    for number in range(steps + 2):
        begun = time.perf_counter()
        losses.append(step())
        if number >= 2:
            seconds.append(time.perf_counter() - begun)
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    per_token = 6 * config.params + 3 * sizes.attention_flops(config, length)
    per_token += 3 * share * sizes.head_flops(config, VOCABULARY)
    return {
        "losses": losses,
        "seconds": seconds,
        "peak_mib": peak_mib,
        "idle_mib": idle,
        "scored_share": share,
        "useful_flops": per_token * tokens_BL.numel(),
        "matmul_flops_per_second": matmul_peak(),
    }


def matmul_peak(size: int = 2048, repeats: int = 8) -> float:
    """FLOPs per second of a float32 product of two square matrices, the best of several."""
    import torch

    a, b, out = torch.randn(size, size), torch.randn(size, size), torch.empty(size, size)
    best = float("inf")
    for _ in range(repeats):
        begun = time.perf_counter()
        torch.mm(a, b, out=out)
        best = min(best, time.perf_counter() - begun)
    return 2 * size**3 / best


def resident_mib() -> float:
    """Resident memory now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


if __name__ == "__main__":
    main()
