"""Text to a prepared corpus: find the files, train or load the tokenizer, encode in several processes, write shards.

The result is a pure function of the texts and the options: the number of processes and interruptions leave no trace
in it. Until it is complete, the work is kept in `.partial` within the output directory, and the same call continues
it; the manifest is written last.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import connection
from pathlib import Path
from typing import Any, cast

from unmask.data import manifest
from unmask.data.digests import sha256_files, sync_directory, write_atomically
from unmask.data.manifest import Manifest
from unmask.data.reading import Source, find_sources
from unmask.data.shards import write_split
from unmask.data.source import Corpus
from unmask.data.tokenizer import Tokenizer, resolve, train_bpe
from unmask.data.units import Counts, Reading, Unit, UnitEncoder, cut_into_units, read_counts
from unmask.errors import UnmaskError, UsageError, problems_error

PARTIAL = ".partial"
OnProgress = Callable[[str, int, int], None]
"""`on_progress(stage, done, total)`: the stages are "check", "tokenizer", "encode" (bytes) and "write" (tokens)."""


@dataclass(frozen=True)
class PrepareOptions:
    """What decides the bytes of a prepared corpus, beside the texts."""

    tokenizer: str = "bpe:4096"
    valid_fraction: float = 0.1
    text_field: str = "text"
    separator: str | None = None
    shard_tokens: int = 1 << 28
    bpe_bytes: int = 1 << 30

    def __post_init__(self) -> None:
        problems: list[str] = []
        if not 0 <= self.valid_fraction < 1:
            problems.append(f"--valid-fraction {self.valid_fraction} must be at least 0 and less than 1")
        if self.separator == "":
            problems.append("--separator is empty: leave it out, or name the text between two documents")
        for name in ("shard_tokens", "bpe_bytes"):
            if getattr(self, name) < 1:
                problems.append(f"--{name.replace('_', '-')} {getattr(self, name)} must be at least 1")
        if problems:
            raise problems_error("prepare", problems)


def prepare(
    inputs: Iterable[str | Path | Source],
    out: str | Path,
    options: PrepareOptions | None = None,
    *,
    processes: int = 1,
    on_progress: OnProgress | None = None,
) -> Manifest:
    """Prepare the texts of `inputs` (files, folders, corpus names, sources) in the directory `out`.

    Returns at once if `out` holds this very preparation, and continues one that was interrupted. Raises `UsageError`
    for wrong options and a directory that holds something else, `UnmaskError` for texts that cannot be used.
    """
    options = options or PrepareOptions()
    if processes < 1:
        raise UsageError(f"--processes {processes} must be at least 1")
    report = on_progress or _silent
    out = Path(out)
    tokenizer = resolve(options.tokenizer)
    sources = find_sources(inputs)
    _refuse_foreign(out)
    partial = out / PARTIAL
    try:
        if (out / manifest.FILE).is_file():
            preparation = _preparation(sources, options, tokenizer, None, report)
            _same_or_refuse(out, Manifest.read(out).preparation, preparation)
            result = Corpus.open(out).manifest
        else:
            partial.mkdir(parents=True, exist_ok=True)
            with _locked(partial):
                preparation = _preparation(sources, options, tokenizer, partial / "digests.json", report)
                _continue_or_start(out, partial, preparation)
                result = _prepare(sources, out, partial, options, tokenizer, preparation, processes, report)
                write_atomically(out / manifest.FILE, result.to_json())
        shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        name = error.filename or out
        raise UnmaskError(f"{name}: {error.strerror or error}: mend that and run again to continue") from error
    return result


def _silent(stage: str, done: int, total: int) -> None:
    """Report nothing."""


def _prepare(
    sources: list[Source],
    out: Path,
    partial: Path,
    options: PrepareOptions,
    tokenizer: Tokenizer | int,
    preparation: dict[str, Any],
    processes: int,
    report: OnProgress,
) -> Manifest:
    units = cut_into_units(sources)
    reading = Reading(options.text_field, options.separator, options.valid_fraction)
    if not (out / "tokenizer").is_dir():
        if isinstance(tokenizer, int):
            tokenizer = train_bpe(_training_text(units, reading, options.bpe_bytes, report), tokenizer)
        _save_tokenizer(tokenizer, out, partial)
    tokenizer = Tokenizer.load(out / "tokenizer")
    if tokenizer.eos_id is None:
        raise UnmaskError(
            f"tokenizer {options.tokenizer!r} has no end-of-text token: name one as eos_token in tokenizer_config.json"
        )
    dtype = "uint16" if tokenizer.vocab_size <= 1 << 16 else "uint32"

    encoder = UnitEncoder(partial, out / "tokenizer", dtype, reading)
    total = done = sum(unit.size for unit in units)
    missing = [unit for unit in units if read_counts(partial, unit) is None]
    done -= sum(unit.size for unit in missing)
    report("encode", done, total)
    for unit in _encode_all(encoder, missing, processes):
        done += unit.size
        report("encode", done, total)

    counted = [(unit, counts) for unit in units if (counts := read_counts(partial, unit)) is not None]
    assert len(counted) == len(units), "every unit is encoded"
    by_split: dict[str, list[tuple[Unit, Counts]]] = {}
    for unit, (splits, _) in counted:
        for split, counts in splits.items():
            by_split.setdefault(split, []).append((unit, counts))
    if not by_split:
        raise UnmaskError("all texts are empty: nothing to prepare")
    if "train" not in by_split:
        raise UnmaskError(
            f"no document is left for training: all are in {', '.join(sorted(by_split))}: give more documents, "
            "a --separator between those of a text file, or --valid-fraction 0"
        )
    tokens = sum(counts.tokens for parts in by_split.values() for _, counts in parts)
    written = 0

    def on_tokens(count: int) -> None:
        nonlocal written
        written += count
        report("write", written, tokens)

    splits = {
        split: write_split(
            split,
            by_split[split],
            partial=partial,
            out=out,
            dtype=dtype,
            shard_tokens=options.shard_tokens,
            on_tokens=on_tokens,
        )
        for split in sorted(by_split, key=lambda name: (name != "train", name != "valid", name))
    }
    tokenizer_file = out / "tokenizer" / "tokenizer.json"
    return Manifest(
        tokenizer=manifest.FileEntry("tokenizer/tokenizer.json", sha256_files([tokenizer_file])[0]),
        vocab_size=tokenizer.vocab_size,
        bos_id=tokenizer.bos_id,
        eos_id=tokenizer.eos_id,
        mask_id=tokenizer.mask_id,
        dtype=dtype,
        splits=splits,
        empty_documents=sum(empty for _, (_, empty) in counted),
        preparation=preparation,
    )


def _preparation(
    sources: list[Source],
    options: PrepareOptions,
    tokenizer: Tokenizer | int,
    digest_cache: Path | None,
    report: OnProgress,
) -> dict[str, Any]:
    """All that decides the result, as the manifest records it: options, and digests of the texts and the tokenizer."""
    sizes = [source.path.stat().st_size for source in sources]
    done = 0

    def on_file(index: int) -> None:
        nonlocal done
        done += sizes[index]
        report("check", done, sum(sizes))

    digests = sha256_files([source.path for source in sources], digest_cache, on_file)
    everything = hashlib.sha256()
    for source, digest in zip(sources, digests, strict=True):
        everything.update(json.dumps([source.name, source.key, source.split, digest]).encode())
    name = options.tokenizer
    if isinstance(tokenizer, Tokenizer) and Path(name).exists() and name not in ("bytes", "mistral"):
        name = "sha256:" + hashlib.sha256(tokenizer.to_json().encode()).hexdigest()
    preparation: dict[str, Any] = {
        "tokenizer": name,
        "valid_fraction": options.valid_fraction,
        "text_field": options.text_field,
        "separator": options.separator,
        "shard_tokens": options.shard_tokens,
        "texts": {"files": len(sources), "bytes": sum(sizes), "sha256": everything.hexdigest()},
    }
    if isinstance(tokenizer, int):
        preparation["bpe_bytes"] = options.bpe_bytes
    return preparation


def _refuse_foreign(out: Path) -> None:
    """A directory that holds neither a prepared corpus nor an interrupted preparation must be empty."""
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {out}: is a file: name a directory")
    ours = (out / manifest.FILE).exists() or (out / PARTIAL).exists()
    if out.is_dir() and not ours and any(out.iterdir()):
        raise UsageError(f"--out {out}: the directory holds other files: name a new or empty one")


def _continue_or_start(out: Path, partial: Path, preparation: dict[str, Any]) -> None:
    """Go on with what `partial` holds if it is the same preparation, or another one that never encoded anything."""
    record = partial / "preparation.json"
    if record.is_file():
        there = json.loads(record.read_text(encoding="utf-8"))
        if there == preparation:
            return
        if any(partial.glob("[0-9]*.json")):
            _same_or_refuse(out, there, preparation)
        shutil.rmtree(out / "tokenizer", ignore_errors=True)
    write_atomically(record, json.dumps(preparation) + "\n")


def _same_or_refuse(out: Path, there: dict[str, Any], here: dict[str, Any]) -> None:
    if there == here:
        return
    names = [name for name in there if name in here and there[name] != here[name]]
    changed = "; ".join(
        "other texts" if name == "texts" else f"{name} {there[name]!r}, not {here[name]!r}" for name in names
    )
    raise UsageError(
        f"--out {out}: holds a different preparation ({changed}): choose another directory, or delete this one"
    )


@contextlib.contextmanager
def _locked(partial: Path) -> Generator[None, None, None]:
    """Keep a second preparation out of the directory; the lock dies with the process."""
    with (partial / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UnmaskError(f"{partial.parent}: another preparation is at work in it: wait for it") from None
        yield


def _training_text(units: list[Unit], reading: Reading, budget: int, report: OnProgress) -> Iterator[str]:
    """Text of the training split, from every unit its share of `budget` bytes."""
    total = sum(unit.size for unit in units)
    done = 0
    nothing = True
    for unit in units:
        share = -(-budget * unit.size // max(total, 1))  # rounded up
        for split, document in reading.documents(unit):
            if share <= 0:
                break
            if split != "train":
                continue
            for block in [document.text] if isinstance(document.text, str) else document.text:
                nothing = nothing and not block
                share -= len(block)
                yield block
                if share <= 0:
                    break
        done += unit.size
        report("tokenizer", done, total)
    if nothing:
        raise UnmaskError(
            "no text to train the tokenizer on: give more documents, or a --separator between those of a text file"
        )


def _save_tokenizer(tokenizer: Tokenizer, out: Path, partial: Path) -> None:
    temporary = partial / "tokenizer"
    shutil.rmtree(temporary, ignore_errors=True)
    tokenizer.save(temporary)
    for path in temporary.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    temporary.rename(out / "tokenizer")
    sync_directory(out)


_worker: tuple[UnitEncoder, Tokenizer] | None = None


def _start_worker(encoder: UnitEncoder) -> None:
    """Set up a worker process: one thread, deaf to Ctrl-C (its parent ends it), and no life without the parent."""
    global _worker
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = cast(Any, multiprocessing.parent_process())

    def end_with_parent() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
    _worker = encoder, encoder.load()


def _encode_in_worker(unit: Unit) -> None:
    assert _worker is not None, "the initializer ran"
    encoder, tokenizer = _worker
    encoder.encode(unit, tokenizer)


def _encode_all(encoder: UnitEncoder, units: list[Unit], processes: int) -> Iterator[Unit]:
    """Encode all `units`, in any order, and yield each as it is done."""
    processes = min(processes, len(units))
    if processes <= 1:
        tokenizer = encoder.load()
        for unit in units:
            encoder.encode(unit, tokenizer)
            yield unit
        return
    # Spawned, not forked: the caller may have threads. What a worker imports is light: no torch.
    others = set(multiprocessing.active_children())
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, initializer=_start_worker, initargs=(encoder,)) as pool:
        try:
            futures = {pool.submit(_encode_in_worker, unit): unit for unit in units}
            for future in as_completed(futures):
                future.result()
                yield futures[future]
        except BaseException as error:
            pool.shutdown(wait=False, cancel_futures=True)
            for child in set(multiprocessing.active_children()) - others:
                child.terminate()
            if isinstance(error, BrokenProcessPool):
                raise UnmaskError(
                    "a worker process died, perhaps for lack of memory: run again to continue, with fewer --processes"
                ) from None
            raise
