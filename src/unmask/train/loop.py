"""The training loop, from top to bottom.

`train` yields a record for everything worth knowing (and writes the same to `metrics.jsonl`); whoever calls it shows
progress, or just exhausts it. The loss is `sum(weights * cross_entropy) / (B * L)` over the global batch, see
`unmask.objectives`. All noise derives from (seed, purpose, step), so a run that is resumed goes on as if it had never
stopped, to the last bit on one CPU process.

Shapes: B rows of this process, L positions.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unmask import machine, objectives, seeding
from unmask.config import RunConfig
from unmask.data import packed
from unmask.data.pipeline import Batches
from unmask.errors import UnmaskError, UsageError
from unmask.model import Transformer
from unmask.objectives import Corrupted, Objective, Rows
from unmask.parametrization import Parametrization
from unmask.records import Record
from unmask.train import optim, parallel, run_directory, starting_point
from unmask.train.checkpoint import Checkpointer
from unmask.train.metrics import MetricsWriter, finite
from unmask.train.parallel import World
from unmask.train.starting_point import StartingPoint
from unmask.train.stop import StopRequest
from unmask.train.validation import Validation

SKIPS_IN_A_ROW = 3
"""So many steps with a non-finite loss or gradient end the run."""


def train(
    run: RunConfig, directory: Path, *, resume: bool = False, on_request: Callable[[], None] | None = None
) -> Iterator[Record]:
    """Train `run` in `directory`, yielding the records of `metrics.jsonl` as they are written.

    The last record is `end`, or `stop` if SIGINT or SIGTERM asked for an early stop (the state is saved and `resume`
    continues). With `resume` a run goes on from its last checkpoint, a new directory begins one, and a run that has
    ended yields its `end` record and does nothing. `on_request` is called at once when such a signal comes.

    Raises `UsageError` for a config that cannot run or a directory that holds another run, `UnmaskError` for damaged
    data, a checkpoint that cannot be written, or a loss that stays non-finite.
    """
    world = parallel.join()
    with StopRequest(on_request) as stop, ExitStack() as stack:
        # everything that can be wrong with the configuration or the data, before anything is written
        if not run.data:
            raise UsageError("run config: no data: give --data, a directory made by unmask prepare or token files")
        source = starting_point.source(run)
        open_corpus = functools.partial(packed.open_corpus, run.data, run.tokenizer, source and source.tokenizer)
        world.on_main(lambda: open_corpus().directory)  # one reads all of it to check it, the others trust that
        corpus = open_corpus()
        beginning = starting_point.find(run, corpus, source)
        config = beginning.config
        parametrization = Parametrization.of(run, config)
        steps = run.total_steps(config.params)
        rows = world.rows(run.batch_size)
        corrupt = with_settings(run, config.mask_id, corpus.tokenizer.bos_id)
        corrupt(torch.zeros(1, 1, dtype=torch.int64), torch.Generator())  # complains of missing tokens
        batches = Batches(
            corpus.split("train"),
            length=run.length,
            batch_size=run.batch_size,
            seed=seeding.derived_seed(run.seed, "data order"),
            rows=slice(rows.start, rows.start + run.batch_size // world.size),
            unique_tokens=run.unique_tokens,
        )
        validation = Validation.open(run, corpus)
        claim = run_directory.claimed(directory, run, corpus, resume=resume, world=world)
        ended = stack.enter_context(claim)
        if ended is not None:
            yield ended
            return

        # the network, and where it is
        if world.device.type == "cpu":
            machine.keep_freed_memory()
        bfloat16 = parallel.bfloat16_wanted(run.precision, world.device)
        model, warnings = build_model(beginning, run, world, parametrization, bfloat16=bfloat16)
        optimizer = optim.build_optimizer(model, run, parametrization)
        checkpoints = Checkpointer(
            directory / "checkpoints",
            keep=run.keep_checkpoints,
            asynchronous=on_gpu_only(run.async_checkpoints, world),
            world=world,
        )
        restored = checkpoints.restore(model, optimizer)
        clock = Stopwatch(restored.seconds)
        first, tokens_per_step, skipped = restored.step, run.batch_size * run.length, 0

        def spent(done: int) -> Record:
            tokens = done * tokens_per_step
            return {"step": done, "tokens": tokens, "flops": 6.0 * config.params * tokens}

        metrics = MetricsWriter(directory, tensorboard=run.tensorboard, first_step=first, main=world.is_main)
        stack.callback(metrics.close)
        data = stack.enter_context(closing(batches.iterate(first)))
        start = run_directory.start_record(run, config, corpus, steps=steps, first_step=first, world=world)
        yield metrics.write(start)
        for message in (*restored.warnings, *warnings):
            yield metrics.write({"kind": "warning", "step": first, "message": message})

        for step, tokens in zip(range(first, steps), data, strict=False):
            done = step + 1
            rate = optim.learning_rate(run, step, steps)
            optim.set_learning_rate(optimizer, rate)

            # the gradient of the global batch
            parts = micro_batches(torch.from_numpy(tokens), run, step, corrupt, rows)
            seen_LL = starting_point.attention(run, step, steps) if beginning.adapted else None
            loss = backward(model, parts, seen_LL, tokens=tokens_per_step, world=world, bfloat16=bfloat16)
            norm = optim.gradient_norm(model, run.clip)

            # the update, unless something overflowed
            if math.isfinite(loss) and math.isfinite(norm):
                optimizer.step()
                skipped = 0
            else:
                skipped += 1
                reason = f"loss {loss:.6g}, gradient norm {norm:.6g}"
                yield metrics.write({"kind": "skip", "step": done, "learning_rate": rate, "reason": reason})
                if skipped == SKIPS_IN_A_ROW:
                    checkpoints.wait()
                    # the weights after the last update gave the first of these steps: they are not good
                    good = checkpoints.newest(before=done - skipped)
                    error = UnmaskError(
                        f"{directory}: loss or gradient not finite in {skipped} steps in a row, at step {done}, "
                        f"learning rate {rate:.3g}; last good checkpoint: {good}: lower the rate in another --out"
                    )
                    raise world.told_once(error)
            optimizer.zero_grad(set_to_none=True)

            # report, validate, save
            clock.count(tokens_per_step)
            if done % run.log_every == 0 or done == steps:
                record: Record = {"kind": "train", **spent(done), "loss": finite(loss), "grad_norm": finite(norm)}
                record |= {"learning_rate": rate, "tokens_per_second": clock.rate(), "seconds": clock.seconds}
                record |= {"bidirectional": starting_point.annealed(run, step, steps)} if beginning.adapted else {}
                yield metrics.write(record)
            if validation and run.validate_every and done % run.validate_every == 0 and done < steps:
                with clock.paused():
                    result = validation.measure(model, world, bfloat16=bfloat16)
                yield metrics.write({"kind": "valid", **spent(done), **result})
            # weights that gave something non-finite are not worth a checkpoint
            stopping = world.any(stop.signal is not None) and not skipped
            with clock.paused():
                checkpoints.poll()
                if stopping or done == steps or (done % run.checkpoint_every == 0 and not skipped):
                    checkpoints.save(done, model, optimizer, seconds=clock.seconds)
            if stopping:
                checkpoints.wait()
                heard = stop.signal or "a signal to another process"
                yield {"kind": "stop", **spent(done), "signal": heard, "steps": steps}
                return

        # the end: the last validation, and the model in Hugging Face layout
        checkpoints.wait()
        end: Record = {"kind": "end", **spent(steps), "params": config.params, "objective": run.objective}
        end |= {"size": run_directory.size_name(run, config), "flop_convention": "6nd"}
        if validation:
            result = validation.measure(model, world, bfloat16=bfloat16)
            yield metrics.write({"kind": "valid", **spent(steps), **result})
            end |= result
        run_directory.save_model(directory, model, run, corpus, world)
        yield metrics.write({**end, "seconds": clock.seconds})


def build_model(
    beginning: StartingPoint, run: RunConfig, world: World, parametrization: Parametrization, *, bfloat16: bool
) -> tuple[Transformer, list[str]]:
    """The network of the run before its first step, compiled if wanted, sharded; and what to warn of."""
    model = beginning.build(run.seed, parametrization)
    model.activation_checkpointing = run.activation_checkpointing
    model.to(world.device)
    compiled = on_gpu_only(run.compile, world)
    problem = parallel.compile_blocks(model, world.device) if compiled else None
    parallel.distribute(model, world, bfloat16=bfloat16)
    return model, [] if problem is None else [f"{problem}: going on without it"]


def on_gpu_only(wanted: bool | None, world: World) -> bool:
    """What None means for some fields of a run."""
    return world.device.type == "cuda" if wanted is None else wanted


def with_settings(run: RunConfig, mask_id: int | None, bos_id: int | None) -> Objective:
    """The run's objective with the run's settings and the tokens that it needs."""
    settings: dict[str, Any] = {"mask_id": mask_id, "bos_id": bos_id}
    if run.objective == "mdm":
        settings |= {"eps": run.mask_eps, "stratified": run.stratified, "weighting": run.weighting}
    elif run.objective in ("mlm", "span"):
        settings |= {"rate": run.mask_rate}
    elif run.objective in objectives.BLOCK_CAUSAL:
        settings |= {"block_length": run.block_length}
    return functools.partial(objectives.lookup(run.objective), **settings)


def micro_batches(tokens_BL: Tensor, run: RunConfig, step: int, corrupt: Objective, rows: Rows) -> list[Corrupted]:
    """This process's part of the batch of `step`, corrupted: as many sequences at a time as the run asks for.

    In a step of short sequences these are the pieces of the long ones. All parts are scored as one batch.
    """
    parts: list[Corrupted] = []
    for number, (piece_BL, piece_rows) in enumerate(cut(tokens_BL, rows, piece_length(run, step))):
        generator = seeding.generator(run.seed, f"corruption {number}", step)
        corrupted = corrupt(piece_BL, generator, rows=piece_rows)
        # as many tokens at a time as of whole sequences
        parts += split(corrupted, run.micro_batch_size * (run.length // piece_BL.shape[1]))
    return parts


def piece_length(run: RunConfig, step: int) -> int:
    """Sequence length of `step`: `run.length`, or for the `short_share` of the steps one from U[1, length]."""
    if run.objective in objectives.CAUSAL or run.short_share == 0:
        return run.length
    generator = seeding.generator(run.seed, "short sequences", step)
    if torch.rand((), generator=generator).item() >= run.short_share:
        return run.length
    return int(torch.randint(1, run.length + 1, (), generator=generator).item())


def cut(tokens_BL: Tensor, rows: Rows, length: int) -> list[tuple[Tensor, Rows]]:
    """Cut rows into pieces of `length` tokens, and what remains of each row into one shorter piece.

    Returns one batch of equally long pieces, or two; every token is in exactly one of them.
    """
    each, rest = divmod(tokens_BL.shape[1], length)
    whole = tokens_BL[:, : each * length].reshape(-1, length)
    pieces = [(whole, Rows(rows.start * each, rows.total * each))]
    if rest:
        pieces.append((tokens_BL[:, each * length :], rows))
    return pieces


def split(corrupted: Corrupted, micro_batch_size: int) -> list[Corrupted]:
    """The micro-batches of one corrupted batch; 0 for all rows at once."""
    size = micro_batch_size or len(corrupted.inputs_BL)
    return [
        Corrupted(
            corrupted.inputs_BL[start : start + size],
            corrupted.targets_BL[start : start + size],
            corrupted.weights_BL[start : start + size],
            None if corrupted.clean_BL is None else corrupted.clean_BL[start : start + size],
        )
        for start in range(0, len(corrupted.inputs_BL), size)
    ]


def backward(
    model: Transformer,
    parts: Sequence[Corrupted],
    seen_LL: Tensor | None = None,
    *,
    tokens: int,
    world: World,
    bfloat16: bool,
) -> float:
    """Add the gradient of the loss per token to `model` and return the loss.

    `parts` are the micro-batches of this process, `tokens` those of the global batch, over which the loss is a mean.
    `seen_LL` says which positions see which, in an adapted network whose attention is not bidirectional yet.
    """
    seen_LL = None if seen_LL is None else seen_LL.to(world.device)
    total = torch.zeros((), device=world.device)
    for number, part in enumerate(parts, 1):
        parallel.set_gradient_sync(model, number == len(parts))
        inputs_BL, targets_BL, weights_BL = (
            each.to(world.device) for each in (part.inputs_BL, part.targets_BL, part.weights_BL)
        )
        clean_BL = None if part.clean_BL is None else part.clean_BL.to(world.device)
        with torch.autocast(world.device.type, torch.bfloat16, enabled=bfloat16):
            width = inputs_BL.shape[1]
            attend_LL = None if seen_LL is None else seen_LL[:width, :width]
            loss = model.loss(inputs_BL, targets_BL, weights_BL, attend_LL=attend_LL, clean_BL=clean_BL) / tokens
        (loss * world.size).backward()  # FSDP takes the mean over processes
        total += loss.detach()
    return world.sum(total).item()


class Stopwatch:
    """Seconds of the whole run, and tokens per second of the training between two reports."""

    def __init__(self, before: float) -> None:
        """`before`: seconds that the run took before it was resumed."""
        self._start = time.perf_counter() - before
        self._last = time.perf_counter()
        self._tokens = 0

    @property
    def seconds(self) -> float:
        """Seconds of the run up to now."""
        return time.perf_counter() - self._start

    def count(self, tokens: int) -> None:
        """Note that `tokens` more were trained on."""
        self._tokens += tokens

    def rate(self) -> float:
        """Tokens per second since the last call, pauses left out."""
        now = time.perf_counter()
        rate = self._tokens / (now - self._last)
        self._tokens, self._last = 0, now
        return rate

    @contextmanager
    def paused(self) -> Generator[None]:
        """Leave the time of the block out of the rate."""
        begun = time.perf_counter()
        yield
        self._last += time.perf_counter() - begun
