"""Fine-tuning on prompts with answers: the answers are corrupted and scored, the prompts never.

What is read, validated on and shown is here; `unmask.train.sft_batches` has the batches.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from unmask import likelihood, objectives
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
from unmask.objectives import Objective
from unmask.records import Record
from unmask.sft_config import SftConfig
from unmask.train import lora
from unmask.train.parallel import World
from unmask.train.sft_batches import SftBatches
from unmask.wording import counted

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
        held_out = held_out.distinct()  # copies would say nothing new, and make the error look smaller than it is
        facts: Record = {
            "train_tokens": len(train.tokens_T),
            "answer_tokens": len(train.tokens_T) - int(train.prompts_N.sum()),
            "examples": len(train),
            "held_out": len(held_out),
            "formats": found.formats,
            "too_long": found.too_long,
            "broken": len(found.broken),
            **({"base": source.digest()} if run.lora_rank else {}),
        }
        order = Order(
            train.lengths_N,
            batch_size=run.batch_size,
            seed=run.seed,
            bucket_batches=run.bucket_batches,
            packing=run.packing,
        )
        tokenizer = source.tokenizer.with_chat_template(template.source)
        digest = f"{train.digest()}-{held_out.digest()}"
        return cls(run, tokenizer, train, held_out, order, digest, facts, _warnings(run, found, held_out))

    def steps(self, params: int) -> int:
        """As many epochs as the run asks for, or its steps."""
        return self.run.steps_of(len(self.train))

    def tokens(self, steps: int) -> int:
        """Padding included."""
        return self.order.total_tokens(steps)

    def batches(self, corrupt: Objective, world: World) -> SftBatches:
        """Examples in their order, corrupted."""
        assert self.tokenizer.eos_id is not None
        mask_id = None if self.run.objective in objectives.CAUSAL else self.tokenizer.mask_id
        rows = world.rows(self.run.batch_size)
        first_scored = mask_id is not None or self.tokenizer.bos_id is not None
        return SftBatches(
            self.run, self.train, self.order, corrupt, world, rows, self.tokenizer.eos_id, mask_id, first_scored
        )

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


def _warnings(run: SftConfig, found: examples.Read, held_out: Examples) -> list[str]:
    told: list[str] = []
    for count, what in ((found.cut, "cut"), (found.too_long - found.cut, "left out")):
        if count:
            told.append(f"{counted(count, 'example')} of more than {run.length:,} tokens: {what}")
    if found.broken:
        more = f" and {len(found.broken) - SHOWN:,} more" if len(found.broken) > SHOWN else ""
        told.append(f"{counted(len(found.broken), 'item')} left out: {'; '.join(found.broken[:SHOWN])}{more}")
    if run.validation_share and run.validation_windows and not len(held_out):
        told.append(
            "there is but one conversation, so none is held out to validate on: --validation-conversations gives some"
        )
    return told
