"""The training loop, from top to bottom.

`train` yields a record for everything worth knowing (and writes the same to `metrics.jsonl`); whoever calls it shows
progress, or just exhausts it. What is trained on, and what of it is corrupted and scored, is a `Task`
(`unmask.train.tasks`): a corpus, or conversations. The loss is `sum(weights * cross_entropy) / positions` over the
global batch, see `unmask.objectives`. All noise derives from (seed, purpose, step), so a run that is resumed goes on as
if it had never stopped, to the last bit on one CPU process.

Shapes: B rows of this process, L positions.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import torch
from torch import Tensor

from unmask import machine
from unmask.config import RunConfig
from unmask.errors import UnmaskError, UsageError
from unmask.model import Transformer
from unmask.model_directory import Stored
from unmask.objectives import Corrupted
from unmask.parametrization import Parametrization
from unmask.records import Record
from unmask.sft_config import SftConfig
from unmask.train import lora, optim, parallel, run_directory, starting_point, tasks
from unmask.train.checkpoint import Checkpointer
from unmask.train.metrics import MetricsWriter, finite
from unmask.train.parallel import World
from unmask.train.sft_task import SftTask
from unmask.train.starting_point import StartingPoint
from unmask.train.stop import StopRequest
from unmask.train.tasks import Task
from unmask.train.text_task import TextTask

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
        source = starting_point.source(run)
        run, task = open_task(run, source, world)
        beginning = starting_point.find(run, task, source)
        config = beginning.config
        parametrization = Parametrization.of(run, config)
        steps = task.steps(config.params)
        corrupt = tasks.with_settings(run, config.mask_id, task.tokenizer.bos_id, config.block_length)
        corrupt(torch.zeros(1, 1, dtype=torch.int64), torch.Generator())  # complains of missing tokens
        batches = task.batches(corrupt, world)
        validation = task.validation()
        claim = run_directory.claimed(directory, run, task, resume=resume, world=world)
        ended = stack.enter_context(claim)
        if ended is not None:
            yield ended
            return

        # the network, and where it is
        machine.keep_freed_memory(world.device)
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
        first, skipped = restored.step, 0

        def spent(done: int) -> Record:
            tokens = task.tokens(done)
            return {"step": done, "tokens": tokens, "flops": 6.0 * config.params * tokens}

        metrics = MetricsWriter(directory, tensorboard=run.tensorboard, first_step=first, main=world.is_main)
        stack.callback(metrics.close)
        data = stack.enter_context(closing(batches.iterate(first)))
        start = run_directory.start_record(run, config, task, model, steps=steps, first_step=first, world=world)
        yield metrics.write(start)
        for message in (*restored.warnings, *task.warnings, *warnings):
            yield metrics.write({"kind": "warning", "step": first, "message": message})

        for step, batch in zip(range(first, steps), data, strict=False):
            done = step + 1
            rate = optim.learning_rate(run, step, steps)
            optim.set_learning_rate(optimizer, rate)

            # the gradient of the global batch
            seen_LL = starting_point.attention(run, step, steps) if beginning.adapted else None
            loss = backward(model, batch.parts, seen_LL, tokens=batch.scored, world=world, bfloat16=bfloat16)
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
            clock.count(task.tokens(done) - task.tokens(step))
            if done % run.log_every == 0 or done == steps:
                record: Record = {"kind": "train", **spent(done), "loss": finite(loss), "grad_norm": finite(norm)}
                record |= {"learning_rate": rate, "tokens_per_second": clock.rate(), "seconds": clock.seconds}
                record |= {"bidirectional": starting_point.annealed(run, step, steps)} if beginning.adapted else {}
                yield metrics.write(record)
            if validation and run.validate_every and done % run.validate_every == 0 and done < steps:
                with clock.paused():
                    result = validation.measure(model, world, bfloat16=bfloat16)
                yield metrics.write({"kind": "valid", **spent(done), **result})
                if run.keep_best:
                    run_directory.keep_best(directory, done, result["loss"], model, run, task, world)
            with clock.paused():
                samples = task.samples(done, model, world, bfloat16=bfloat16)
            if samples:
                yield metrics.write({"kind": "sample", "step": done, "samples": samples})
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
            if run.keep_best and run.validate_every:
                end |= run_directory.keep_best(directory, steps, result["loss"], model, run, task, world)
        run_directory.save_model(directory / run_directory.MODEL, model, run, task, world)
        yield metrics.write({**end, "seconds": clock.seconds})


def open_task(run: RunConfig, source: Stored | None, world: World) -> tuple[RunConfig, Task]:
    """What `run` trains on, and `run` with what it takes from its model, the `source`.

    Raises `UsageError` without data or, for conversations, without a model; `UnmaskError` where they are damaged.
    """
    if not isinstance(run, SftConfig):
        return run, TextTask.open(run, source, world)
    if source is None:
        raise UsageError("run config: no model to fine-tune: give --model, a model or run directory")
    settled = run.settled(source.objective, source.config.context_length)
    return settled, SftTask.open(settled, source)


def build_model(
    beginning: StartingPoint, run: RunConfig, world: World, parametrization: Parametrization, *, bfloat16: bool
) -> tuple[Transformer, list[str]]:
    """The network of the run before its first step, compiled if wanted, sharded; and what to warn of."""
    model = beginning.build(run.seed, parametrization)
    if isinstance(run, SftConfig) and run.lora_rank:
        lora.attach(model, run)
    model.activation_checkpointing = run.activation_checkpointing
    model.to(world.device)
    compiled = on_gpu_only(run.compile, world)
    problem = parallel.compile_blocks(model, world.device) if compiled else None
    parallel.distribute(model, world, bfloat16=bfloat16)
    return model, [] if problem is None else [f"{problem}: going on without it"]


def on_gpu_only(wanted: bool | None, world: World) -> bool:
    """What None means for some fields of a run."""
    return world.device.type == "cuda" if wanted is None else wanted


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

    `parts` are the micro-batches of this process, `tokens` those of the global batch over which the loss is a mean.
    `seen_LL` says which positions see which, in an adapted network whose attention is not bidirectional yet.
    """
    seen_LL = None if seen_LL is None else seen_LL.to(world.device)
    total = torch.zeros((), device=world.device)
    for number, part in enumerate(parts, 1):
        parallel.set_gradient_sync(model, number == len(parts))
        inputs_BL, targets_BL, weights_BL = (
            each.to(world.device) for each in (part.inputs_BL, part.targets_BL, part.weights_BL)
        )
        clean_BL, present_BL, segment_BL = (
            None if each is None else each.to(world.device)
            for each in (part.clean_BL, part.present_BL, part.segment_BL)
        )
        with torch.autocast(world.device.type, torch.bfloat16, enabled=bfloat16):
            width = inputs_BL.shape[1]
            attend_LL = None if seen_LL is None else seen_LL[:width, :width]
            seen = {"clean_BL": clean_BL, "present_BL": present_BL, "segment_BL": segment_BL}
            loss = model.loss(inputs_BL, targets_BL, weights_BL, attend_LL=attend_LL, **seen) / tokens
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
