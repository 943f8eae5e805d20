"""How much noise the choice of t adds to the loss and the gradient of `mdm`: independent t (the released code's way,
the baseline) against one t from each of B equal parts (ours), a low-discrepancy grid with one random shift, and exact
numbers of masks spread over the batch (`any_order`).

On the State of the Union addresses, for a network before and after a short training. "masks" is the variance over t and
masks with the text of the batch held fixed, "text" that of a training step, with new text each time. The variance of a
gradient is the trace of its covariance, from pairs of draws; intervals are 95%, by bootstrap of the pairs.

    python benchmarks/stratified_t.py [--json benchmarks/results/stratified_t.json]
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
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
from unmask.objectives import Corrupted
from unmask.train.loop import train

EPS = 1e-3


def independent(tokens_BL, generator, mask_id):
    return objectives.mdm(tokens_BL, generator, mask_id=mask_id, stratified=False)


def stratified(tokens_BL, generator, mask_id):
    return objectives.mdm(tokens_BL, generator, mask_id=mask_id, stratified=True)


def low_discrepancy(tokens_BL, generator, mask_id):
    """t on a grid with one random shift (Kingma et al., 2021), in random order."""
    rows = len(tokens_BL)
    grid_B = (torch.randperm(rows, generator=generator) / rows + torch.rand((), generator=generator)) % 1
    t_B1 = (EPS + (1 - EPS) * grid_B)[:, None]
    masked_BL = torch.rand(tokens_BL.shape, generator=generator) < t_B1
    targets_BL = tokens_BL.masked_fill(~masked_BL, objectives.IGNORE)
    return Corrupted(tokens_BL.masked_fill(masked_BL, mask_id), targets_BL, masked_BL / t_B1)


def exact_counts(tokens_BL, generator, mask_id):
    return objectives.any_order(tokens_BL, generator, mask_id=mask_id)


SCHEMES: dict[str, Callable[..., Corrupted]] = {
    "independent": independent,
    "stratified": stratified,
    "low_discrepancy": low_discrepancy,
    "exact_counts": exact_counts,
}
STATISTICS = ("loss", "gradient")


def draw(model: Transformer, scheme: str, tokens_BL, generator) -> tuple[float, torch.Tensor]:
    """The loss and the gradient of one step."""
    corrupted = SCHEMES[scheme](tokens_BL, generator, model.config.mask_id)
    model.zero_grad()
    loss = model.loss(corrupted.inputs_BL, corrupted.targets_BL, corrupted.weights_BL) / tokens_BL.numel()
    loss.backward()
    return loss.item(), torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


def measure(model: Transformer, scheme: str, batches: Batches, pairs: int, fixed_text: bool) -> dict[str, np.ndarray]:
    """Half the squared difference of each of `pairs` pairs of draws: their mean is the variance."""
    found: dict[str, list[float]] = {name: [] for name in STATISTICS}
    for pair in range(pairs):
        first, second = (
            draw(
                model,
                scheme,
                torch.from_numpy(batches[pair if fixed_text else 2 * pair + half]),
                seeding.generator(0, f"{scheme} {half}", pair),
            )
            for half in (0, 1)
        )
        found["loss"].append((first[0] - second[0]) ** 2 / 2)
        found["gradient"].append((first[1] - second[1]).square().sum().item() / 2)
    return {name: np.array(values) for name, values in found.items()}


def ratio(ours: np.ndarray, baseline: np.ndarray) -> dict[str, float]:
    """Variance over the baseline's, with a 95% bootstrap interval."""
    if ours is baseline:
        return {"ratio": 1.0, "low": 1.0, "high": 1.0}
    generator = np.random.default_rng(0)
    means = [
        values[generator.integers(0, len(values), (2000, len(values)))].mean(axis=1) for values in (ours, baseline)
    ]
    low, high = np.quantile(means[0] / means[1], [0.025, 0.975])
    return {"ratio": ours.mean() / baseline.mean(), "low": low, "high": high}


def tell(row: dict) -> None:
    print(
        f"{row['network']:>16}, batch {row['batch_size']:>3}, over {row['variance_over']:<5}, {row['of']:<8} "
        f"{row['scheme']:<15} {row['ratio']:.3f} of independent ({row['low']:.3f} to {row['high']:.3f})",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--size", default="131K")
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[8, 32])
    parser.add_argument("--pairs", type=int, default=300)
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
        corpus = Corpus.open(run.data)
        lm = load(Path(place) / "run", device="cpu")
        fresh = Transformer(lm.config)
        fresh.init_weights(seeding.generator(0, "init"))
        networks = {"untrained": fresh, f"after {options.steps} steps": lm.model}
        for state, model in networks.items():
            for batch_size in options.batch_sizes:
                batches = Batches(corpus.split("train"), length=options.length, batch_size=batch_size, seed=1)
                for fixed_text in (True, False):
                    found = {name: measure(model, name, batches, options.pairs, fixed_text) for name in SCHEMES}
                    for statistic in STATISTICS:
                        for scheme in SCHEMES:
                            row = {
                                "network": state,
                                "batch_size": batch_size,
                                "variance_over": "masks" if fixed_text else "text",
                                "of": statistic,
                                "scheme": scheme,
                                "variance": found[scheme][statistic].mean(),
                                **ratio(found[scheme][statistic], found["independent"][statistic]),
                            }
                            rows.append(row)
                            tell(row)
    result = {
        "what": "variance of the mdm loss and gradient by the choice of t, as a ratio to independent t",
        "machine": machine.describe(),
        "versions": machine.versions(),
        "corpus": "sotu, bpe:1024",
        "network": f"{options.size}, length {options.length}",
        "training": {"steps": options.steps, "valid_loss": end["loss"]},
        "pairs": options.pairs,
        "rows": rows,
    }
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
