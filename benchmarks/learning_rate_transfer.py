"""Whether the best learning rate of a small network is the best of larger ones: with the parametrization "completep"
(ours) and with one rate for all sizes, "standard" (the baseline, and the paper's way).

Each size is trained with each rate on the State of the Union addresses, for the same number of steps. The best rate is
the lowest point of a parabola in log rate through the best rate of the grid and its neighbours, from the mean loss over
the seeds; its spread is over the seeds. "Lost by transfer" is what the largest size loses, in nats per token, with the
best rate of the smallest size instead of its own.

    python benchmarks/learning_rate_transfer.py [--json benchmarks/results/learning_rate_transfer.json]

With --json a figure is drawn beside it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path

import numpy as np

from unmask import machine, sizes
from unmask.config import RunConfig
from unmask.data.prepare import PrepareOptions, prepare

SCHEMES = ("standard", "completep")
RUN_FIELDS = ("objective", "weighting", "steps", "batch_size", "length", "weight_decay", "clip")


def train_one(job: tuple[RunConfig, str]) -> float:
    """The held-out loss of a run; infinite if it diverged."""
    import torch

    from unmask.errors import UnmaskError
    from unmask.train.loop import train

    torch.set_num_threads(1)
    run, place = job
    try:
        return next(record["loss"] for record in train(run, Path(place)) if record["kind"] == "end")
    except UnmaskError:
        return float("inf")


def best_rate(rates: list[float], losses: list[float]) -> tuple[float, float, bool]:
    """The best rate, its loss, and whether it lies at an end of the grid, where there is no parabola."""
    lowest = int(np.argmin(losses))
    if lowest in (0, len(rates) - 1) or not np.isfinite(losses[lowest - 1 : lowest + 2]).all():
        return rates[lowest], losses[lowest], True
    around = slice(lowest - 1, lowest + 2)
    c2, c1, c0 = np.polyfit(np.log(rates[around]), losses[around], 2)
    at = -c1 / (2 * c2)
    return float(np.exp(at)), float(c0 + c1 * at + c2 * at * at), False


def loss_at(rate: float, rates: list[float], losses: list[float]) -> float:
    """The loss at a rate, on straight lines between the rates of the grid."""
    return float(np.interp(np.log(rate), np.log(rates), losses))


def summarise(table: dict[str, dict[str, np.ndarray]], rates: list[float]) -> dict:
    """For each scheme the best rate of each size, and what moves between the smallest and the largest."""
    found = {}
    for scheme, by_size in table.items():
        rows = []
        for size, losses_SR in by_size.items():
            mean = losses_SR.mean(axis=0).tolist()
            rate, loss, edge = best_rate(rates, mean)
            each = [best_rate(rates, losses.tolist())[0] for losses in losses_SR]
            rows.append(
                {
                    "size": size,
                    "width": sizes.lookup(size).n_embd,
                    "depth": sizes.lookup(size).n_layer,
                    "losses": mean,
                    "best_rate": rate,
                    "best_rate_of_each_seed": each,
                    "best_loss": loss,
                    "at_the_edge": edge,
                }
            )
        small, large = rows[0], rows[-1]
        found[scheme] = {
            "sizes": rows,
            "best_rate_of_largest_over_smallest": large["best_rate"] / small["best_rate"],
            "lost_by_transfer": loss_at(small["best_rate"], rates, large["losses"]) - min(large["losses"]),
        }
    return found


def draw(result: dict, path: Path) -> None:
    """Loss over its lowest against the rate, a line for each size; diamonds at the best rates."""
    from unmask.scaling.figure_style import LIGHT, mixed, new_figure, rc_settings

    import matplotlib as mpl  # isort: skip

    with mpl.rc_context(rc_settings(LIGHT, "wide")):
        figure = new_figure((9.2, 4.0))
        panels = figure.subplots(1, 2, sharey=True)
        for panel, (scheme, found) in zip(panels, result["schemes"].items(), strict=True):
            color = LIGHT.objectives["arm" if scheme == "standard" else "mdm"]
            for number, row in enumerate(found["sizes"]):
                shade = mixed(LIGHT.paper, color, 0.35 + 0.65 * (number + 1) / len(found["sizes"]))
                over = np.array(row["losses"]) - row["best_loss"]
                panel.plot(result["rates"], over, "o-", ms=4, lw=1.6, color=shade, label=row["size"])
                panel.plot(row["best_rate"], -0.02 * number - 0.03, "D", ms=6, color=shade, mec=LIGHT.ink)
            panel.set_xscale("log")
            panel.set_xticks(result["rates"], [f"{rate:g}" for rate in result["rates"]])
            panel.set_xticks([], minor=True)
            panel.set_ylim(-0.15, 0.6)
            panel.set_xlabel("learning rate" + (f" at {result['base_size']}" if scheme == "completep" else ""))
            panel.set_title(scheme, loc="left", color=color, fontweight="bold")
            panel.legend(frameon=False, title="size")
        panels[0].set_ylabel("loss over the size's lowest (nats per token)")
        figure.savefig(path, dpi=160)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--objective", default="arm")
    parser.add_argument("--weighting", default="bound", help="of mdm: bound or flat")
    parser.add_argument("--sizes", nargs="+", default=["16K", "56K", "131K", "307K"], help="the first is the base")
    parser.add_argument("--rates", type=float, nargs="+", default=[2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2, 6.4e-2])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--length", type=int, default=32)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--jobs", type=int, default=machine.usable_cores())
    options = parser.parse_args()

    base, rates = options.sizes[0], sorted(options.rates)
    keys = list(itertools.product(SCHEMES, options.sizes, rates, range(options.seeds)))
    with tempfile.TemporaryDirectory() as place:
        prepare(["sotu"], Path(place) / "corpus", PrepareOptions(tokenizer="bpe:512"))

        def job(scheme: str, size: str, rate: float, seed: int) -> tuple[RunConfig, str]:
            run = RunConfig(
                data=f"{place}/corpus",
                objective=options.objective,
                weighting=options.weighting,
                size=size,
                parametrization=scheme,
                base_size=base,
                learning_rate=rate,
                steps=options.steps,
                batch_size=options.batch_size,
                length=options.length,
                seed=seed,
                validation_windows=256,
                tensorboard=False,
                log_every=options.steps,
                checkpoint_every=10**6,
            )
            return run, f"{place}/{scheme}-{size}-{rate:g}-{seed}"

        # at the base both are the same
        made = [key for key in keys if key[0] == "standard" or key[1] != base]
        # the longest first, so that all are busy to the end
        made.sort(key=lambda key: -sizes.lookup(key[1]).params)
        losses: dict[tuple[str, str, float, int], float] = {}
        with ProcessPoolExecutor(options.jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
            for key, loss in zip(made, pool.map(train_one, [job(*key) for key in made]), strict=True):
                losses[key] = loss
                print(f"{key[0]:>9} {key[1]:>5} rate {key[2]:<7g} seed {key[3]}: {loss:.4f}", flush=True)
        example = asdict(job("completep", options.sizes[-1], rates[0], 0)[0])
    for _, size, rate, seed in keys:
        if size == base:
            losses["completep", size, rate, seed] = losses["standard", size, rate, seed]
    table = {
        scheme: {
            size: np.array([[losses[scheme, size, rate, seed] for rate in rates] for seed in range(options.seeds)])
            for size in options.sizes
        }
        for scheme in SCHEMES
    }
    result = {
        "what": "held-out loss by size and learning rate, with one rate for all sizes and with completep",
        "machine": machine.describe(),
        "versions": machine.versions(),
        "corpus": "sotu, bpe:512",
        "run": {name: example[name] for name in RUN_FIELDS},
        "base_size": base,
        "rates": rates,
        "seeds": options.seeds,
        "schemes": summarise(table, rates),
    }
    for scheme, found in result["schemes"].items():
        for row in found["sizes"]:
            edge = " (end of the grid)" if row["at_the_edge"] else ""
            print(f"{scheme:>9} {row['size']:>5} best rate {row['best_rate']:.2e}{edge} loss {row['best_loss']:.4f}")
        print(
            f"{scheme:>9} best rate of the largest over that of the smallest: "
            f"{found['best_rate_of_largest_over_smallest']:.2f}; lost by transfer {found['lost_by_transfer']:.4f} nats"
        )
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(result, indent=2) + "\n")
        draw(result, options.json.with_suffix(".png"))


if __name__ == "__main__":
    main()
