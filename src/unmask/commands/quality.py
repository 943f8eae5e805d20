"""`unmask quality`: what figures say of generated texts, one set beside the other."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from unmask.errors import UnmaskError, UsageError
from unmask.wording import counted

if TYPE_CHECKING:
    from unmask.evals.quality import Figure, Quality, Split
    from unmask.evals.reference_model import Likelihood, Reference
    from unmask.evals.samples import Sample

FORMAT = "unmask-quality-1"


@dataclass(frozen=True)
class Options:
    """Figures on generated texts: perplexity under a reference model, entropy, diversity, repetition, copying.

    Several files are compared in one table. Low perplexity is had by repetition: read it beside the entropy.
    """

    samples: tyro.conf.Positional[tuple[Path, ...]]
    """Files: .json or .jsonl of unmask sample --json (or any objects with a text), or plain text."""
    reference: str | None = None
    """Autoregressive model that judges the texts: a folder of ours or of Transformers. None: no perplexity."""
    training: tuple[str, ...] = ()
    """Training texts to look for copies in: files or folders as for unmask prepare, or one corpus that it prepared."""
    copied_length: int = 8
    """Units in a row that count as copied."""
    units: Literal["words", "tokens"] = "words"
    """What entropy and n-grams are made of: words and signs, or tokens of the reference."""
    separator: str | None = None
    r"""What stands between two samples of a text file (\n is a newline); without it a file is one sample."""
    text_field: str = "text"
    """Field or column of .jsonl and Parquet that holds a training text."""
    device: str = "auto"
    """Where the reference runs: auto, cpu, cuda."""
    json: Annotated[Path | None, tyro.conf.arg(metavar="OUT")] = None
    """Write all figures to this JSON file; - prints them in place of the table."""


def run(options: Options) -> None:
    """Print a table with a row for each file of samples."""
    if not options.samples:
        raise UsageError("samples: name at least one file of samples")
    if options.copied_length < 1:
        raise UsageError(f"--copied-length {options.copied_length}: must be at least 1")
    if options.units == "tokens" and options.reference is None:
        raise UsageError("--units tokens: are those of a reference: name one with --reference")
    from rich.console import Console

    from unmask.commands.progress import progress
    from unmask.evals import quality, samples

    separator = options.separator
    if separator is not None:
        separator = separator.replace("\\n", "\n").replace("\\t", "\t")
    sets = [samples.read(path, separator) for path in options.samples]
    every = [sample for one in sets for sample in one]
    console = Console(stderr=True)
    with progress(console) as bar:
        task = bar.add_task("opening the reference", total=None)
        reference, likelihoods = _judged(options, every, lambda done: bar.update(task, completed=done), bar, task)
        split = quality.words if options.units == "words" or reference is None else reference.encode
        bar.update(task, description="reading the training texts", total=None)
        shares = _copied(options, every, split)
    found: dict[str, Quality] = {}
    start = 0
    for name, one in zip(_names(options.samples), sets, strict=True):
        part = slice(start, start + len(one))
        start += len(one)
        try:
            found[name] = quality.measure(
                one,
                None if likelihoods is None else likelihoods[part],
                split=split,
                copied_shares=None if shares is None else shares[part],
            )
        except UsageError as error:
            raise UnmaskError(f"{name}: {error}") from None
    result = {
        "format": FORMAT,
        "reference": options.reference,
        "units": options.units,
        "copied_length": options.copied_length if options.training else None,
        "sets": {name: figures.to_dict() for name, figures in found.items()},
    }
    if options.json is not None and str(options.json) == "-":
        print(json.dumps(result, ensure_ascii=False))
        return
    if options.json is not None:
        options.json.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    _print(found, options)


def _judged(
    options: Options, every: list[Sample], advance: Callable[[int], None], bar: Any, task: Any
) -> tuple[Reference | None, list[Likelihood] | None]:
    if options.reference is None:
        return None, None
    from unmask.evals import reference_model

    reference = reference_model.open_reference(options.reference, options.device)
    bar.update(task, description="likelihoods", total=len(every))
    likelihoods = reference.likelihoods(every, advance)
    reference_model.finite(likelihoods, options.reference)
    return reference, likelihoods


def _copied(options: Options, every: list[Sample], split: Split) -> list[float] | None:
    if not options.training:
        return None
    from unmask.evals import quality

    rows = [split(sample.text) for sample in every]
    return quality.copied_shares(rows, map(split, training_texts(options)), options.copied_length)


def training_texts(options: Options) -> Iterator[str]:
    """The documents of the training set, whole."""
    from unmask.data.manifest import FILE
    from unmask.data.reading import find_sources, read_documents
    from unmask.data.source import Corpus

    corpora = [Path(text) for text in options.training if (Path(text) / FILE).is_file()]
    if corpora:
        if len(options.training) > 1:
            raise UsageError(f"--training {corpora[0]}: a prepared corpus goes alone: name it, or else texts")
        corpus = Corpus.open(corpora[0])
        source = corpus.split("train")
        for index in range(source.split.documents):
            yield corpus.tokenizer.decode(source.document(index).tolist())
        return
    for source in find_sources(options.training):
        for document in read_documents(source, text_field=options.text_field, separator=None):
            yield _whole(document.text)


def _whole(text: str | Iterable[str]) -> str:
    return text if isinstance(text, str) else "".join(text)


def _names(paths: tuple[Path, ...]) -> list[str]:
    """A short name for each file: its own, with its folder where names repeat."""
    short = [path.name for path in paths]
    names = [name if short.count(name) == 1 else str(path) for name, path in zip(short, paths, strict=True)]
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated is not None:
        raise UsageError(f"{repeated}: named twice: name each file once")
    return names


def _print(found: dict[str, Quality], options: Options) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    table = Table(box=None, pad_edge=False)
    heads = ["", "samples", "perplexity", "bits/byte", "entropy", "distinct-2", "repetition", "self-rep.", "copied"]
    for number, head in enumerate(heads):
        table.add_column(head, justify="right" if number else "left", no_wrap=number > 0)
    for name, figures in found.items():
        table.add_row(
            name,
            str(figures.samples),
            _told(figures.perplexity, 1),
            _told(figures.bits_per_byte, 3),
            _told(figures.entropy, 3),
            _told(figures.distinct.get(2), 3),
            _told(figures.repetition, 3),
            _told(figures.self_repetition, 3),
            _told(figures.copied, 3),
        )
    if console.width < 110:
        console.width = 140  # figures are not worth breaking
    console.print(table)
    notes = [f"units are {options.units}"]
    if options.reference is not None:
        notes.append(f"perplexity under {options.reference}")
    if options.training:
        notes.append(f"copied: in runs of {options.copied_length} that the training texts have")
    empty = sum(figures.empty for figures in found.values())
    if empty:
        notes.append(f"{counted(empty, 'empty sample')} left out")
    print(f"[± standard errors over samples; {'; '.join(notes)}]")
    if options.reference is not None and len(found) > 1:
        print(_at_equal_entropy(found))


def _at_equal_entropy(found: dict[str, Quality]) -> str:
    """Whether perplexities may be compared."""
    names = list(found)
    first, *others = (found[name].entropy for name in names)
    apart: list[str] = []
    for name, other in zip(names[1:], others, strict=True):
        error = (first.standard_error or 0.0) ** 2 + (other.standard_error or 0.0) ** 2
        if abs(other.value - first.value) > 2 * error**0.5:
            apart.append(f"{name} ({other.value - first.value:+.2f} nats)")
    if not apart:
        return "[entropies are equal within two errors: perplexities can be compared]"
    return f"[entropy differs from that of {names[0]}, so perplexities do not compare alone: {', '.join(apart)}]"


def _told(figure: Figure | None, places: int) -> str:
    if figure is None:
        return "-"
    error = "" if figure.standard_error is None else f" ± {figure.standard_error:.{places}f}"
    return f"{figure.value:.{places}f}{error}"
