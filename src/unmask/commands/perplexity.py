"""`unmask perplexity`: what texts cost under a model, in nats per token and bits per byte."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from unmask.errors import UnmaskError, UsageError

if TYPE_CHECKING:
    from unmask.data.reading import Source
    from unmask.evals.held_out import Windows
    from unmask.language_model import LanguageModel


@dataclass(frozen=True)
class Options:
    """Nats per token and bits per byte of texts under a model: exact for an ARM, an upper bound for an MDM.

    Texts are laid out as in training: documents one after the other, cut into windows of the model's context. The
    last window may be shorter; nothing is left out. Masks are the same for every model with the same seed.
    """

    model: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """Model directory, or directory of a training run."""
    texts: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="TEXT ...")]
    """Files or folders as for `unmask prepare`, or one corpus that it prepared, or token files of lit-gpt, Megatron or
    datatrove in the model's tokens."""
    split: str | None = None
    """Split of a corpus. None: valid."""
    length: int = 0
    """Tokens in a window; 0: the model's context."""
    windows: int = 0
    """Windows to evaluate, spread evenly over the text; 0: all of the text."""
    draws: int = 0
    """Masks for each window (MDM). 0: two, and more where that makes less than 128 in all."""
    seed: int = 0
    """Of the masks."""
    text_field: str = "text"
    """Field or column of .jsonl and Parquet that holds the text."""
    separator: str | None = None
    r"""What stands between two documents of a .txt file (\n is a newline); without it a file is one document."""
    device: str = "auto"
    """Where to run: auto, cpu, cuda."""
    json: bool = False
    """Print one JSON object."""


def run(options: Options) -> None:
    """Print the loss with its error, what kind of figure it is, and how much text it is about."""
    for name in ("length", "windows", "draws"):
        if getattr(options, name) < 0:
            raise UsageError(f"--{name} {getattr(options, name)}: must not be negative")
    corpus = _corpus(options)
    if options.split is not None and corpus is None:
        raise UsageError(f"--split {options.split}: only a prepared corpus and token files have splits: leave it out")

    from rich.console import Console

    from unmask import machine
    from unmask.commands.progress import progress
    from unmask.data.reading import find_sources
    from unmask.evals import held_out
    from unmask.language_model import load

    begun = time.perf_counter()
    sources = find_sources(options.texts) if corpus is None else []
    lm = load(options.model, options.device)
    machine.keep_freed_memory(lm.device)
    context = lm.config.context_length
    if options.length > context:
        raise UsageError(f"--length {options.length}: more than the model's context of {context} tokens")
    console = Console(stderr=True)
    with progress(console) as bar:
        task = bar.add_task("reading", total=None)
        windows = _windows_of_corpus(lm, corpus, options) if corpus else _windows_of_texts(lm, sources, options)
        draws = 1 if lm.config.causal else options.draws or held_out.enough_draws(len(windows))
        bar.update(task, description="evaluating windows", total=len(windows))
        found = held_out.measure(
            lm,
            windows,
            draws=draws,
            seed=options.seed,
            on_window=lambda done, _: bar.update(task, completed=done),
        )
    if not math.isfinite(found.loss):
        raise UnmaskError(f"{options.model}: gives this text a loss of {found.loss}: its weights are damaged")
    seconds = time.perf_counter() - begun
    perplexity = math.exp(min(found.loss, 700.0))
    if options.json:
        about = {"objective": lm.objective, "length": windows.length, "draws": draws, "seed": options.seed}
        print(json.dumps({**found.to_dict(), "perplexity": perplexity, **about, "seconds": seconds}))
        return
    error = f" ± {found.standard_error:.4f}" if math.isfinite(found.standard_error) else ""
    kind = "upper bound: the true value is no higher" if found.bound else "exact"
    left_out = "" if found.tokens == len(windows.tokens) else f" of {len(windows.tokens):,}"
    cut = "1 window" if len(windows) == 1 else f"{len(windows):,} windows of {windows.length}"
    masks = "" if lm.config.causal else f", {draws} masks each" if draws > 1 else ", 1 mask each"
    print(
        f"{found.loss:.4f}{error} nats per token, perplexity {perplexity:.2f}, {found.bits_per_byte:.4f} bits per byte"
    )
    print(f"[{kind}; {found.tokens:,}{left_out} tokens in {cut}{masks}, {seconds:.2f} s]")


def _corpus(options: Options) -> Path | None:
    """The corpus that is meant, if one is."""
    from unmask.data.packed import is_corpus

    corpora = [Path(text) for text in options.texts if is_corpus(Path(text))]
    if corpora and len(options.texts) > 1:
        raise UsageError(f"{corpora[0]}: a corpus of tokens goes alone: name it, or its folder, or else texts")
    return corpora[0] if corpora else None


def _windows_of_corpus(lm: LanguageModel, directory: Path, options: Options) -> Windows:
    from unmask.data.no_tokenizer import NoTokenizer
    from unmask.data.packed import PackedCorpus, open_corpus
    from unmask.evals.held_out import Windows

    if isinstance(lm.tokenizer, NoTokenizer):
        lm.tokenizer.refuse()
    corpus = open_corpus(directory, default=lm.tokenizer, training=False)
    if options.split is None and "valid" not in corpus.manifest.splits:
        known = " or ".join(sorted(corpus.manifest.splits))
        raise UsageError(f"{directory}: holds no text out: give --split ({known}), or other data")
    source = corpus.split(options.split or "valid")
    if isinstance(corpus, PackedCorpus):
        if not lm.tokenizer.reads(corpus.tokenizer):
            raise UsageError(
                f"{directory}: the tokenizer beside it is not the model's: name the texts themselves, which are "
                "encoded anew"
            )
    elif not corpus.tokenizer.same_tokens(lm.tokenizer):
        raise UsageError(
            f"{directory}: was prepared with another tokenizer than the model's: name the texts themselves, which are "
            "encoded anew"
        )
    length = options.length or lm.config.context_length
    return Windows.of(source, length, source.split.bytes / len(source), options.windows, with_rest=True)


def _windows_of_texts(lm: LanguageModel, sources: list[Source], options: Options) -> Windows:
    from unmask.evals import held_out
    from unmask.evals.held_out import Windows

    tokens, size = held_out.encode(lm, _texts(sources, options))
    if not size:
        raise UnmaskError(f"{', '.join(options.texts)}: no text in it")
    length = options.length or lm.config.context_length
    return Windows.of(tokens, length, size / len(tokens), options.windows, with_rest=True)


def _texts(sources: list[Source], options: Options) -> Iterator[str | Iterable[str]]:
    from unmask.data.reading import read_documents

    separator = options.separator
    if separator is not None:
        separator = separator.replace("\\n", "\n").replace("\\t", "\t")
    for source in sources:
        for document in read_documents(source, text_field=options.text_field, separator=separator):
            yield document.text
