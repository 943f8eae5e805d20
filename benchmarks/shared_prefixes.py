"""An ARM scores the options of a question: their common beginning computed once, against each option alone, in one run.

    python benchmarks/shared_prefixes.py --data-dir DIR [--size 19M] [--items 16] [--repeats 3] [--json FILE]

The requests are those of `unmask eval`, tokenized by Mistral's tokenizer, and the engine is `likelihood.score` both
times: batches by length, the head on scored positions alone. The network has random weights, which change no time. One
thread and seconds of the processor, so that other work on the machine changes little; both ways take turns, and the
fastest of the repeats counts. The likelihoods of both are compared.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch

from unmask import likelihood, machine, seeding
from unmask.config import ModelConfig
from unmask.data import tokenizer as tokenizers
from unmask.evals.offline import load_tasks
from unmask.likelihood import Request, Scored
from unmask.model import Transformer
from unmask.network_logits import CausalLogits
from unmask.sizes import FAMILY

TASKS = ("hellaswag", "boolq")
DRAWN_FROM = 1000
"""The items are spread over the first so many of a task, as those that follow each other may be alike."""


def requests_of(task, tokenizer, items: int) -> list[Request]:
    total = min(DRAWN_FROM, len(task.eval_docs))
    task.build_all_requests(samples=[item * total // items for item in range(items)])
    found = []
    for instance in task.instances:
        context, continuation = instance.args
        whole, given = tokenizer.encode(context + continuation), tokenizer.encode(context)
        found.append(Request(tuple(given), tuple(whole[len(given) :]), question=instance.doc_id))
    return found


def timed(network: Transformer, bos_id: int | None, requests: list[Request], *, shared: bool) -> tuple[float, Scored]:
    logits_fn = CausalLogits(network, bos_id, share_prefixes=shared)
    begun = time.process_time()
    scored = likelihood.score(
        logits_fn, requests, mask_id=network.config.vocab_size, causal=True, vocab_size=network.config.vocab_size
    )
    return time.process_time() - begun, scored


def measure(network: Transformer, bos_id: int | None, requests: list[Request], repeats: int) -> dict:
    timed(network, bos_id, requests[:4], shared=True)  # the first pass is no measure
    seconds: dict[bool, list[float]] = {False: [], True: []}
    values: dict[bool, torch.Tensor] = {}
    for _ in range(repeats):
        for shared in (False, True):
            spent, scored = timed(network, bos_id, requests, shared=shared)
            seconds[shared].append(spent)
            values[shared] = torch.tensor([each.log_likelihood for each in scored.estimates], dtype=torch.float64)
    count = len(requests)
    return {
        "requests": count,
        "prompt_tokens": sum(len(request.prompt) for request in requests) / count,
        "scored_tokens": sum(len(request.continuation) for request in requests) / count,
        "seconds_alone": seconds[False],
        "seconds_shared": seconds[True],
        "requests_per_second_alone": count / min(seconds[False]),
        "requests_per_second_shared": count / min(seconds[True]),
        "speed_ratio": min(seconds[False]) / min(seconds[True]),
        "largest_difference_nats": (values[True] - values[False]).abs().max().item(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--size", default="19M")
    parser.add_argument("--items", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    tokenizer = tokenizers.mistral()
    size = FAMILY[options.size]
    config = ModelConfig(
        n_layer=size.n_layer,
        n_head=size.n_head,
        n_embd=size.n_embd,
        intermediate_size=size.intermediate_size,
        vocab_size=tokenizer.vocab_size,
        context_length=2048,
        mask_id=None,
        causal=True,
    )
    network = Transformer(config).eval()
    network.init_weights(seeding.generator(0, "init"))
    tasks, _ = load_tasks(TASKS, options.data_dir)
    rows = []
    for name, task in zip(TASKS, tasks, strict=True):
        requests = requests_of(task, tokenizer, options.items)
        rows.append({"task": name, **measure(network, tokenizer.bos_id, requests, options.repeats)})
        row = rows[-1]
        print(
            f"{name:10s} {row['prompt_tokens']:.0f} + {row['scored_tokens']:.1f} tokens: "
            f"{row['requests_per_second_alone']:.2f} requests/s alone, {row['requests_per_second_shared']:.2f} shared, "
            f"{row['speed_ratio']:.2f}x; at most {row['largest_difference_nats']:.1e} nats apart",
            flush=True,
        )
    if options.json:
        result = {
            "machine": machine.describe(),
            "versions": machine.versions(),
            "threads": torch.get_num_threads(),
            "size": options.size,
            "items": options.items,
            "repeats": options.repeats,
            "rows": rows,
        }
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
