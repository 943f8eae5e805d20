"""Sampling: ours against the released sampler's way on the same network, in one run.

    python benchmarks/sampling.py [--size 19M] [--cases aims|grid|all|NAME ...] [--allocator keep] [--json FILE]

The reference does as the released `diff_sample` (SMDM, eval/gen_model_answer.py): every step is a network call on the
full canvas, logits at every position, Gumbel noise in float64, for greedy decoding a softmax in float64. Both samplers
run the same network with random weights (the paper's init; weights change no time) in float32, at the same steps:

- ancestral: the same distribution (tests show it); ours asks only in steps that reveal something, whose number depends
  on the seed: ours takes one seed after the other;
- greedy: temperature 0 and the released schedule, the same tokens at batch 1 (checked here);
- blanks: 20 masks in a row of 256 or 1,024 tokens with 256 steps.

The grid is both at every length of prompt, batch, number of steps and guidance weight. Of a run in it `--timed` steps
are carried out and timed, spread evenly over the run, and the time is theirs times the number of steps; the others
reveal as many tokens without the network. The aims are timed whole. Of each cell the FLOPs that ours must compute are
counted, and what the best product of matrices measured here would take for them: no sampler that asks the network as
often can be faster than that, and `largest_ratio` is the ratio that it would reach.

Caches: blocks of 16 tokens, 64 steps in all, ours with a cache against ours without: a block-causal network's, which is
exact (the same tokens, checked here), and the approximate one of a bidirectional network (refresh after 16 tokens).

The ARM: with our cache, without any, and transformers' `generate` with its cache on the same weights; greedy, the same
tokens (checked here). Medians of as many runs as fit into `--budget` seconds a side, three at most, sides in turn.

Ratios are of the process's CPU time on one thread, which other programs on the machine hardly change; wall times are
beside them. Both sides have the same allocator: glibc's as it is, or told to keep freed memory as `unmask sample` does,
which helps the reference more, as its float64 noise is the largest tensor. With `--json` a run goes on where the file
ends, cell by cell.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from unmask import guidance, llama_names, logits_fn, machine, samplers, seeding
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


class Clock:
    """(CPU, wall) seconds of each timed step."""

    def __init__(self) -> None:
        self.steps: list[tuple[float, float]] = []
        self.begun = (0.0, 0.0)

    def start(self) -> None:
        self.begun = time.process_time(), time.perf_counter()

    def stop(self) -> None:
        self.steps.append((time.process_time() - self.begun[0], time.perf_counter() - self.begun[1]))


def spread(steps: int, timed: int) -> set[int]:
    """`timed` of `steps` steps, each in the middle of an equal part of them."""
    timed = min(steps, timed)
    return {(2 * part + 1) * steps // (2 * timed) for part in range(timed)}


@torch.no_grad()
def released(
    model, tokens_BL, prompt_BL, kind: str, steps: int, weight: float, temperature: float, clock=None, timed: int = 0
):
    """The released sampler. With `timed` only so many of its steps are carried out, and timed by the `clock`."""
    x = tokens_BL.clone()
    times = torch.linspace(1, 1e-5, steps + 1)
    chosen = spread(steps, timed) if timed else range(steps)
    for step in range(steps):
        mask_index = x == MASK
        share = float(1 - times[step + 1] / times[step]) if step < steps - 1 else 1.0
        if step not in chosen:  # as many tokens, without the network
            x0 = torch.full_like(x[mask_index], MASK)
            number = int(len(x0) * share)
            x0[torch.rand(len(x0)) < share if kind == "ancestral" else torch.randperm(len(x0))[:number]] = 0
            x[mask_index] = x0
            continue
        if clock is not None:
            clock.start()
        x[mask_index] = released_step(model, x, mask_index, prompt_BL, kind, share, weight, temperature)
        if clock is not None:
            clock.stop()
    return x


def released_step(model, x, mask_index, prompt_BL, kind: str, share: float, weight: float, temperature: float):
    if weight:
        both = torch.cat([x, x.masked_fill(prompt_BL, MASK)])
        logits, unconditional = model(both).chunk(2)
        logits = (unconditional + (weight + 1) * (logits - unconditional))[mask_index]
    else:
        logits = model(x)[mask_index]
    kept = torch.full_like(x[mask_index], MASK)
    if kind == "ancestral":
        moved = torch.rand(len(kept)) < share
        kept[moved] = noisy(logits[moved], temperature).argmax(dim=-1)
        return kept
    x0 = noisy(logits, temperature).argmax(dim=-1)
    confidence = logits.to(torch.float64).softmax(dim=-1).gather(-1, x0[:, None])[:, 0]
    number = int(mask_index.sum() * share)
    if number:
        top = confidence.topk(number).indices
        kept[top] = x0[top]
    return kept


class Counted:
    """The network as a `LogitsFn` that adds up the floating-point operations it must carry out."""

    def __init__(self, model: Transformer) -> None:
        self.inner, self.config, self.flops = MaskedLogits(model), model.config, 0

    def __call__(self, tokens_BL, select_BL=None):
        rows, length = tokens_BL.shape
        selected = int(select_BL.sum())
        config = self.config
        width, inner = config.n_embd, config.intermediate_size
        keys_values, others = 2 * width**2, 2 * width**2 + 3 * width * inner
        everywhere = (config.n_layer - 1) * (keys_values + others + 2 * length * width) + keys_values
        last_and_head = others + 2 * length * width + width * config.vocab_size
        self.flops += 2 * (rows * length * everywhere + selected * last_and_head)
        return self.inner(tokens_BL, select_BL)


class Thinned:
    """A `LogitsFn` that asks another in the chosen evaluations alone, and makes up logits in the others."""

    def __init__(self, inner, chosen: set[int] | None, clock: Clock, state: dict | None = None) -> None:
        self.inner, self.chosen, self.clock = inner, chosen, clock
        self.state = state if state is not None else {"evaluations": 0, "real": False}

    def __call__(self, tokens_BL, select_BL=None):
        now = self.state["evaluations"]
        self.state["evaluations"] += 1
        self.state["real"] = self.chosen is not None and now in self.chosen
        if self.state["real"]:
            return self.inner(tokens_BL, select_BL)
        return torch.zeros(int(select_BL.sum()), 8)

    def network_calls(self, tokens_BL):
        return logits_fn.network_calls(self.inner, tokens_BL)

    def at_rows(self, rows_R):
        return Thinned(logits_fn.at_rows(self.inner, rows_R), self.chosen, self.clock, self.state)

    def on_step(self, step) -> None:
        """The end of a step, and the beginning of the next one."""
        if self.state["real"]:
            self.clock.stop()
        self.clock.start()


def ours(
    network_fn, tokens_BL, prompt_BL, kind: str, steps: int, weight: float, temperature: float, seed: int = 0, thin=None
):
    """Our sampler; `thin` puts something around the guided network."""
    guided_fn = guidance.classifier_free(network_fn, prompt_BL, weight, MASK)
    guided_fn = guided_fn if thin is None else thin(guided_fn)
    options = {} if kind == "ancestral" else {"schedule": "released"}
    return samplers.SAMPLERS["ancestral" if kind == "ancestral" else "confidence"](
        guided_fn,
        tokens_BL,
        mask_id=MASK,
        steps=steps,
        temperature=temperature,
        generator=seeding.generator(seed, "sample"),
        on_step=None if thin is None else guided_fn.on_step,
        **options,
    )


def ours_thinned(model, arguments: tuple, seed: int, timed: int) -> tuple[Clock, int, float, float]:
    """The timed steps, how many there are in all, the FLOPs of all, and the mean network calls of a row."""
    counting = Thinned(None, None, Clock())
    sampled = ours(MaskedLogits(model), *arguments, seed, lambda inner: replace_inner(counting, inner))
    steps = counting.state["evaluations"]
    clock, counted = Clock(), Counted(model)
    chosen = spread(steps, timed)

    def thin(inner):
        thinned = Thinned(inner, chosen, clock)
        clock.start()
        return thinned

    ours(counted, *arguments, seed, thin)
    return clock, steps, counted.flops * steps / len(chosen), sampled.network_calls_B.double().mean().item()


def replace_inner(thinned: Thinned, inner) -> Thinned:
    thinned.inner = inner
    return thinned


@torch.no_grad()
def peak_flops() -> float:
    """Floating-point operations a second of the best product of float32 matrices found here, in CPU time."""
    best = 0.0
    for rows, inner, columns in ((1024, 1024, 1024), (272, 384, 1152), (272, 1536, 384), (2176, 384, 3072)):
        a, b = torch.randn(rows, inner), torch.randn(columns, inner)
        packed = torch.ops.mkldnn._reorder_linear_weight(b, rows)  # as torch.compile packs weights
        for product in (
            lambda a=a, b=b: torch.nn.functional.linear(a, b),
            lambda a=a, packed=packed: torch.ops.mkldnn._linear_pointwise(a, packed, None, "none", [], ""),
        ):
            for _ in range(7):
                begun = time.process_time()
                product()
                best = max(best, 2 * rows * inner * columns / (time.process_time() - begun))
    return best


def canvas(prompt: int, new: int, batch: int) -> torch.Tensor:
    tokens_BL = torch.randint(VOCABULARY, (batch, prompt + new), generator=seeding.generator(0, "prompt"))
    tokens_BL[:, prompt:] = MASK
    return tokens_BL


Times = dict[str, list[tuple[float, float]]]


def timed_runs(sides: dict[str, Callable[[], object]], budget: float) -> tuple[Times, dict[str, object]]:
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


def masked_case(model, options, *, kind: str, prompt: int, new: int, batch: int, steps: int, weight: float) -> dict:
    """A whole run of each side."""
    arguments = masked_arguments(kind, prompt, new, batch, steps, weight)
    seeds = itertools.count()
    sampled: list[samplers.Sampled] = []
    sides = {
        "reference": lambda: released(model, *arguments),
        "ours": lambda: sampled.append(ours(MaskedLogits(model), *arguments, next(seeds))),
    }
    seconds, returned = timed_runs(sides, options.budget)
    while kind == "ancestral" and len(sampled) < 3:  # the number of calls depends on the seed
        seconds["ours"] += timed_runs({"ours": sides["ours"]}, 0.0)[0]["ours"]
    found = report(seconds, batch * new, mean_of=("ours",) if kind == "ancestral" else ())
    calls = statistics.mean(each.network_calls_B.double().mean().item() for each in sampled)
    found["network_calls"] = {"reference": steps * (2 if weight else 1), "ours": calls}
    if kind == "greedy" and batch == 1:
        found["same_tokens"] = (sampled[0].tokens_BL == returned["reference"]).double().mean().item()
    counted = Counted(model)
    for seed in range(len(sampled)):
        ours(counted, *arguments, seed)
    return {**found, **limits(found, counted.flops / len(sampled), options.peak)}


def grid_case(model, options, *, kind: str, prompt: int, new: int, batch: int, steps: int, weight: float) -> dict:
    """Some steps of each side, spread over the run."""
    arguments = masked_arguments(kind, prompt, new, batch, steps, weight)
    timed = options.timed if batch > 1 else 2 * options.timed
    clock = Clock()
    released(model, *arguments, clock, timed)
    ours_clock, ours_steps, flops, calls = ours_thinned(model, arguments, 0, timed)
    seconds = {"reference": [whole_run(clock, steps)], "ours": [whole_run(ours_clock, ours_steps)]}
    found = report(seconds, batch * new)
    del found["runs"]
    found["timed_steps"] = {"reference": len(clock.steps), "ours": len(ours_clock.steps)}
    found["steps_with_calls"] = {"reference": steps, "ours": ours_steps}
    found["network_calls"] = {"reference": steps * (2 if weight else 1), "ours": calls}
    return {**found, **limits(found, flops, options.peak)}


def whole_run(clock: Clock, steps: int) -> tuple[float, float]:
    return tuple(statistics.mean(values) * steps for values in zip(*clock.steps, strict=True))


def masked_arguments(kind: str, prompt: int, new: int, batch: int, steps: int, weight: float) -> tuple:
    tokens_BL = canvas(prompt, new, batch)
    return tokens_BL, tokens_BL != MASK, kind, steps, weight, 1.0 if kind == "ancestral" else 0.0


def limits(found: dict, flops: float, peak: float) -> dict:
    """What the FLOPs of the network in ours would take at the peak, and the ratio that this would give."""
    least = flops / peak
    seconds = found["cpu_seconds"]
    return {
        "network_gflop": flops / 1e9,
        "least_cpu_seconds": least,
        "share_of_peak": least / seconds["ours"],
        "largest_ratio": seconds["reference"] / least,
    }


def blanks_case(model, options, *, length: int, blanks: int, steps: int) -> dict:
    tokens_BL = torch.randint(VOCABULARY, (1, length), generator=seeding.generator(0, "text"))
    places = torch.randperm(length, generator=seeding.generator(0, "blanks"))[:blanks]
    tokens_BL[0, places] = MASK
    arguments = (tokens_BL, tokens_BL != MASK, "ancestral", steps, 0.0, 1.0)
    clock = Clock()
    released(model, *arguments, clock, options.timed * 4)
    seconds, returned = timed_runs({"ours": lambda: ours(MaskedLogits(model), *arguments)}, options.budget)
    seconds["reference"] = [whole_run(clock, steps)]
    return {
        **report(seconds, blanks),
        "reference_steps_timed": len(clock.steps),
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

    seconds, returned = timed_runs({"no cache": lambda: fill(MaskedLogits(model)), "ours": cached}, budget)
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
    seconds, returned = timed_runs(sides, budget)
    found = report(seconds, batch * new)
    found["same_tokens"] = {
        name: (returned["ours"] == returned[name]).double().mean().item() for name in ("no cache", "transformers")
    }
    return found


def report(seconds: Times, tokens: int, mean_of: tuple[str, ...] = ()) -> dict:
    """Medians, of the sides `mean_of` means: those whose runs differ in what they do."""
    middle = {name: statistics.mean if name in mean_of else statistics.median for name in seconds}
    cpu = {name: middle[name](cpu for cpu, _ in values) for name, values in seconds.items()}
    return {
        "cpu_seconds": cpu,
        "wall_seconds": {name: middle[name](wall for _, wall in values) for name, values in seconds.items()},
        "runs": {name: len(values) for name, values in seconds.items()},
        "tokens_per_cpu_second": {name: tokens / value for name, value in cpu.items()},
        "speed_ratio": {name: value / cpu["ours"] for name, value in cpu.items() if name != "ours"},
    }


def masked(kind: str, prompt: int, batch: int, steps: int, weight: float = 0.0, new: int = 256) -> dict:
    return {"kind": kind, "prompt": prompt, "new": new, "batch": batch, "steps": steps, "weight": weight}


AIMS = {
    "ancestral": masked("ancestral", 16, 1, 256),
    "greedy 64 steps": masked("greedy", 16, 1, 64),
    "blanks 256": {"length": 256, "blanks": 20, "steps": 256},
    "blanks 1024": {"length": 1024, "blanks": 20, "steps": 256},
    "cache, exact": {"prompt": 16, "new": 256, "block": 16, "steps": 64, "exact": True},
    "cache, approximate": {"prompt": 16, "new": 256, "block": 16, "steps": 64, "exact": False},
    "arm": {"prompt": 16, "new": 128, "batch": 1},
    "arm batch 8": {"prompt": 16, "new": 64, "batch": 8},
}
GRID = {
    f"grid: {kind}, prompt {prompt}, batch {batch}, {steps} steps, w={weight:g}": masked(
        kind, prompt, batch, steps, weight
    )
    for kind in ("ancestral", "greedy")
    for batch in (1, 8)
    for prompt in (16, 128)
    for steps in (16, 64, 256)
    for weight in (0.0, 0.5)
}
CASES = {**AIMS, **GRID}
GROUPS = {"all": list(CASES), "aims": list(AIMS), "grid": list(GRID)}


def cell(name: str, options: argparse.Namespace) -> dict:
    case = CASES[name]
    return {**case, "new": options.new} if "kind" in case else case


def measure(name: str, mdm, arm, options: argparse.Namespace) -> dict:
    case = cell(name, options)
    if name.startswith("arm"):
        return arm_case(arm, options.budget, **case)
    if name.startswith("cache"):
        return cache_case(options.size, options.budget, **case)
    if name.startswith("blanks"):
        return blanks_case(mdm, options, **case)
    if name.startswith("grid"):
        return grid_case(mdm, options, **case)
    return masked_case(mdm, options, **case)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="19M")
    parser.add_argument("--new", type=int, default=256, help="tokens to write in the masked cases")
    parser.add_argument("--cases", nargs="+", default=["all"], choices=[*GROUPS, *CASES], metavar="NAME")
    parser.add_argument("--budget", type=float, default=6.0)
    parser.add_argument(
        "--timed", type=int, default=4, help="steps of a cell of the grid that are timed, twice at batch 1"
    )
    parser.add_argument("--allocator", default="default", choices=["default", "keep"])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.allocator == "keep":
        machine.keep_freed_memory()
    options.peak = peak_flops()
    settings = {"size": options.size, "new": options.new, "threads": 1, "timed": options.timed}
    result = {"machine": machine.describe(), "versions": machine.versions(), **settings, "rows": []}
    if options.json is not None and options.json.exists():
        before = json.loads(options.json.read_text(encoding="utf-8"))
        same = all(before.get(name) == value for name, value in result.items() if name != "rows")
        if not same:
            raise SystemExit(f"{options.json}: made elsewhere or with other settings: give another file, or delete it")
        result["rows"] = before["rows"]
    done = {(row["case"], row["allocator"]) for row in result["rows"]}
    mdm, arm = network(options.size, causal=False), network(options.size, causal=True)
    ours(MaskedLogits(mdm), *(t := canvas(16, 16, 1), t != MASK), "ancestral", 4, 0.0, 1.0)  # warm up
    names = [name for given in options.cases for name in GROUPS.get(given, [given])]
    for name in dict.fromkeys(names):
        if (name, options.allocator) in done:
            print(f"{name}: done before", flush=True)
            continue
        found = measure(name, mdm, arm, options)
        row = {
            "case": name,
            "allocator": options.allocator,
            "peak_gflops": options.peak / 1e9,
            **cell(name, options),
            **found,
        }
        result["rows"].append(row)
        ratios = ", ".join(f"{value:.2f} times {side}" for side, value in found["speed_ratio"].items())
        most = f" (at most {found['largest_ratio']:.2f})" if "largest_ratio" in found else ""
        print(f"{name}: {found['tokens_per_cpu_second']['ours']:.1f} tokens per CPU second, {ratios}{most}", flush=True)
        if options.json is not None:  # a run that is cut short leaves what it has
            options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
