"""Scoring real benchmark items: ours against the released code's way, at equal error, in one run.

    python benchmarks/likelihood.py TRAINED_MODEL --data-dir DIR [--size 19M] [--items 3] [--json FILE]

The reference scores one request at a time: a batch of `--reference-draws` maskings of it (t low-discrepancy, each
answer token masked with probability t, weight 1/t), logits of every position. Ours are `likelihood.score`.

Equal error: on the trained model the error of the reference's draws is measured against the bound (exact, or from 1,024
of our calls) as the root mean square over repeats; ours gets the fewest draws whose error is no larger, for each task.
Speed: both then score the same requests with a network of `--size` (random weights, vocabulary 32,000; they change no
time), the trained model's tokens taken as they are. One thread and seconds of the processor, so that other work on the
machine changes little. The reference's time is linear in its draws, which go through the network 32 at a time: one such
batch of each request is timed and multiplied. Requests are the options of HellaSwag, PIQA and BoolQ and the last
words of LAMBADA, an equal number of items of each.

Where our time goes: a second run of ours is timed in parts (drawing the masks, the blocks of the network, the head, and
the rest: rows put together, softmax, estimates), and the FLOPs that its calls must carry out are divided by its seconds
and by the best product of float32 matrices measured in the same run.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from unittest import mock

import torch
from sampling import peak_flops
from torch.nn import functional as F

import unmask
from unmask import likelihood, machine, seeding
from unmask.config import ModelConfig
from unmask.evals.offline import load_tasks
from unmask.layers import head_logits
from unmask.likelihood import Request, Settings
from unmask.logits_fn import PADDING
from unmask.model import Transformer
from unmask.network_logits import MaskedLogits
from unmask.sizes import FAMILY

TASKS = ("hellaswag", "piqa", "boolq", "lambada_openai")
TRUTH_DRAWS = 1024
"""Of ours, to know the bound of answers of more than ten tokens by; their own error is a tenth of the reference's."""
LADDER = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 48, 64, 96, 128)
VOCABULARY = 32000
BATCH = 32
"""Rows of the reference that go through the network at a time."""


def requests_of(lm: unmask.LanguageModel, task, items: int) -> list[Request]:
    task.build_all_requests(limit=items)
    found = []
    for instance in task.instances:
        context, continuation = instance.args
        whole, given = lm.tokenizer.encode(context + continuation), lm.tokenizer.encode(context)
        room = lm.config.context_length - (len(whole) - len(given))
        found.append(Request(tuple(given[-room:]), tuple(whole[len(given) :]), question=instance.doc_id))
    return found


@torch.no_grad()
def reference(model, request: Request, mask_id: int, draws: int, generator: torch.Generator) -> float:
    """The bound as the released code estimates it."""
    tokens_L = torch.tensor([*request.prompt, *request.continuation])
    scored_L = torch.arange(len(tokens_L)) >= len(request.prompt)
    shift = torch.rand((), generator=generator)
    t_R1 = ((shift + torch.arange(draws) / draws) % 1).clamp(min=1e-12)[:, None]
    masked_RL = (torch.rand(draws, len(tokens_L), generator=generator) < t_R1) & scored_L
    inputs_RL = tokens_L.expand(draws, -1).masked_fill(masked_RL, mask_id)
    total = 0.0
    for start in range(0, draws, BATCH):
        part = slice(start, start + BATCH)
        logits_RLV = model(inputs_RL[part])
        targets_RL = tokens_L.expand(len(logits_RLV), -1)
        nll = F.cross_entropy(logits_RLV[masked_RL[part]], targets_RL[masked_RL[part]], reduction="none")
        weights = (1 / t_R1[part]).expand(-1, len(tokens_L))[masked_RL[part]]
        total += (nll * weights).sum().item()
    return total / draws


def equal_error(lm: unmask.LanguageModel, requests: list[Request], draws: int, repeats: int) -> dict:
    """Root mean square error of the reference, and the fewest of our draws that do as well."""
    most = Settings("auto", TRUTH_DRAWS, seed=10**6)
    truth = torch.tensor([e.log_likelihood for e in lm.score_tokens(requests, most).estimates])

    def error(values: list[list[float]]) -> float:
        return (torch.tensor(values) - truth).square().mean().sqrt().item()

    plain = [
        [
            -_table_mc(lm, request, draws, seeding.generator(repeat, "reference", index))
            for index, request in enumerate(requests)
        ]
        for repeat in range(repeats)
    ]
    theirs = error(plain)
    for samples in LADDER:
        scored = [lm.score_tokens(requests, Settings("auto", samples, seed=seed)) for seed in range(repeats)]
        ours = error([[e.log_likelihood for e in each.estimates] for each in scored])
        if ours <= theirs:
            break
    reported = torch.tensor([[e.standard_error for e in each.estimates] for each in scored]).nan_to_num(0)
    return {
        "reference_rmse": theirs,
        "our_samples": samples,
        "our_rmse": ours,
        "our_reported_error": reported.square().mean().sqrt().item(),
        "our_calls_per_request": sum(e.network_calls for each in scored for e in each.estimates)
        / len(scored)
        / len(requests),
        "exact_share": sum(e.exact for e in scored[0].estimates) / len(requests),
        "scored_tokens": sum(len(request.continuation) for request in requests) / len(requests),
    }


def _table_mc(lm: unmask.LanguageModel, request: Request, draws: int, generator: torch.Generator) -> float:
    return reference(lm.model, request, lm.mask_id, draws, generator)


@torch.no_grad()
def timed(model: Transformer, requests: list[Request], samples: int, draws: int, mask_id: int) -> dict:
    """Processor seconds of both."""
    ours_fn = MaskedLogits(model, skip_padding=True)
    known = {"mask_id": mask_id, "vocab_size": model.config.vocab_size, "pads": True}
    likelihood.score(ours_fn, requests[:1], Settings("auto", 2), **known)  # the first pass is no measure
    begun = time.process_time()
    for index, request in enumerate(requests):
        reference(model, request, mask_id, BATCH, seeding.generator(0, "timing", index))
    theirs = (time.process_time() - begun) * draws / BATCH
    begun = time.process_time()
    scored = likelihood.score(ours_fn, requests, Settings("auto", samples), **known)
    ours = time.process_time() - begun
    return {
        "requests": len(requests),
        "reference_seconds": theirs,
        "our_seconds": ours,
        "reference_requests_per_second": len(requests) / theirs,
        "our_requests_per_second": len(requests) / ours,
        "speed_ratio": theirs / ours,
        "our_network_calls": scored.network_calls,
        "seconds_per_call_ratio": (theirs / len(requests) / draws) / (ours / scored.network_calls),
    }


class InParts:
    """The network as a `LogitsFn` that tells the blocks' seconds from the head's, and adds up the FLOPs of both."""

    def __init__(self, model: Transformer) -> None:
        self.model, self.seconds, self.flops = model, {"network": 0.0, "head": 0.0}, {"network": 0, "head": 0}
        self.logits_fn = MaskedLogits(model, skip_padding=True)

    def head(self, hidden_SD: torch.Tensor, head_VD: torch.Tensor) -> torch.Tensor:
        begun = time.process_time()
        logits_SV = head_logits(hidden_SD, head_VD)
        self.seconds["head"] += time.process_time() - begun
        return logits_SV

    def __call__(self, tokens_BL: torch.Tensor, select_BL: torch.Tensor) -> torch.Tensor:
        begun, head = time.process_time(), self.seconds["head"]
        with mock.patch("unmask.model.head_logits", self.head):
            logits_SV = self.logits_fn(tokens_BL, select_BL)
        self.seconds["network"] += time.process_time() - begun - (self.seconds["head"] - head)
        there, selected, config = int((tokens_BL != PADDING).sum()), int(select_BL.sum()), self.model.config
        width, inner = config.n_embd, config.intermediate_size
        keys_values, others = 2 * width**2, 2 * width**2 + 3 * width * inner + 2 * tokens_BL.shape[1] * width
        everywhere = (config.n_layer - 1) * (keys_values + others) + keys_values
        self.flops["network"] += 2 * (there * everywhere + selected * others)
        self.flops["head"] += 2 * selected * width * config.vocab_size
        return logits_SV


def breakdown(model: Transformer, requests: list[Request], samples: int, mask_id: int, peak: float) -> dict:
    """Seconds of the parts of ours, and the FLOPs of its calls as a share of the peak."""
    begun = time.process_time()
    for index, request in enumerate(requests):
        generator = seeding.generator(0, "breakdown", index)
        likelihood.plan(len(request.continuation), estimator="auto", num_samples=samples, generator=generator)
    drawing = time.process_time() - begun
    parts = InParts(model)
    begun = time.process_time()
    known = {"mask_id": mask_id, "vocab_size": model.config.vocab_size, "pads": True}
    likelihood.score(parts, requests, Settings("auto", samples), **known)
    seconds = time.process_time() - begun
    each = {"masks": drawing, **parts.seconds}
    each["rest"] = seconds - sum(each.values())
    flops = sum(parts.flops.values())
    return {
        "seconds": seconds,
        "share_of_time": {name: part / seconds for name, part in each.items()},
        "gflop": {name: part / 1e9 for name, part in parts.flops.items()},
        "share_of_peak": flops / peak / seconds,
        "share_of_peak_in": {name: parts.flops[name] / peak / parts.seconds[name] for name in parts.flops},
    }


def in_words(found: dict) -> str:
    shares = ", ".join(f"{name} {share:.1%}" for name, share in found["share_of_time"].items())
    inside = ", ".join(f"{name} {share:.0%}" for name, share in found["share_of_peak_in"].items())
    return f"                time: {shares}; {found['share_of_peak']:.0%} of the peak ({inside})"


def model_facts(lm: unmask.LanguageModel) -> dict:
    params = sum(parameter.numel() for parameter in lm.model.parameters())
    return {"objective": lm.objective, "params": params, "context_length": lm.config.context_length}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--size", default="19M")
    parser.add_argument("--tasks", nargs="+", default=TASKS)
    parser.add_argument("--items", type=int, default=3)
    parser.add_argument("--timed-items", type=int, default=2, help="the first of these, for the speed")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--reference-draws", type=int, default=128)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    machine.keep_freed_memory()  # as `unmask eval` does; it is to the good of both
    lm = unmask.load(options.model, device="cpu")
    size = FAMILY[options.size]
    config = ModelConfig(
        n_layer=size.n_layer,
        n_head=size.n_head,
        n_embd=size.n_embd,
        intermediate_size=size.intermediate_size,
        vocab_size=VOCABULARY,
        context_length=2048,
        mask_id=VOCABULARY,
        causal=False,
    )
    network = Transformer(config).eval()
    network.init_weights(seeding.generator(0, "init"))
    tasks, _ = load_tasks(options.tasks, options.data_dir)
    peak = peak_flops()
    rows = []
    for name, task in zip(options.tasks, tasks, strict=True):
        requests = requests_of(lm, task, options.items)
        row = {"task": name, **equal_error(lm, requests, options.reference_draws, options.repeats)}
        few = [request for request in requests if request.question < options.timed_items]
        row |= timed(network, few, row["our_samples"], options.reference_draws, VOCABULARY)
        row["breakdown"] = breakdown(network, few, row["our_samples"], VOCABULARY, peak)
        rows.append(row)
        print(
            f"{name:15s} {row['scored_tokens']:5.1f} tokens: reference {row['reference_rmse']:.2f} nats at "
            f"{options.reference_draws} calls; ours {row['our_rmse']:.2f} at {row['our_calls_per_request']:.1f} "
            f"({row['exact_share']:.0%} exact); {row['our_requests_per_second']:.2f} requests/s, "
            f"{row['speed_ratio']:.0f}x ({row['seconds_per_call_ratio']:.1f}x per call)\n{in_words(row['breakdown'])}",
            flush=True,
        )
    total = sum(row["reference_seconds"] for row in rows) / sum(row["our_seconds"] for row in rows)
    mean = math.exp(sum(math.log(row["speed_ratio"]) for row in rows) / len(rows))
    print(f"over the mix {total:.0f}x, geometric mean of the tasks {mean:.0f}x")
    if options.json:
        result = {
            "machine": machine.describe(),
            "threads": torch.get_num_threads(),
            "peak_gflops": peak / 1e9,
            "trained_model": model_facts(lm),
            "size": options.size,
            "reference_draws": options.reference_draws,
            "items": options.items,
            "timed_items": options.timed_items,
            "repeats": options.repeats,
            "rows": rows,
            "mix_speed_ratio": total,
            "geometric_mean_speed_ratio": mean,
        }
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
