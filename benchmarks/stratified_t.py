"""How much noise the choice of t adds to the loss and the gradient of a step of `mdm`: one t from each of B equal parts
of [eps, 1] (ours) against independent t (the released code's way, the baseline), and exact numbers of masks in the
place of independent ones (`any_order`).

On the State of the Union addresses, for a network before and after a short training. A step's noise is over text, t and
masks; that of a gradient is the trace of its covariance. Steps are so unequal (a token masked at t = 1e-3 weighs 1000)
that repeating them would tell nothing for hours. So rows are drawn by parts of t with density 1/t within, which
estimates both variances from the same rows: that of B independent rows is (E|g|^2 - |E g|^2) / B, that of B rows from B
parts (E|g|^2 - mean over parts of |E g in the part|^2) / B, squared means by two independent halves.

    python benchmarks/stratified_t.py [--json benchmarks/results/stratified_t.json]
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from pathlib import Path

import numpy as np
import torch

from unmask import machine, objectives, seeding
from unmask.config import RunConfig
from unmask.data.pipeline import Batches
from unmask.data.prepare import PrepareOptions, prepare
from unmask.data.source import Corpus
from unmask.language_model import load
from unmask.model import Transformer
from unmask.train.loop import train

EPS = 1e-3
SCHEMES = ("mdm", "any_order")
STATISTICS = ("loss", "gradient")


def corrupt(scheme: str, tokens_1L: torch.Tensor, part: int, parts: int, generator: torch.Generator):
    """One row of the part, and its importance weight: inputs, targets, weights, weight."""
    length = tokens_1L.shape[1]
    uniform = torch.rand((), generator=generator).item()
    noise_1L = torch.rand(1, length, generator=generator)
    if scheme == "mdm":
        low, high = (EPS + (1 - EPS) * edge / parts for edge in (part, part + 1))
        t = low * (high / low) ** uniform
        importance = t * math.log(high / low) / (high - low)
        masked_1L, weight = noise_1L < t, 1 / t
    else:
        count = 1 + min(length - 1, int(length * (part + uniform) / parts))
        importance = 1.0
        masked_1L, weight = noise_1L.argsort().argsort() < count, length / count
    targets_1L = tokens_1L.masked_fill(~masked_1L, objectives.IGNORE)
    return masked_1L, targets_1L, masked_1L * weight, importance


def variances(model: Transformer, scheme: str, batches: Batches, parts: int, rows: int, seed: int):
    """For each statistic the variance of a row whose t is drawn at large, and within each of the numbers of parts."""
    size = sum(parameter.numel() for parameter in model.parameters())
    # the last element of each vector is the loss
    means = torch.zeros(2, parts, size + 1, dtype=torch.float64)
    squares = dict.fromkeys(STATISTICS, 0.0)
    step = seed * parts * 2 * rows
    for part in range(parts):
        for half in range(2):
            for _ in range(rows):
                tokens_1L = torch.from_numpy(batches[step])
                generator = seeding.generator(seed, f"{scheme} rows", step)
                step += 1
                masked_1L, targets_1L, weights_1L, importance = corrupt(scheme, tokens_1L, part, parts, generator)
                if not masked_1L.any():
                    continue  # no loss and no gradient
                model.zero_grad()
                inputs_1L = tokens_1L.masked_fill(masked_1L, model.config.mask_id)
                loss = model.loss(inputs_1L, targets_1L, weights_1L) / tokens_1L.numel()
                loss.backward()
                grad = torch.cat([parameter.grad.flatten() for parameter in model.parameters()]).double()
                squares["loss"] += importance * loss.item() ** 2 / (2 * parts * rows)
                squares["gradient"] += importance * grad.square().sum().item() / (2 * parts * rows)
                means[half, part, :-1] += importance * grad / rows
                means[half, part, -1] += importance * loss.item() / rows
    found = {}
    for name, where in (("loss", slice(-1, None)), ("gradient", slice(0, -1))):
        for batch_size in (1, *(2**power for power in range(1, parts.bit_length()))):
            coarse = means[:, :, where].reshape(2, batch_size, parts // batch_size, -1).mean(dim=2)
            found[name, batch_size] = squares[name] - (coarse[0] * coarse[1]).sum(dim=1).mean().item()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--size", default="131K")
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--parts", type=int, default=32, help="largest batch; a power of 2")
    parser.add_argument("--rows", type=int, default=20, help="of each half of each part")
    parser.add_argument("--repeats", type=int, default=8, help="for the errors")
    parser.add_argument("--steps", type=int, default=500, help="of the training")
    options = parser.parse_args()

    rows = []
    with tempfile.TemporaryDirectory() as place:
        prepare(["sotu"], Path(place) / "corpus", PrepareOptions(tokenizer="bpe:1024"))
        run = RunConfig(
            data=f"{place}/corpus",
            size=options.size,
            length=options.length,
            steps=options.steps,
            learning_rate=1e-2,
            validation_windows=64,
            tensorboard=False,
        )
        end = next(record for record in train(run, Path(place) / "run") if record["kind"] == "end")
        source = Corpus.open(run.data).split("train")
        batches = Batches(source, length=options.length, batch_size=1, seed=1)
        lm = load(Path(place) / "run", device="cpu")
        fresh = Transformer(lm.config)
        fresh.init_weights(seeding.generator(0, "init"))
        for state, model in {"untrained": fresh, f"after {options.steps} steps": lm.model}.items():
            found = {
                scheme: [
                    variances(model, scheme, batches, options.parts, options.rows, seed)
                    for seed in range(options.repeats)
                ]
                for scheme in SCHEMES
            }
            for statistic in STATISTICS:
                baseline = np.array([each[statistic, 1] for each in found["mdm"]])
                for scheme in SCHEMES:
                    for batch_size in sorted({size for name, size in found[scheme][0] if name == statistic}):
                        ours = np.array([each[statistic, batch_size] for each in found[scheme]])
                        ratio = ours.mean() / baseline.mean()
                        parts = (ours - ratio * baseline) / baseline.mean()
                        row = {
                            "network": state,
                            "of": statistic,
                            "objective": scheme,
                            "drawn": "independently" if batch_size == 1 else f"from {batch_size} parts",
                            "ratio_to_independent_mdm": ratio,
                            "standard_error": parts.std(ddof=1) / math.sqrt(len(parts)),
                        }
                        rows.append(row)
                        print(
                            f"{state:>16}: variance of the {statistic:<8} of {scheme:<9} {row['drawn']:<14} "
                            f"{ratio:.3f} ± {row['standard_error']:.3f} of that of mdm drawn independently",
                            flush=True,
                        )
    result = {
        "what": "variance of the loss and the gradient of a step by how t is drawn, as a ratio to independent t",
        "machine": machine.describe(),
        "versions": machine.versions(),
        "corpus": "sotu, bpe:1024",
        "network": f"{options.size}, length {options.length}",
        "training": {"steps": options.steps, "valid_loss": end["loss"]},
        "drawn": {"rows": options.rows, "parts": options.parts, "repeats": options.repeats},
        "rows": rows,
    }
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
