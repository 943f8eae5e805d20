"""Sampling: ours against the released sampler's way on the same network, in one run.

    python benchmarks/sampling.py [--size 19M] [--cases all|NAME ...] [--json FILE]

The reference does as the released `diff_sample` (SMDM, eval/gen_model_answer.py): every step is a network call on the
full canvas, logits at every position, Gumbel noise in float64, for greedy decoding a softmax in float64. Both samplers
run the same network with random weights (the paper's init; weights change no time) in float32, at the same steps:

- ancestral: the same distribution (tests show it); ours asks only in steps that reveal something;
- greedy: temperature 0 and the released schedule, the same tokens at batch 1 (checked here);
- blanks: 20 masks in a row of 256 or 1,024 tokens with 256 steps; the reference is stopped after `--blank-steps` and
  its time multiplied, as all its steps cost the same.

Caches: blocks of 16 tokens, 64 steps in all, ours with a cache against ours without: a block-causal network's, which is
exact (the same tokens, checked here), and the approximate one of a bidirectional network (refresh after 16 tokens).

The ARM: with our cache, without any, and transformers' `generate` with its cache on the same weights; greedy, the same
tokens (checked here). Medians of as many runs as fit into `--budget` seconds a side, three at most, sides in turn.

Ratios are of the process's CPU time on one thread, which other programs on the machine hardly change; wall times are
beside them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from unmask import guidance, llama_names, machine, samplers, seeding
from unmask.cached_logits import ApproximateLogits, BlockCausalLogits
from unmask.config import ModelConfig
from unmask.model import Transformer
from unmask.network_logits import CausalLogits, MaskedLogits
from unmask.sizes import FAMILY

VOCABULARY, CONTEXT = 32000, 1024
MASK = VOCABULARY


def network(size: str, causal: bool, block: int = 0) -> Transformer:
    shape = FAMILY[size]
    model = Transformer(
        ModelConfig(
            n_layer=shape.n_layer,
            n_head=shape.n_head,
            n_embd=shape.n_embd,
            intermediate_size=shape.intermediate_size,
            vocab_size=VOCABULARY,
            context_length=CONTEXT,
            mask_id=None if causal else MASK,
            causal=causal,
            block_length=block,
        )
    )
    model.init_weights(seeding.generator(0, "init"))
    return model.eval()


def noisy(logits: torch.Tensor, temperature: float) -> torch.Tensor:
    logits = logits.to(torch.float64)
    noise = torch.rand_like(logits, dtype=torch.float64)
    return logits.exp() / (-torch.log(noise)) ** temperature


@torch.no_grad()
def released(model, tokens_BL, prompt_BL, kind: str, steps: int, weight: float, temperature: float, only: int = 0):
    """The released sampler. `only`: stop after so many steps."""
    x = tokens_BL.clone()
    times = torch.linspace(1, 1e-5, steps + 1)
    for step in range(only or steps):
        mask_index = x == MASK
        if weight:
            both = torch.cat([x, x.masked_fill(prompt_BL, MASK)])
            logits, unconditional = model(both).chunk(2)
            logits = (unconditional + (weight + 1) * (logits - unconditional))[mask_index]
        else:
            logits = model(x)[mask_index]
        share = float(1 - times[step + 1] / times[step]) if step < steps - 1 else 1.0
        if kind == "ancestral":
            x0 = torch.full_like(x[mask_index], MASK)
            moved = torch.rand(len(x0)) < share
            x0[moved] = noisy(logits[moved], temperature).argmax(dim=-1)
            x[mask_index] = x0
            continue
        x0 = noisy(logits, temperature).argmax(dim=-1)
        confidence = logits.to(torch.float64).softmax(dim=-1).gather(-1, x0[:, None])[:, 0]
        number = int(mask_index.sum() * share)
        if number:
            top = confidence.topk(number).indices
            kept = torch.full_like(x0, MASK)
            kept[top] = x0[top]
            x[mask_index] = kept
    return x


def ours(model, tokens_BL, prompt_BL, kind: str, steps: int, weight: float, temperature: float):
    logits_fn = guidance.classifier_free(MaskedLogits(model), prompt_BL, weight, MASK)
    options = {} if kind == "ancestral" else {"schedule": "released"}
    return samplers.SAMPLERS["ancestral" if kind == "ancestral" else "confidence"](
        logits_fn,
        tokens_BL,
        mask_id=MASK,
        steps=steps,
        temperature=temperature,
        generator=seeding.generator(0, "sample"),
        **options,
    )


def canvas(prompt: int, new: int, batch: int) -> torch.Tensor:
    tokens_BL = torch.randint(VOCABULARY, (batch, prompt + new), generator=seeding.generator(0, "prompt"))
    tokens_BL[:, prompt:] = MASK
    return tokens_BL


Times = dict[str, list[tuple[float, float]]]


def timed(sides: dict[str, Callable[[], object]], budget: float) -> tuple[Times, dict[str, object]]:
    """(CPU, wall) seconds of each side's runs, in turn, and what they returned; the budget ends a side."""
    seconds: Times = {name: [] for name in sides}
    returned: dict[str, object] = {}
    for _ in range(3):
        for name, run in sides.items():
            if sum(cpu for cpu, _ in seconds[name]) < budget or not seconds[name]:
                begun = time.process_time(), time.perf_counter()
                returned[name] = run()
                seconds[name].append((time.process_time() - begun[0], time.perf_counter() - begun[1]))
    return seconds, returned


def masked_case(
    model, budget: float, *, kind: str, prompt: int, new: int, batch: int, steps: int, weight: float
) -> dict:
    tokens_BL = canvas(prompt, new, batch)
    prompt_BL = tokens_BL != MASK
    temperature = 1.0 if kind == "ancestral" else 0.0
    arguments = (tokens_BL, prompt_BL, kind, steps, weight, temperature)
    sides = {"reference": lambda: released(model, *arguments), "ours": lambda: ours(model, *arguments)}
    seconds, returned = timed(sides, budget)
    found = report(seconds, batch * new)
    sampled = returned["ours"]
    found["network_calls"] = {
        "reference": steps * (2 if weight else 1),
        "ours": sampled.network_calls_B.double().mean().item(),
    }
    if kind == "greedy" and batch == 1:
        found["same_tokens"] = (sampled.tokens_BL == returned["reference"]).double().mean().item()
    return found


def blanks_case(model, budget: float, *, length: int, blanks: int, steps: int, only: int) -> dict:
    tokens_BL = torch.randint(VOCABULARY, (1, length), generator=seeding.generator(0, "text"))
    places = torch.randperm(length, generator=seeding.generator(0, "blanks"))[:blanks]
    tokens_BL[0, places] = MASK
    prompt_BL = tokens_BL != MASK
    sides = {
        "reference": lambda: released(model, tokens_BL, prompt_BL, "ancestral", steps, 0.0, 1.0, only),
        "ours": lambda: ours(model, tokens_BL, prompt_BL, "ancestral", steps, 0.0, 1.0),
    }
    seconds, returned = timed(sides, budget)
    seconds["reference"] = [(cpu * steps / only, wall * steps / only) for cpu, wall in seconds["reference"]]
    return {
        **report(seconds, blanks),
        "reference_steps_run": only,
        "network_calls": {"reference": steps, "ours": returned["ours"].network_calls_B.double().mean().item()},
    }


def cache_case(size: str, budget: float, *, prompt: int, new: int, block: int, steps: int, exact: bool) -> dict:
    """A block-causal network with its exact cache, or a bidirectional one with the approximate `block` cache."""
    model = network(size, causal=False, block=block if exact else 0)
    tokens_BL = canvas(prompt, new, 1)

    def fill(logits_fn):
        return samplers.SAMPLERS["block"](
            logits_fn,
            tokens_BL,
            mask_id=MASK,
            steps=steps,
            temperature=0.0,
            generator=seeding.generator(0, "sample"),
            block_length=block,
        ).tokens_BL

    def cached():
        of = BlockCausalLogits.of if exact else ApproximateLogits.of
        return fill(of(model, *tokens_BL.shape))

    seconds, returned = timed({"no cache": lambda: fill(MaskedLogits(model)), "ours": cached}, budget)
    same = (returned["ours"] == returned["no cache"]).double().mean().item()
    return {**report(seconds, new), "same_tokens": same}


@torch.no_grad()
def without_cache(model, tokens_BL: torch.Tensor, prompt: int) -> torch.Tensor:
    """Greedy: the whole text goes through the network for each token."""
    x = tokens_BL.clone()
    for position in range(prompt, x.shape[1]):
        x[:, position] = model(x[:, :position])[:, -1].argmax(dim=-1)
    return x


def arm_case(model, budget: float, *, prompt: int, new: int, batch: int) -> dict:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = model.config
    theirs = LlamaForCausalLM(
        LlamaConfig(
            hidden_size=config.n_embd,
            intermediate_size=config.intermediate_size,
            num_hidden_layers=config.n_layer,
            num_attention_heads=config.n_head,
            num_key_value_heads=config.n_kv_head,
            vocab_size=VOCABULARY,
            rms_norm_eps=config.norm_eps,
            max_position_embeddings=CONTEXT,
            tie_word_embeddings=False,
            bos_token_id=None,
            eos_token_id=None,
            pad_token_id=0,
        )
    ).eval()
    theirs.load_state_dict(llama_names.to_llama(model.state_dict(), config), strict=True)
    tokens_BL = canvas(prompt, new, batch)
    given_BL = tokens_BL[:, :prompt]
    logits_fn = CausalLogits(model, None)

    def cached():
        sampler = samplers.SAMPLERS["autoregressive"]
        generator = seeding.generator(0, "sample")
        return sampler(logits_fn, tokens_BL, mask_id=MASK, temperature=0.0, generator=generator).tokens_BL

    sides = {
        "no cache": lambda: without_cache(model, tokens_BL, prompt),
        "transformers": lambda: theirs.generate(
            given_BL, attention_mask=torch.ones_like(given_BL), max_new_tokens=new, do_sample=False
        ),
        "ours": cached,
    }
    cached()  # warm up
    seconds, returned = timed(sides, budget)
    found = report(seconds, batch * new)
    found["same_tokens"] = {
        name: (returned["ours"] == returned[name]).double().mean().item() for name in ("no cache", "transformers")
    }
    return found


def report(seconds: Times, tokens: int) -> dict:
    medians = {name: statistics.median(cpu for cpu, _ in values) for name, values in seconds.items()}
    return {
        "cpu_seconds": medians,
        "wall_seconds": {name: statistics.median(wall for _, wall in values) for name, values in seconds.items()},
        "runs": {name: len(values) for name, values in seconds.items()},
        "tokens_per_cpu_second": {name: tokens / value for name, value in medians.items()},
        "speed_ratio": {name: value / medians["ours"] for name, value in medians.items() if name != "ours"},
    }


def masked(kind: str, prompt: int, batch: int, steps: int, weight: float = 0.0, new: int = 256) -> dict:
    return {"kind": kind, "prompt": prompt, "new": new, "batch": batch, "steps": steps, "weight": weight}


CASES = {
    "ancestral": masked("ancestral", 16, 1, 256),
    "ancestral batch 8": masked("ancestral", 16, 8, 16),
    "ancestral 64 steps": masked("ancestral", 128, 1, 64),
    "ancestral guided": masked("ancestral", 128, 1, 16, 0.5),
    "greedy 64 steps": masked("greedy", 16, 1, 64),
    "greedy guided": masked("greedy", 128, 1, 16, 0.5),
    "greedy batch 8": masked("greedy", 16, 8, 16),
    "blanks 256": {"length": 256, "blanks": 20, "steps": 256},
    "blanks 1024": {"length": 1024, "blanks": 20, "steps": 256},
    "cache, exact": {"prompt": 16, "new": 256, "block": 16, "steps": 64, "exact": True},
    "cache, approximate": {"prompt": 16, "new": 256, "block": 16, "steps": 64, "exact": False},
    "arm": {"prompt": 16, "new": 128, "batch": 1},
    "arm batch 8": {"prompt": 16, "new": 64, "batch": 8},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="19M")
    parser.add_argument("--cases", nargs="+", default=["all"], choices=["all", *CASES])
    parser.add_argument("--budget", type=float, default=6.0)
    parser.add_argument("--blank-steps", type=int, default=16)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    mdm, arm = network(options.size, causal=False), network(options.size, causal=True)
    ours(mdm, *(t := canvas(16, 16, 1), t != MASK), "ancestral", 4, 0.0, 1.0)  # warm up
    result = {
        "machine": machine.describe(),
        "versions": machine.versions(),
        "threads": torch.get_num_threads(),
        "size": options.size,
        "rows": [],
    }
    for name in CASES if options.cases == ["all"] else options.cases:
        case = CASES[name]
        if name.startswith("arm"):
            found = arm_case(arm, options.budget, **case)
        elif name.startswith("cache"):
            found = cache_case(options.size, options.budget, **case)
        elif name.startswith("blanks"):
            found = blanks_case(mdm, options.budget, **case, only=options.blank_steps)
        else:
            found = masked_case(mdm, options.budget, **case)
        result["rows"].append({"case": name, **case, **found})
        ratios = ", ".join(f"{value:.2f} times {side}" for side, value in found["speed_ratio"].items())
        print(f"{name}: {found['tokens_per_cpu_second']['ours']:.1f} tokens per CPU second, {ratios}", flush=True)
        if options.json is not None:  # a run that is cut short leaves what it has
            options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
