"""The command line: help, lazy dispatch to `unmask.commands.<name>`, and errors in one line.

A command is a module with a dataclass `Options` and `run(options)`, or with `main(argv)` where its arguments depend on
one another. Nothing heavy is imported before the command is known, so that `unmask --help` answers at once.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import importlib.metadata
import os
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass

from unmask.errors import UnmaskError, UsageError, unknown_name


@dataclass(frozen=True)
class Command:
    """How `unmask --help` introduces one command."""

    summary: str
    example: str


COMMANDS: dict[str, Command] = {
    "demo": Command(
        "See all of it once: a small scaling study on real text, with a report.",
        "unmask demo",
    ),
    "prepare": Command(
        "Turn text files into a tokenized corpus.",
        "unmask prepare books/ --out corpus --tokenizer bpe:4096",
    ),
    "train": Command(
        "Train one model on a corpus. Run again with --resume to go on.",
        "unmask train pretrain --data corpus --size 1.0M --steps 2000 --out runs/first",
    ),
    "sample": Command(
        "Write text with a model, or fill in blanks.",
        'unmask sample runs/first/model --infill "The _ of the Union is _."',
    ),
    "score": Command(
        "The likelihood of a continuation, with its error.",
        'unmask score runs/first/model --prompt "We the" --continuation " people"',
    ),
    "eval": Command(
        "Benchmark tasks through lm-evaluation-harness, with both errors.",
        "unmask eval runs/first/model --tasks piqa,lambada_openai --limit 200",
    ),
    "compare": Command(
        "Evaluations side by side, with paired differences.",
        "unmask compare mdm.json arm.json --format latex",
    ),
    "join": Command(
        "One evaluation from its parts: other tasks, or other items of a task.",
        "unmask join piqa-0.json piqa-1000.json --out piqa.json",
    ),
    "tune-guidance": Command(
        "Choose the guidance weight on a part of a task; report on the rest.",
        "unmask tune-guidance runs/first/model --task openbookqa",
    ),
    "benchmark-data": Command(
        "Benchmark data for unmask eval from a package, for a machine without the hub.",
        "unmask benchmark-data --out benchmarks-data",
    ),
    "perplexity": Command(
        "Nats per token and bits per byte of a model on texts.",
        "unmask perplexity runs/first/model held-out.txt",
    ),
    "quality": Command(
        "Figures on generated texts: perplexity under a reference, entropy, repetition, copies.",
        "unmask quality mdm.jsonl arm.jsonl --reference smollm2 --training corpus",
    ),
    "frontier": Command(
        "Speed against quality: an MDM's samplers beside an ARM with its cache.",
        "unmask frontier --mdm runs/mdm --arm runs/arm --reference smollm2 --out frontier",
    ),
    "mtbench": Command(
        "MT-Bench: answers of chat models, a judge's grades, score against seconds.",
        "unmask mtbench answers runs/chat --questions question.jsonl --out mt-bench",
    ),
    "convert": Command(
        "Open other people's checkpoints: SMDM, LLaDA, Dream, Llama and Qwen, GGUF.",
        "unmask convert smdm mdm-1028M.safetensors mdm-1028M",
    ),
    "export": Command(
        "Write a model for other programs: Llama, SMDM.",
        "unmask export runs/arm arm-llama --to llama",
    ),
    "reversal": Command(
        "Train on sentences in one direction, ask in both: the reversal curse.",
        "unmask reversal --out runs/reversal --people 40",
    ),
    "gsm8k": Command(
        "Problems: GSM8K and multiplication with rationales, countdown; MDM and ARM.",
        "unmask gsm8k --out runs/multiplication --digits 2",
    ),
    "temporal": Command(
        "Train on a period, ask about later texts: MDM and ARM at equal compute and at 16x.",
        "unmask temporal novels/ --until 1879 --since 1906 --out runs/temporal",
    ),
    "scaling": Command(
        "Plan, run, fit and report a study over sizes and budgets.",
        "unmask scaling fit points.csv --method isoflop",
    ),
}
"""The commands in the order of a first use."""

REMEDIES: dict[int, str] = {
    errno.ENOSPC: "free some space, then run the command again",
    errno.EDQUOT: "free some of the quota, then run the command again",
    errno.EACCES: "check its permissions, or choose another place",
    errno.EPERM: "check its permissions, or choose another place",
    errno.EROFS: "choose a place that can be written to",
    errno.ENOENT: "check the path",
    errno.ENOTDIR: "check the path",
    errno.EISDIR: "name a file, not a folder",
    errno.EEXIST: "remove it, or choose another place",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
}
"""What to do about an `OSError`, by its number."""

INTERRUPTED = 130
PIPE_CLOSED = 141


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (default: the process's own) and return the exit status.

    0 is success, 1 a failure, 2 a usage error, 130 an interruption from the keyboard. A failure prints one line on
    standard error; `--debug`, anywhere, adds the traceback.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    try:
        _dispatch(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader (such as `head`) has all it wanted.
        _discard_unwritten_output()
        return PIPE_CLOSED
    except KeyboardInterrupt:
        print("\nunmask: interrupted", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        if debug:
            traceback.print_exc()
        message, status = explain(error)
        if not getattr(error, "told_elsewhere", False):
            _report(message, status)
        _discard_unwritten_output()
        return status
    return 0


def explain(error: Exception) -> tuple[str, int]:
    """The one line that describes `error`, and the exit status."""
    if isinstance(error, UnmaskError):
        return _joined(str(error)), error.exit_status
    if isinstance(error, OSError) and error.errno is not None:
        place = ": ".join(str(name) for name in (error.filename, error.filename2) if name is not None)
        remedy = REMEDIES.get(error.errno, "run again with --debug for the traceback")
        return f"{place + ': ' if place else ''}{error.strerror}: {remedy}", 1
    # Anything else is unforeseen: name it, and say how to see more.
    cause = _joined(str(error)) or "no message"
    return f"{type(error).__name__}: {cause} (run again with --debug for the traceback)", 1


def help_text() -> str:
    """What `unmask --help` prints."""
    lines = [
        "unmask: masked diffusion language models, from text to scaling laws",
        "",
        "A masked diffusion model (MDM) learns to fill in masked tokens at every masking rate, and writes text by",
        "revealing masks in any order. unmask trains such models beside autoregressive ones (ARMs) on the same data,",
        "network and budget, fits how both scale, scores and samples them.",
        "",
        "usage: unmask COMMAND ...",
        "",
        "Commands, in the order of a first use:",
        "",
    ]
    for name, command in COMMANDS.items():
        lines += [f"  {name:<15} {command.summary}", f"{'':<14}{command.example}", ""]
    lines += [
        "unmask COMMAND --help     every option of a command",
        "unmask --version          the version",
        "--debug                   anywhere: the traceback of an error",
        "",
        "A training run on several processes: torchrun --nproc-per-node 2 -m unmask train ...",
    ]
    return "\n".join(lines)


def _dispatch(arguments: list[str]) -> None:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(help_text())
        return
    name, *rest = arguments
    if name in ("-V", "--version"):
        print(f"unmask {importlib.metadata.version('unmask')}")
        return
    if name.startswith("-"):
        raise UsageError(f"unknown option {name!r} before a command: see unmask --help")
    if name not in COMMANDS:
        raise unknown_name("command", name, COMMANDS)

    from unmask.machine import set_up_environment

    set_up_environment()
    command = importlib.import_module(f"unmask.commands.{name.replace('-', '_')}")
    if hasattr(command, "main"):
        command.main(rest)
        return

    from unmask import arguments as parser

    command.run(parser.parse(command.Options, rest, prog=f"unmask {name}"))


def _report(message: str, status: int) -> None:
    """Print an error line; of several processes, only the first speaks of a usage error, which all of them have."""
    rank = os.environ.get("RANK")
    if rank is None:
        print(f"unmask: error: {message}", file=sys.stderr)
    elif rank == "0" or status != UsageError.exit_status:
        print(f"unmask: error: process {rank}: {message}", file=sys.stderr)


def _discard_unwritten_output() -> None:
    """Where standard output takes no more, drop what is left: Python would try once more at exit, and complain."""
    try:
        sys.stdout.flush()
    except OSError:
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _joined(message: str) -> str:
    """`message` in one line."""
    return " ".join(message.split())
