"""Fine-tuning on prompts with answers: the answers are corrupted and scored, the prompts never.

The loss of a step is divided by the answer positions of its global batch (Nie et al., 2025, and its code; there, of a
micro-batch). With padding "eos" these are all positions behind a prompt, up to the end of the batch's longest example;
with "masked" what fills up is neither scored nor seen. For standard guidance the prompt of an example is masked as a
whole, by a choice of its own.

Shapes: B rows of this process, G rows of the global batch, L positions of its longest example.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass

import torch

from unmask import likelihood, objectives, seeding
from unmask.data import chat_template, examples
from unmask.data.examples import Examples, Order
from unmask.data.no_tokenizer import NoTokenizer
from unmask.data.tokenizer import Tokenizer
from unmask.errors import UnmaskError, UsageError
from unmask.evals import perplexity
from unmask.language_model import LanguageModel
from unmask.model import Transformer
from unmask.model_directory import Stored
from unmask.network_logits import CausalLogits, MaskedLogits
from unmask.objectives import Objective, Rows
from unmask.records import Record
from unmask.sft_config import SftConfig
from unmask.train import lora
from unmask.train.parallel import World
from unmask.train.tasks import Batch, split

SPLIT = "held-out"
"""What records call what a run is validated on."""
MASK_SEED = 0
"""One for all runs, whatever their own seed."""
SHOWN = 3
"""Items that were left out and are named."""


@dataclass(frozen=True)
class SftTask:
    """A `Task`: examples from files of conversations."""

    run: SftConfig
    tokenizer: Tokenizer
    train: Examples
    held_out: Examples
    order: Order
    digest: str
    facts: Record
    warnings: list[str]

    @classmethod
    def open(cls, run: SftConfig, source: Stored) -> SftTask:
        """Read the examples of a settled `run`, in the tokens of the model to start from.

        Raises `UsageError` for a model without a tokenizer or an end-of-text token and for prompts dropped without a
        mask token, and `UnmaskError` for files that hold no conversations.
        """
        if not run.conversations:
            raise UsageError("run config: no data: give --data, one or more files of conversations")
        causal = run.objective in objectives.CAUSAL
        if causal and run.prompt_drop:
            raise UsageError(
                f"prompt_drop {run.prompt_drop}: a prompt is dropped by masking it, and objective {run.objective} "
                "trains without a mask token: leave it out"
            )
        if isinstance(source.tokenizer, NoTokenizer):
            raise UsageError(
                f"{run.init_from}: has no tokenizer to read conversations with: put its tokenizer.json there"
            )
        if run.lora_rank:
            lora.settings(run)  # complains where it cannot be had
        template = chat_template.find(run.template, source.tokenizer, run.init_from)

        def read(files: Sequence[str]) -> examples.Read:
            return examples.read(
                files,
                template,
                length=run.length,
                turns=run.turns,
                too_long=run.too_long,
                on_broken=run.broken,
                leading_bos=not causal,  # the objective brings it
            )

        found = read(run.conversations)
        if run.validation_conversations:
            train, held_out = found.examples, read(run.validation_conversations).examples
        else:
            chosen = examples.held_out(found.groups, run.validation_share if run.validation_windows else 0)
            held_out = examples.part(found.examples, chosen)
            train = examples.part(found.examples, [not each for each in chosen])
        facts: Record = {
            "train_tokens": len(train.tokens_T),
            "answer_tokens": len(train.tokens_T) - int(train.prompts_N.sum()),
            "examples": len(train),
            "held_out": len(held_out),
            "formats": found.formats,
            "too_long": found.too_long,
            "broken": len(found.broken),
            **({"base": _digest(source)} if run.lora_rank else {}),
        }
        order = Order(train.lengths_N, batch_size=run.batch_size, seed=run.seed, bucket_batches=run.bucket_batches)
        tokenizer = source.tokenizer.with_chat_template(template.source)
        digest = f"{train.digest()}-{held_out.digest()}"
        return cls(run, tokenizer, train, held_out, order, digest, facts, _warnings(run, found))

    def steps(self, params: int) -> int:
        """As many epochs as the run asks for, or its steps."""
        return self.run.steps_of(len(self.train))

    def tokens(self, steps: int) -> int:
        """Padding included."""
        return self.run.batch_size * self.order.total_width(steps)

    def batches(self, corrupt: Objective, world: World) -> SftBatches:
        """Examples in their order, corrupted."""
        assert self.tokenizer.eos_id is not None
        rows = world.rows(self.run.batch_size)
        here = slice(rows.start, rows.start + self.run.batch_size // world.size)
        mask_id = None if self.run.objective in objectives.CAUSAL else self.tokenizer.mask_id
        return SftBatches(self.run, self.train, self.order, corrupt, rows, here, self.tokenizer.eos_id, mask_id)

    def validation(self) -> SftValidation | None:
        """On the held-out examples, spread evenly over them; None where there is none or the run wants none."""
        chosen = perplexity.spread(len(self.held_out), self.run.validation_windows)
        if not chosen:
            return None
        pairs = [self.held_out[index] for index in chosen]
        requests = [likelihood.Request(tuple(pair.prompt), tuple(pair.answer)) for pair in pairs]
        size = sum(len(self.tokenizer.decode(pair.answer).encode()) for pair in pairs)
        return SftValidation(requests, max(1, size), self.run.validation_draws, self.tokenizer.bos_id)

    def samples(self, done: int, model: Transformer, world: World, *, bfloat16: bool) -> list[Record]:
        """The likeliest answers to some held-out prompts, every `sample_every` steps: `samples` of a record.

        A masked network fills blocks from the left. It gets `sample_tokens` blanks, or with masked padding, where it
        takes the blanks for the length to write, as many as the answer that is known has.
        """
        run, config = self.run, model.config
        if not run.sample_every or done % run.sample_every:
            return []
        lm = LanguageModel(model, self.tokenizer, run.objective)
        records: list[Record] = []
        for index in perplexity.spread(len(self.held_out), run.sample_prompts):
            prompt, answer = self.held_out[index]
            wanted = len(answer) if run.padding == "masked" and not config.causal else run.sample_tokens
            count = min(wanted, run.sample_tokens, config.context_length - len(prompt))
            with torch.autocast(world.device.type, torch.bfloat16, enabled=bfloat16):
                (made,) = lm.generate(
                    [prompt], max_new_tokens=count, temperature=0.0, sampler=None if config.causal else "block"
                )
            asked, reference = self.tokenizer.decode(prompt), self.tokenizer.decode(answer)
            calls = {"network_calls": made.network_calls}
            records.append({"prompt": asked, "answer": made.fills[0], "reference": reference, **calls})
        return records


@dataclass(frozen=True)
class SftBatches:
    """Batches of examples, each as long as its longest, the answers corrupted."""

    run: SftConfig
    train: Examples
    order: Order
    corrupt: Objective
    rows: Rows
    here: slice
    """This process's part of a global batch."""
    eos_id: int
    mask_id: int | None
    """None for a causal network."""

    def iterate(self, start_step: int = 0) -> Generator[Batch]:
        """The batches from `start_step` on."""
        step = start_step
        while True:
            yield self[step]
            step += 1

    def __getitem__(self, step: int) -> Batch:
        run, causal = self.run, self.mask_id is None
        numbers_G = self.order[step]
        width = self.order.width(step)
        pairs = [self.train[int(number)] for number in numbers_G[self.here]]
        tokens_BL = torch.full((len(pairs), width), self.eos_id)
        for row, pair in enumerate(pairs):
            both = [*pair.prompt, *pair.answer]
            tokens_BL[row, : len(both)] = torch.tensor(both)
        place_L = torch.arange(width)
        lengths_B1 = torch.from_numpy(self.train.lengths_N[numbers_G[self.here]])[:, None]
        prompt_BL = place_L < torch.from_numpy(self.train.prompts_N[numbers_G[self.here]])[:, None]
        real_BL = place_L < lengths_B1 if run.padding == "masked" else torch.ones_like(prompt_BL)
        widths_G = self.train.lengths_N[numbers_G] if run.padding == "masked" else width
        scored = int((widths_G - self.train.prompts_N[numbers_G]).sum())

        corrupted = self.corrupt(tokens_BL, seeding.generator(run.seed, "corruption", step), rows=self.rows)
        corrupted = objectives.only_at(corrupted, tokens_BL, real_BL & ~prompt_BL, causal=causal)
        if self.mask_id is not None and run.prompt_drop:
            drawn_G = torch.rand(len(numbers_G), generator=seeding.generator(run.seed, "prompt drop", step))
            dropped_B1 = (drawn_G < run.prompt_drop)[self.here, None]
            corrupted = objectives.masked_prompts(corrupted, prompt_BL & dropped_B1, self.mask_id)
        if run.padding == "masked" and not causal:  # behind what a causal network reads, it is not seen anyway
            corrupted = objectives.padded(corrupted, real_BL)
        return Batch(split(corrupted, run.micro_batch_size), scored)


@dataclass(frozen=True)
class SftValidation:
    """The NLL of held-out answers after their prompts, per token: a bound, or exact for a causal network.

    The masks of an example follow from its prompt, the same for every run.
    """

    requests: list[likelihood.Request]
    bytes: int
    """Of the answers' text."""
    draws: int
    bos_id: int | None

    def measure(self, model: Transformer, world: World, *, bfloat16: bool) -> Record:
        """See `tasks.Validation`. Every process measures on everything."""
        causal = model.config.causal
        logits_fn = CausalLogits(model, self.bos_id) if causal else MaskedLogits(model)
        mask_id = model.config.vocab_size if model.config.mask_id is None else model.config.mask_id
        settings = likelihood.Settings("auto" if causal else "stratified", self.draws, seed=MASK_SEED)
        with torch.autocast(world.device.type, torch.bfloat16, enabled=bfloat16):
            scored = likelihood.score(
                logits_fn, self.requests, settings, mask_id=mask_id, causal=causal, device=world.device
            )
        lengths = torch.tensor([len(request.continuation) for request in self.requests])
        losses = torch.tensor([-each.log_likelihood for each in scored.estimates], dtype=torch.float64) / lengths
        found = perplexity.summarise(
            losses, length=lengths, bytes_per_token=self.bytes / lengths.sum().item(), bound=not causal
        ).to_dict()
        if not math.isfinite(found["loss"]):
            raise world.told_once(UnmaskError(f"the loss on {SPLIT!r} is {found['loss']}: lower --learning-rate"))
        del found["tokens"]  # in a record, `tokens` are those of the training
        return {"split": SPLIT, **found}


def _digest(source: Stored) -> str:
    """The SHA-256 of the weights."""
    hashed = hashlib.sha256()
    for name in sorted(source.weights):
        hashed.update(name.encode())
        hashed.update(source.weights[name].contiguous().view(torch.uint8).numpy().tobytes())
    return hashed.hexdigest()


def _warnings(run: SftConfig, found: examples.Read) -> list[str]:
    told: list[str] = []
    if found.too_long:
        what = "left out" if run.too_long == "skip" else "cut"
        told.append(f"{found.too_long:,} examples of more than {run.length:,} tokens are {what}")
    if found.broken:
        more = f" and {len(found.broken) - SHOWN:,} more" if len(found.broken) > SHOWN else ""
        told.append(f"{len(found.broken):,} items are left out: {'; '.join(found.broken[:SHOWN])}{more}")
    return told
