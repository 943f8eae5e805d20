"""The configuration of a fine-tuning run on conversations: a `RunConfig` with the data and settings of its own.

The defaults are the paper's (Nie et al., 2025, section 5 and its code): the first turn of each conversation in Vicuna's
template, three epochs, batches of 256, a peak rate of 2e-4, 200 steps of warm-up, answers that end with end-of-text and
are padded with it inside the batch. No torch.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Annotated, Literal, TypeVar

from tyro.conf import Suppress, arg

from unmask.config import RunConfig
from unmask.errors import UsageError, problems_error

T = TypeVar("T")
Hidden = Annotated[T, Suppress]
"""A field of other recipes, which --help leaves out; what is wrong with giving it, the check below says."""
WARMUP = 200
LORA_LAYERS = ("qkv", "out", "gate_up", "down")


@dataclass(frozen=True)
class SftConfig(RunConfig):
    """One fine-tuning run."""

    data: Hidden[str] = ""
    tokenizer: Hidden[str] = ""
    unique_tokens: Hidden[int | None] = None
    steps: int | None = None
    """Optimizer steps, in the place of `epochs`."""
    flops: Hidden[float | None] = None
    size: Hidden[str] = ""
    short_share: Hidden[float] = 0.0
    qkv_bias: Hidden[bool] = False
    kv_heads: Hidden[int] = 0
    tied_embeddings: Hidden[bool] = False
    rope_theta: Hidden[float] = 10000.0
    validation_split: Hidden[str] = "valid"
    init_from: Annotated[str, arg(name="model", aliases=("--init-from",))] = ""
    """Model to fine-tune: a model or run directory, a folder of Transformers, or a GGUF file. An autoregressive one
    with --objective mdm is adapted on the way."""
    conversations: Annotated[tuple[str, ...], arg(name="data", aliases=("--conversations",))] = ()
    """Files of conversations: ShareGPT, Alpaca, OpenAI messages, or prompt and completion, as JSON or JSON lines.
    Which it is, the fields tell."""
    validation_conversations: tuple[str, ...] = ()
    """Files to validate on, in place of a held-out share."""
    validation_share: float = 0.02
    """Share of the conversations that is held out to validate on, at least one; copies of one stay together."""
    epochs: float = 3.0
    """Passes over the conversations; `steps` takes their place."""
    template: str = ""
    """Chat template: a Jinja file, or vicuna; by default the tokenizer's own, else Vicuna's. The model keeps it."""
    turns: Literal["first", "all"] = "first"
    """Answers to train on: each conversation's first, or all. Each is an example of its own with all before it as its
    prompt, since a bidirectional network would see the turns that follow."""
    padding: Literal["eos", "masked"] = "eos"
    """eos: shorter answers are filled up with end-of-text in the batch, which is corrupted and scored as they are; the
    model learns to end before a given length. masked: what fills up is neither seen nor scored; the model learns from
    answers of just the given length and takes the blanks it is given for the length to write."""
    prompt_drop: float = 0.0
    """Share of the examples whose prompt is masked, each by itself: for standard classifier-free guidance (0.1)."""
    too_long: Literal["skip", "cut"] = "skip"
    """Examples of more than `length` tokens: left out and counted, or their answers cut, without an end."""
    broken: Literal["refuse", "skip"] = "refuse"
    """Items that are no conversation with an answer: refused, or left out and counted."""
    bucket_batches: int = 1
    """The examples of so many batches are sorted by length before they are cut into batches, which spares padding (and
    with padding eos the model sees less of it); 1: they come as they are shuffled."""
    packing: bool = False
    """Put short examples of a batch side by side into rows as wide as its longest, where none sees another: the same
    loss from fewer rows. With padding masked."""
    lora_rank: int = 0
    """Train adapters of this rank (LoRA, through peft) around the matrices of the blocks, and nothing else; 0: train
    all weights. What is saved is the model with its adapters merged, and the adapters alone in adapter/."""
    lora_alpha: float = 0.0
    """An adapter counts alpha / rank times; 0: twice the rank."""
    lora_layers: tuple[str, ...] = ("qkv", "out", "gate_up", "down")
    """Matrices of each block that get an adapter: qkv, out (attention), gate_up, down (SwiGLU)."""
    objective: str = ""
    """What is corrupted and scored: mdm, arm, mlm, span or any_order; by default as the model was trained."""
    length: int = 2048
    """Tokens in the longest example; the model's context where that is less."""
    batch_size: int = 256
    """Examples in one optimizer step, over all processes."""
    learning_rate: float = 2e-4
    """Peak learning rate."""
    warmup_steps: int | None = None
    """Linear warm-up. None: the paper's 200, but no more than a tenth of the run."""
    validate_every: int = 50
    """Steps between validations; 0: only at the end."""
    keep_best: bool = True
    """Keep the model of the lowest validation loss in best/; model/ is the last."""
    sample_every: int = 50
    """Steps between answers to held-out prompts, shown and written down; 0: none."""
    sample_prompts: int = 2
    """Held-out prompts to answer, spread evenly over them."""
    sample_tokens: int = 64
    """Tokens of such an answer at most."""
    validation_windows: int = 256
    """Held-out examples to validate on, spread evenly over them; 0: no validation."""
    validation_draws: int = 4
    """Masks for each example of the validation."""

    def __post_init__(self) -> None:
        super().__post_init__()
        problems: list[str] = []

        def check(ok: bool, name: str, remedy: str) -> None:
            if not ok:
                problems.append(f"{name} {getattr(self, name)!r} {remedy}")

        choices = {"turns": ("first", "all"), "padding": ("eos", "masked"), "too_long": ("skip", "cut")}
        for name, known in {**choices, "broken": ("refuse", "skip")}.items():
            check(getattr(self, name) in known, name, f"must be {' or '.join(known)}")
        for name in ("data", "tokenizer", "unique_tokens", "flops", "short_share"):
            check(not getattr(self, name), name, "is not for conversations: leave it out")
        check(0 <= self.validation_share < 1, "validation_share", "must be at least 0 and less than 1")
        check(0 <= self.prompt_drop < 1, "prompt_drop", "must be at least 0 and less than 1")
        check(0 < self.epochs < math.inf, "epochs", "must be positive")
        check(self.bucket_batches >= 1, "bucket_batches", "must be at least 1")
        check(
            not self.packing or self.padding == "masked",
            "padding",
            "is scored up to the end of a row, and with packing rows have several answers: add --padding masked",
        )
        for name in ("sample_every", "sample_prompts"):
            check(getattr(self, name) >= 0, name, "must not be negative")
        check(self.sample_tokens >= 1, "sample_tokens", "must be at least 1")
        check(self.lora_rank >= 0, "lora_rank", "must not be negative")
        check(0 <= self.lora_alpha < math.inf, "lora_alpha", "must not be negative")
        check(
            len(self.lora_layers) > 0 and set(self.lora_layers) <= set(LORA_LAYERS),
            "lora_layers",
            f"must be some of {', '.join(LORA_LAYERS)}",
        )
        check(
            not self.lora_rank or self.parametrization == "standard",
            "parametrization",
            "is for a network whose own weights are trained: leave it out with lora_rank",
        )
        if problems:
            raise problems_error("run config", problems)

    def settled(self, objective: str, context_length: int) -> SftConfig:
        """The same run with what it takes from its model."""
        return dataclasses.replace(self, objective=self.objective or objective, length=min(self.length, context_length))

    def steps_of(self, examples: int) -> int:
        """Steps of the run, from `steps` or `epochs`. Raises `UsageError` where the warm-up outlasts them."""
        steps = self.steps or math.ceil(self.epochs * examples / self.batch_size)
        if self.warmup_steps is not None and self.warmup_steps >= steps:
            raise UsageError(f"warmup_steps {self.warmup_steps} must be less than the {steps} steps of the run")
        return steps

    def warmup(self, steps: int) -> int:
        """Warm-up of a run of `steps` steps."""
        return self.warmup_steps if self.warmup_steps is not None else min(WARMUP, steps // 10)
