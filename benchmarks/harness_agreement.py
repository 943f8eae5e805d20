"""Our autoregressive path against the harness's own `hf` class, on the same weights and items.

    python benchmarks/harness_agreement.py OURS THEIRS --data-dir DIR [--tasks piqa,arc_easy] [--limit 20]
        [--model-args gguf_file=FILE] [--json FILE]

OURS is a model directory that `unmask convert` made of THEIRS, a folder that Transformers opens. Printed for each task:
the largest difference of a request's log-likelihood, how many greedy answers and how many items differ, both
accuracies, and the seconds of each.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from unmask import machine
from unmask.evals.evaluate import Run, evaluate
from unmask.evals.task_names import require_harness


def scores(result: dict, task: str) -> list[list[tuple[float, bool]]]:
    return [sample["filtered_resps"] for sample in result["samples"][task]]


def compare(ours: dict, theirs: dict, task: str) -> dict:
    pairs = [
        (one, other)
        for mine, other_scores in zip(scores(ours, task), scores(theirs, task), strict=True)
        for one, other in zip(mine, other_scores, strict=True)
    ]
    metrics = {}
    for metric, figures in theirs["unmask"]["tasks"][task]["metrics"].items():
        mine = ours["unmask"]["items"][task].get(metric, [])
        other = theirs["unmask"]["items"][task].get(metric, [])
        metrics[metric] = {
            "ours": ours["unmask"]["tasks"][task]["metrics"][metric]["value"],
            "hf": figures["value"],
            "items_that_differ": sum(a != b for a, b in zip(mine, other, strict=True))
            if metric != "perplexity"
            else None,
        }
    alone = all(len(each) == 1 for each in scores(theirs, task))  # else nobody asks for greedy answers
    return {
        "items": len(scores(theirs, task)),
        "requests": len(pairs),
        "largest_difference_nats": max(abs(one[0] - other[0]) for one, other in pairs),
        "largest_log_likelihood": max(abs(other[0]) for _, other in pairs),
        "greedy_answers_that_differ": sum(one[1] != other[1] for one, other in pairs) if alone else None,
        "metrics": metrics,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ours")
    parser.add_argument("theirs")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--tasks", default="piqa,arc_easy")
    parser.add_argument("--limit", type=int, default=20)
    parser.add_argument("--model-args", default="", help="further arguments of the hf class, as name=value,...")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    require_harness()
    from lm_eval.api.registry import get_model

    from unmask.evals.harness import UnmaskLM

    run = Run(tuple(options.tasks.split(",")), options.data_dir, options.limit)
    seconds = {}
    results = {}
    for name in ("ours", "hf"):
        if name == "ours":
            model = UnmaskLM(options.ours, device="cpu", progress=False)
        else:
            further = f"pretrained={options.theirs},device=cpu,batch_size=8,{options.model_args}".rstrip(",")
            model = get_model("hf").create_from_arg_string(further)
        begun = time.process_time()
        results[name] = evaluate(model, run)
        seconds[name] = time.process_time() - begun
    found = {task: compare(results["ours"], results["hf"], task) for task in run.tasks}
    for task, each in found.items():
        accuracy = ", ".join(f"{name} {both['ours']:.4f} / {both['hf']:.4f}" for name, both in each["metrics"].items())
        print(
            f"{task}: {each['requests']} requests of up to {each['largest_log_likelihood']:.0f} nats differ by at most "
            f"{each['largest_difference_nats']:.1e}; {accuracy} (ours / hf)"
        )
    print(f"processor seconds: ours {seconds['ours']:.0f}, hf {seconds['hf']:.0f}")
    if options.json:
        result = {
            "machine": machine.describe(),
            "versions": machine.versions(),
            "limit": options.limit,
            "processor_seconds": seconds,
            "tasks": found,
        }
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
