"""Frozen dataclasses of one run: the network and the training run around it. No torch.

A recipe is a function that returns a `RunConfig`; the command line overrides its fields; `RunConfig.__post_init__`
reports every problem at once. `config.json` of a run directory is the JSON of the `RunConfig`.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, cast

from unmask import sizes
from unmask.errors import UsageError, problems_error, unknown_name

T = TypeVar("T")
RopePrecision = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class ModelConfig:
    """The shape of one Transformer."""

    n_layer: int
    """Blocks."""
    n_head: int
    """Query heads."""
    n_embd: int
    """Width d."""
    intermediate_size: int
    """Width f of the SwiGLU."""
    vocab_size: int
    """Tokens that the head predicts. A mask token with this very id has an embedding but no output."""
    context_length: int
    """Longest sequence in tokens."""
    n_kv_head: int = 0
    """Key and value heads (grouped-query attention); 0 means as many as query heads."""
    head_dim: int = 0
    """Width of one attention head, an even number; 0 means `n_embd / n_head`."""
    mask_id: int | None = None
    """Id of the mask token; None for a network without one."""
    causal: bool = False
    """Each position sees only itself and earlier ones (an ARM) instead of all."""
    qkv_bias: bool = False
    """Biases on the query, key and value projections (as in Qwen2)."""
    qk_norm: bool = False
    """RMS norms over each query and key head, before the rotary positions (as in Qwen3)."""
    block_length: int = 0
    """Block-causal: a position sees its own block of so many positions, and those before it. 0: not so."""
    shifted: bool = False
    """A bidirectional network's state at position i - 1 predicts token i, as in those that were adapted from an
    autoregressive one (Dream); the first token is predicted from its own position."""
    padded_rows: int = 0
    """Ids at the end of the vocabulary that the tokenizer has no token for (matrices padded to a round size)."""
    tied_embeddings: bool = False
    """The output head is the embedding (its first `vocab_size` rows)."""
    rope_theta: float = 10000.0
    """Base of the rotary position frequencies."""
    rope_precision: RopePrecision = "float32"
    """Precision to which the rotary tables are rounded; the released SMDM models need bfloat16."""
    norm_eps: float = 1e-5
    """Epsilon of the RMS norms."""

    def __post_init__(self) -> None:
        if self.n_kv_head == 0:
            object.__setattr__(self, "n_kv_head", self.n_head)
        problems: list[str] = []
        for name in ("n_layer", "n_head", "n_kv_head", "n_embd", "intermediate_size", "vocab_size", "context_length"):
            if getattr(self, name) < 1:
                problems.append(f"{name} {getattr(self, name)} must be at least 1")
        if not problems:
            if self.head_dim == 0 and (self.n_embd % self.n_head or self.n_embd // self.n_head % 2):
                problems.append(f"n_embd {self.n_embd} must be an even multiple of n_head {self.n_head}")
            if self.head_dim < 0 or self.head_dim % 2:
                problems.append(f"head_dim {self.head_dim} must be even, and 0 or more")
            if self.n_head % self.n_kv_head:
                problems.append(f"n_head {self.n_head} must be a multiple of n_kv_head {self.n_kv_head}")
            if self.mask_id is not None and not 0 <= self.mask_id <= self.vocab_size:
                problems.append(f"mask_id {self.mask_id} must be from 0 to vocab_size {self.vocab_size}")
            if not 0 <= self.padded_rows < self.vocab_size:
                problems.append(f"padded_rows {self.padded_rows} must be less than vocab_size {self.vocab_size}")
        if self.block_length < 0:
            problems.append(f"block_length {self.block_length} must be 0 (not block-causal) or more")
        if self.block_length and (self.causal or self.shifted):
            problems.append("block_length is for networks that are neither causal nor shifted")
        if self.shifted and self.causal:
            problems.append("shifted is for bidirectional networks: a causal one predicts the next token anyway")
        if self.rope_theta <= 0:
            problems.append(f"rope_theta {self.rope_theta} must be positive")
        if self.rope_precision not in ("float32", "bfloat16"):
            problems.append(f"rope_precision {self.rope_precision!r} must be float32 or bfloat16")
        if problems:
            raise problems_error("model config", problems)
        if self.head_dim == 0:
            object.__setattr__(self, "head_dim", self.n_embd // self.n_head)

    @property
    def embedding_rows(self) -> int:
        """Rows of the embedding: the vocabulary, and one more if the mask id lies just past it."""
        return self.vocab_size + (self.mask_id == self.vocab_size)

    @property
    def params(self) -> int:
        """Non-embedding parameters N."""
        return sizes.non_embedding_params(self)

    @classmethod
    def of_size(cls, size: str, **fields: Any) -> ModelConfig:
        """The config of a named size; `fields` are the remaining ones (vocabulary, context, ...)."""
        shape = sizes.lookup(size)
        return cls(
            n_layer=shape.n_layer,
            n_head=shape.n_head,
            n_embd=shape.n_embd,
            intermediate_size=shape.intermediate_size,
            **fields,
        )


Precision = Literal["auto", "float32", "bfloat16"]
SIZE = "6M"
OF_A_NEW_NETWORK: dict[str, Any] = {
    "size": "",
    "qkv_bias": False,
    "kv_heads": 0,
    "tied_embeddings": False,
    "rope_theta": 10000.0,
}
"""Fields of a run that shape a new network, and their values where the network is another's."""


@dataclass(frozen=True)
class RunConfig:
    """One training run. The command line overrides any field: `--learning-rate 1e-3`."""

    data: str = ""
    """Directory made by `unmask prepare`, or token files: packed .bin of lit-gpt and TinyLlama, Megatron's .bin and
    .idx, datatrove's and nanotron's .ds (a folder, or one file)."""
    tokenizer: str = ""
    """Tokenizer of token files, as for `unmask prepare`; by default one beside them, or that of the model to start
    from. A prepared directory has its own."""
    unique_tokens: int | None = None
    """Train on only so many tokens, taken from all over the corpus, and repeat them. None: on the whole corpus."""
    objective: str = "mdm"
    """What is corrupted and scored: mdm, arm, mlm, span, any_order or block."""
    init_from: str = ""
    """Model to start from (also as --from): a model or run directory, a folder of Transformers, or a GGUF file. Its
    shape and weights are taken; a causal one that is trained with masks is adapted: a mask token, predictions shifted
    by one, attention that turns bidirectional."""
    anneal_share: float = 0.1
    """Share of the steps over which an adapted model's causal attention becomes bidirectional, one random position
    after the other; 0: from the first step on."""
    size: str = SIZE
    """Name of the network's size, such as 170M (the paper's family) or 804K (small ones for a CPU)."""
    length: int = 256
    """Tokens in a training sequence; also the longest context of the network."""
    batch_size: int = 32
    """Sequences in one optimizer step, over all processes."""
    micro_batch_size: int = 0
    """Sequences that one process computes at a time; gradients accumulate over the rest. 0: all at once."""
    steps: int | None = None
    """Optimizer steps. Give this or `flops`."""
    flops: float | None = None
    """Training budget C; steps = int(C / (6 N B T)), N the non-embedding parameters."""
    seed: int = 0
    """Every random choice of the run derives from it."""

    learning_rate: float = 4e-4
    """Peak learning rate."""
    final_learning_rate: float = 0.1
    """The cosine ends at this share of the peak."""
    warmup_steps: int | None = None
    """Linear warm-up. None: the paper's max(100, 1% of the steps), but no more than a tenth of the run."""
    weight_decay: float = 0.1
    """AdamW's decoupled decay, on matrices only."""
    beta1: float = 0.9
    """AdamW's decay of the mean."""
    beta2: float = 0.95
    """AdamW's decay of the square."""
    clip: float = 1.0
    """Largest norm of the gradient; 0 for no clipping."""
    parametrization: Literal["standard", "completep"] = "standard"
    """completep: init, learning rates, decay and epsilon follow width and depth, so that the rates that are best for
    `base_size` stay near the best for larger sizes (Dey et al., 2025). At the base size it is the same as standard."""
    base_size: str = "33K"
    """completep: the size for which the learning rate and the weight decay are meant."""

    short_share: float = 0.01
    """Share of the steps whose sequences are cut into pieces of a length from U[1, length] (mdm, any_order, mlm, span).
    All pieces are trained on: nothing is thrown away."""
    mask_eps: float = 1e-3
    """mdm: smallest masking probability t."""
    stratified: bool = True
    """mdm: stratify t over the global batch instead of drawing it for each row by itself."""
    weighting: Literal["bound", "flat"] = "bound"
    """mdm: weigh by 1/t, which makes the loss a bound on the NLL, or by a constant."""
    block_length: int = 16
    """block: tokens of a block, inside of which the network looks both ways. A step computes clean tokens beside the
    masked ones, about twice what one of mdm does."""
    mask_rate: float = 0.15
    """mlm, span: share of the tokens that is masked."""

    qkv_bias: bool = False
    """Biases on the query, key and value projections."""
    kv_heads: int = 0
    """Key and value heads; 0: as many as query heads."""
    tied_embeddings: bool = False
    """The output head is the embedding."""
    rope_theta: float = 10000.0
    """Base of the rotary position frequencies."""

    precision: Precision = "auto"
    """auto: float32 on a CPU, bfloat16 autocast over float32 weights on a GPU."""
    compile: bool | None = None
    """Compile the blocks with torch.compile: faster steps after a slow first one. None: on a GPU only."""
    activation_checkpointing: bool = False
    """Recompute each block in the backward pass: less memory, about a third more time."""

    log_every: int = 10
    """Steps between `train` lines in metrics.jsonl."""
    validate_every: int = 0
    """Steps between validations; 0: only at the end."""
    validation_split: str = "valid"
    """Split of the corpus to validate on."""
    validation_windows: int = 256
    """Sequences to validate on; 0: no validation at all."""
    validation_draws: int = 2
    """Masks for each sequence of the validation (the same ones for every model)."""
    keep_best: bool = False
    """Keep the model of the lowest validation loss in best/, where there is validation in the course of the run."""
    checkpoint_every: int = 500
    """Steps between checkpoints; one is always written at the end."""
    keep_checkpoints: int = 2
    """The last K checkpoints are kept."""
    async_checkpoints: bool | None = None
    """Write checkpoints while training goes on. None: on a GPU only."""
    tensorboard: bool = True
    """Also write TensorBoard event files."""

    def __post_init__(self) -> None:
        problems: list[str] = []

        def check(ok: bool, name: str, remedy: str) -> None:
            if not ok:
                problems.append(f"{name} {getattr(self, name)!r} {remedy}")

        for name in (
            "length",
            "batch_size",
            "block_length",
            "log_every",
            "checkpoint_every",
            "keep_checkpoints",
            "validation_draws",
        ):
            check(getattr(self, name) >= 1, name, "must be at least 1")
        for name in ("micro_batch_size", "validate_every", "validation_windows", "weight_decay", "clip", "kv_heads"):
            check(getattr(self, name) >= 0, name, "must not be negative")
        for name in ("short_share", "final_learning_rate", "anneal_share"):
            check(0 <= getattr(self, name) <= 1, name, "must be from 0 to 1")
        for name in ("mask_eps", "mask_rate"):
            check(0 < getattr(self, name) < 1, name, "must be between 0 and 1")
        for name in ("beta1", "beta2"):
            check(0 <= getattr(self, name) < 1, name, "must be at least 0 and less than 1")
        check(0 < self.learning_rate < float("inf"), "learning_rate", "must be positive")
        check(self.unique_tokens is None or self.unique_tokens >= self.length, "unique_tokens", "must hold a sequence")
        check(self.steps is None or self.steps >= 1, "steps", "must be at least 1")
        check(self.flops is None or 0 < self.flops < float("inf"), "flops", "must be positive")
        check(self.warmup_steps is None or self.warmup_steps >= 0, "warmup_steps", "must not be negative")
        check(self.parametrization in ("standard", "completep"), "parametrization", "must be standard or completep")
        check(self.weighting in ("bound", "flat"), "weighting", "must be bound or flat")
        check(self.precision in ("auto", "float32", "bfloat16"), "precision", "must be auto, float32 or bfloat16")
        if self.steps is not None and self.flops is not None:
            problems.append(f"steps {self.steps} and flops {self.flops:g} exclude each other: give one of them")
        if self.init_from:
            if self.size == SIZE:
                object.__setattr__(self, "size", "")
            for name, usual in OF_A_NEW_NETWORK.items():
                check(getattr(self, name) == usual, name, f"is for a new network: that of {self.init_from} has its own")
        for name, size in (("size", self.size), ("base_size", self.base_size)):
            if size and size not in sizes.SMALL and size not in sizes.FAMILY:
                problems.append(str(unknown_name(name, size, [*sizes.SMALL, *sizes.FAMILY])))
        if problems:
            raise problems_error("run config", problems)

    def model_config(self, vocab_size: int, mask_id: int | None, causal: bool) -> ModelConfig:
        """A new network for this run, over a vocabulary.

        Raises `UsageError` without a size, or where the fields do not fit together.
        """
        if not self.size:
            raise UsageError("run config: no network: give --from a model to start from, or --size for a new one")
        return ModelConfig.of_size(
            self.size,
            vocab_size=vocab_size,
            context_length=self.length,
            n_kv_head=self.kv_heads,
            mask_id=mask_id,
            causal=causal,
            qkv_bias=self.qkv_bias,
            tied_embeddings=self.tied_embeddings,
            rope_theta=self.rope_theta,
            block_length=self.block_length if self.objective == "block" else 0,
        )

    def total_steps(self, params: int) -> int:
        """Steps of the run, from `steps` or, with `params` non-embedding parameters, from `flops` by the paper's rule.

        Raises `UsageError` where neither is given, the budget is below one step, or the warm-up outlasts the run.
        """
        if self.steps is None and self.flops is None:
            raise UsageError("run config: give --steps or --flops")
        steps = self.steps or sizes.training_steps(self.flops or 0.0, params, self.batch_size, self.length)
        if self.warmup_steps is not None and self.warmup_steps >= steps:
            raise UsageError(f"warmup_steps {self.warmup_steps} must be less than the {steps} steps of the run")
        return steps

    def warmup(self, steps: int) -> int:
        """Warm-up of a run of `steps` steps."""
        if self.warmup_steps is not None:
            return self.warmup_steps
        return min(max(100, steps // 100), steps // 10)


def to_json(config: Any) -> str:
    """The JSON of a config dataclass: every field by name, two-space indent, a final newline."""
    return json.dumps(dataclasses.asdict(config), indent=2) + "\n"


def field_arguments(fields: Mapping[str, Any]) -> list[str]:
    """Fields of a run's config as options of `unmask train`."""
    defaults = RunConfig()
    arguments: list[str] = []
    for name, value in fields.items():
        option = "--" + name.replace("_", "-")
        if isinstance(value, bool):
            # a switch has the one form that changes its default
            if value != getattr(defaults, name):
                arguments.append(option if value else "--no-" + option[2:])
        elif value is not None:
            arguments += [option, str(value)]
    return arguments


PLAIN_TYPES: dict[str, tuple[type, ...]] = {"int": (int,), "float": (float, int), "bool": (bool,), "str": (str,)}
"""What the value of a field may be, by its annotation."""


def from_dict(cls: type[T], fields: dict[str, Any], source: str) -> T:
    """Build the config dataclass `cls` from `fields` read from `source`.

    Raises `UsageError` that names `source` and every field that is unknown, missing, or of another type.
    """
    known = {field.name: field for field in dataclasses.fields(cast(Any, cls))}
    problems = [f"unknown field {name!r}" for name in fields if name not in known]
    for name, field in known.items():
        optional = field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
        if name not in fields and not optional:
            problems.append(f"missing field {name!r}")
        kinds = PLAIN_TYPES.get(str(field.type))
        if name in fields and kinds is not None and type(fields[name]) not in kinds:
            problems.append(f"{name} {fields[name]!r} must be of type {field.type}")
    if problems:
        raise UsageError(f"{source}: " + "; ".join(problems))
    return cls(**fields)
