"""`unmask.data.prepare`: the same bytes however they came about, and nothing lost on the way."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from unmask.data import prepare as preparing
from unmask.data import units
from unmask.data.prepare import PrepareOptions, prepare
from unmask.data.reading import Source
from unmask.data.source import Corpus
from unmask.data.tokenizer import byte_level, train_bpe
from unmask.data.units import cut_into_units, is_held_out
from unmask.errors import UnmaskError, UsageError

OPTIONS = PrepareOptions(tokenizer="bpe:300", valid_fraction=0.2, shard_tokens=10_000)
VOCABULARY = ["the", "of", "Senate", "and", "House", "Überall", "public", "1848,", "affairs;", "great", "satisfaction"]


def prose(seed, words):
    return " ".join(random.Random(seed).choices(VOCABULARY, k=words))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Some 160 KB in files that are divided and files that are taken together, an empty one among them."""
    folder = tmp_path_factory.mktemp("texts") / "texts"
    folder.mkdir()
    for number in range(12):
        (folder / f"{number:02d}.txt").write_text(prose(number, 500), encoding="utf-8")
    (folder / "empty.txt").touch()
    with (folder / "lines.jsonl").open("w", encoding="utf-8") as file:
        for number in range(200):
            file.write(json.dumps({"text": prose(1000 + number, number), "id": f"line {number}"}) + "\n")
    return folder


@pytest.fixture(autouse=True)
def small_units(monkeypatch):
    quick(monkeypatch)


def quick(patch):
    """Many units for little text, and no waiting for the disk: no test here cuts the power."""
    patch.setattr(units, "SMALLEST_UNIT", 8192)
    patch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture(scope="module")
def expected(folder, tmp_path_factory):
    """What a preparation in one process, never interrupted, gives."""
    out = tmp_path_factory.mktemp("expected")
    with pytest.MonkeyPatch.context() as patch:
        quick(patch)
        prepare([folder], out, OPTIONS)
    return content(out)


def content(folder):
    """Every file of a corpus but the stamp of its verification."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != ".verified.json"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def text_of(source):
    return [source_text(source, index) for index in range(source.split.documents)]


def source_text(source, index):
    return bytes(source.document(index)[:-1].astype(np.uint8)).decode()


# What comes out


def test_every_document_comes_back_in_order_with_an_end(folder, tmp_path):
    prepare([folder], tmp_path, PrepareOptions(tokenizer="bytes", valid_fraction=0.2, shard_tokens=10_000))
    corpus = Corpus.open(tmp_path)
    lines = [json.loads(line) for line in (folder / "lines.jsonl").read_text(encoding="utf-8").splitlines()]
    names = [(f"texts/{n:02d}.txt", (folder / f"{n:02d}.txt").read_text(encoding="utf-8")) for n in range(12)]
    given = [*names, *((line["id"], line["text"]) for line in lines)]
    kept = [(key, text) for key, text in given if text]
    for name, held_out in (("train", False), ("valid", True)):
        source = corpus.split(name)
        chosen = [text for key, text in kept if is_held_out(key, 0.2) == held_out]
        assert text_of(source) == chosen
        assert source.split.bytes == sum(len(text.encode()) for text in chosen)
        assert source.split.tokens == source.split.bytes + len(chosen)
        assert {source.document(index)[-1] for index in range(len(chosen))} == {corpus.tokenizer.eos_id}
    assert corpus.manifest.empty_documents == 2  # the empty file, and the line of no words
    assert all(shard.tokens == 10_000 for shard in corpus.manifest.splits["train"].shards[:-1])


def test_parquet_is_prepared_by_several_processes_as_by_one(tmp_path):
    (tmp_path / "texts").mkdir()
    rows = [{"text": prose(number, 100)} for number in range(40)]
    for name, some in (("a", rows[:25]), ("b", rows[25:])):
        parquet.write_table(pyarrow.Table.from_pylist(some), tmp_path / "texts" / f"{name}.parquet", row_group_size=10)
    options = PrepareOptions(tokenizer="bytes", valid_fraction=0.2)
    for processes in (1, 2):
        prepare([tmp_path / "texts"], tmp_path / f"{processes}", options, processes=processes)
    assert content(tmp_path / "1") == content(tmp_path / "2")
    for name, held_out in (("train", False), ("valid", True)):  # without an id, the text is the key
        chosen = [row["text"] for row in rows if is_held_out(row["text"], 0.2) == held_out]
        assert text_of(Corpus.open(tmp_path / "1").split(name)) == chosen


def test_shards_are_plain_arrays_that_can_be_mapped(expected, tmp_path):
    for name, data in expected.items():
        if name.endswith(".npy"):
            (tmp_path / name).write_bytes(data)
    array = np.load(tmp_path / "train-00000.npy", mmap_mode="r")
    assert (array.dtype, array.shape) == (np.dtype("<u2"), (10_000,))
    positions = np.load(tmp_path / "train-documents.npy", mmap_mode="r")
    assert positions.dtype == np.dtype("<i8")
    assert positions[0] == 0
    assert (np.diff(positions) > 0).all()


def test_a_vocabulary_beyond_16_bits_takes_32(tmp_path):
    import tokenizers
    from tokenizers import models

    from unmask.data.tokenizer import Tokenizer

    vocab = {"</s>": 0, **{f"w{number}": number for number in range(1, 70_000)}}
    backend = tokenizers.Tokenizer(models.WordLevel(vocab=vocab, unk_token="</s>"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    Tokenizer(backend, bos=None, eos="</s>", mask=None).save(tmp_path / "big")
    (tmp_path / "a.txt").write_text("w1 w69999")
    manifest = prepare(
        [tmp_path / "a.txt"], tmp_path / "out", PrepareOptions(tokenizer=str(tmp_path / "big"), valid_fraction=0)
    )
    assert manifest.dtype == "uint32"
    assert Corpus.open(tmp_path / "out").split("train")[:].tolist() == [1, 69999, 0]


def test_held_out_documents_stay_held_out_when_others_join_or_move(folder, tmp_path):
    options = PrepareOptions(tokenizer="bytes", valid_fraction=0.5)
    few, many = tmp_path / "few" / "texts", tmp_path / "many" / "texts"
    few.mkdir(parents=True)
    shutil.copytree(folder, many)
    for number in range(0, 12, 2):
        shutil.copy(folder / f"{number:02d}.txt", few)
    prepare([few], tmp_path / "a", options)
    prepare([many], tmp_path / "b", options)
    splits = [{n: set(text_of(Corpus.open(tmp_path / x).split(n))) for n in ("train", "valid")} for x in "ab"]
    for name in ("train", "valid"):
        assert splits[0][name]
        assert splits[0][name] <= splits[1][name]


def test_the_held_out_share_is_the_fraction_and_grows_by_joining():
    keys = [f"document {number}" for number in range(20_000)]
    for fraction in (0.0, 0.01, 0.1, 0.5):
        held_out = {key for key in keys if is_held_out(key, fraction)}
        assert len(held_out) == pytest.approx(20_000 * fraction, abs=4 * (20_000 * fraction) ** 0.5)
        assert held_out <= {key for key in keys if is_held_out(key, fraction + 0.1)}


def test_the_tokenizer_is_trained_on_the_training_split_alone(folder, tmp_path):
    prepare([folder], tmp_path / "a", OPTIONS)
    corpus = Corpus.open(tmp_path / "a")
    assert corpus.manifest.vocab_size == 300
    training = [
        corpus.tokenizer.decode(corpus.split("train").document(i)) for i in range(corpus.split("train").split.documents)
    ]
    assert corpus.tokenizer.to_json() == train_bpe(training, 300).to_json()


def test_a_budget_of_text_for_the_tokenizer_is_taken_from_everywhere(folder, tmp_path):
    from dataclasses import replace

    from unmask.data.units import Reading

    all_units = cut_into_units([Source(path, path.name) for path in sorted(folder.glob("*.txt"))])
    reading = Reading("text", None, 0.0)
    text = list(preparing._training_text(all_units, reading, 3000, lambda *_: None))
    total = sum(unit.size for unit in all_units)
    assert len(text) >= sum(unit.size > 0 for unit in all_units) > 3  # something of each
    assert sum(map(len, text)) < total / 2
    prepare([folder], tmp_path / "a", replace(OPTIONS, bpe_bytes=3000))
    prepare([folder], tmp_path / "b", OPTIONS)
    assert content(tmp_path / "a")["tokenizer/tokenizer.json"] != content(tmp_path / "b")["tokenizer/tokenizer.json"]


def test_special_tokens_in_a_text_are_text(tmp_path):
    (tmp_path / "a.txt").write_text("one<|eos|>two<|mask|>")
    prepare([tmp_path / "a.txt"], tmp_path / "out", PrepareOptions(tokenizer="bytes", valid_fraction=0))
    assert text_of(Corpus.open(tmp_path / "out").split("train")) == ["one<|eos|>two<|mask|>"]


# The same bytes


@pytest.mark.parametrize("processes", [2, 4])
def test_any_number_of_processes_gives_the_same_bytes(folder, expected, tmp_path, processes):
    prepare([folder], tmp_path / "out", OPTIONS, processes=processes)
    assert content(tmp_path / "out") == expected


def test_the_way_the_folder_is_named_leaves_no_trace(folder, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(folder)
    prepare(["../texts"], tmp_path / "out", OPTIONS)
    assert content(tmp_path / "out") == expected


def test_shards_hold_the_same_tokens_whatever_their_size(folder, tmp_path):
    one, many = (PrepareOptions(tokenizer="bytes", shard_tokens=tokens) for tokens in (1 << 28, 777))
    prepare([folder], tmp_path / "one", one)
    prepare([folder], tmp_path / "many", many)
    for split in ("train", "valid"):
        whole, pieces = (Corpus.open(tmp_path / name).split(split) for name in ("one", "many"))
        assert len(pieces.split.shards) == -(-len(whole) // 777)
        assert (whole[:] == pieces[:]).all()
        assert (whole.documents == pieces.documents).all()


def test_units_hold_every_range_once_whatever_their_number(folder):
    sources = [Source(path, path.name) for path in sorted(folder.iterdir())]
    found = {}
    for unit in cut_into_units(sources):
        for source, start, stop in unit.ranges:
            assert found.get(source.path, 0) == start
            found[source.path] = stop
    assert found == {source.path: source.path.stat().st_size for source in sources}
    assert len(cut_into_units(sources)) > 15


# Interrupted


CHILD = """
import multiprocessing, os, sys
from unmask.data import units
from unmask.data.prepare import PrepareOptions, prepare

units.SMALLEST_UNIT = 8192
os.fsync = lambda handle: None
options = PrepareOptions(tokenizer="bpe:300", valid_fraction=0.2, shard_tokens=10_000)
tell = print
prepare(
    [sys.argv[1]], sys.argv[2], options, processes=int(sys.argv[3]), on_progress=lambda *told: tell(*told, flush=True)
)
"""
KILL_A_WORKER = "[child.kill() for child in multiprocessing.active_children()[:1]]"


def start(folder, out, processes):
    command = [sys.executable, "-c", CHILD, str(folder), str(out), str(processes)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)


def wait_for(process, stage, times):
    """Read what `process` tells until it has told of `stage` so many times."""
    for line in process.stdout:
        times -= line.startswith(stage)
        if not times:
            return
    raise AssertionError(f"ended before {stage}")


@pytest.mark.parametrize(
    ("stage", "times", "processes"),
    [("check", 3, 1), ("tokenizer", 9, 1), ("encode", 4, 2), ("encode", 10, 1), ("write", 1, 1), ("write", 3, 1)],
)
def test_killed_at_any_point_it_goes_on_to_the_same_bytes(folder, expected, tmp_path, stage, times, processes):
    with start(folder, tmp_path, processes) as process:
        wait_for(process, stage, times)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "manifest.json").exists()
    deadline = time.monotonic() + 30  # workers end themselves
    while processes > 1 and time.monotonic() < deadline:
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            break
        time.sleep(0.05)
    else:
        assert processes == 1, "a worker outlives its parent"

    told = []
    prepare([folder], tmp_path, OPTIONS, on_progress=lambda *each: told.append(each))
    assert content(tmp_path) == expected
    resumed = next(done for stage, done, _ in told if stage == "encode")
    assert (resumed > 0) == (stage in ("encode", "write"))  # what was encoded is not encoded again
    assert ("tokenizer" in {stage for stage, _, _ in told}) == (stage in ("check", "tokenizer"))


def test_a_full_disk_is_told_in_one_line_and_nothing_is_lost(folder, expected, tmp_path):
    limited = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (15_000, 15_000))\n"
    limited += "from unmask.errors import UnmaskError\n"
    body = "".join(f"    {line}\n" for line in CHILD.splitlines())
    script = f"{limited}try:\n{body}except UnmaskError as error:\n    print(error, file=sys.stderr)\n"
    arguments = [sys.executable, "-c", script, str(folder), str(tmp_path), "2"]
    process = subprocess.run(arguments, capture_output=True, text=True, check=True)
    assert "File too large: mend that and run again to continue" in process.stderr
    assert process.stderr.count("\n") == 1
    assert not (tmp_path / "manifest.json").exists()
    prepare([folder], tmp_path, OPTIONS)
    assert content(tmp_path) == expected


def test_a_worker_that_dies_is_told_and_the_rest_goes_on_later(folder, expected, tmp_path):
    script = CHILD.replace("tell = print", f"tell = lambda *told, flush: {KILL_A_WORKER}")
    command = [sys.executable, "-c", script, str(folder), str(tmp_path), "2"]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    assert process.returncode == 1
    assert "a worker process died, perhaps for lack of memory: run again to continue" in process.stderr
    prepare([folder], tmp_path, OPTIONS, processes=2)
    assert content(tmp_path) == expected


def test_the_same_call_again_returns_at_once(folder, expected, tmp_path, monkeypatch):
    first = prepare([folder], tmp_path, OPTIONS)
    monkeypatch.setattr(preparing, "_prepare", None)
    assert prepare([folder], tmp_path, OPTIONS, processes=3) == first
    assert content(tmp_path) == expected
    assert not (tmp_path / preparing.PARTIAL).exists()


# Refused


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"valid_fraction": 0.3}, r"valid_fraction 0\.2, not 0\.3"),
        ({"tokenizer": "bytes"}, "tokenizer 'bpe:300', not 'bytes'"),
        ({"shard_tokens": 5}, "shard_tokens 10000, not 5"),
        ({"separator": "\n"}, r"separator None, not '\\n'"),
        ({"bpe_bytes": 77}, "bpe_bytes 1073741824, not 77"),
    ],
)
@pytest.mark.parametrize("finished", [True, False])
def test_another_preparation_in_the_directory_is_refused_and_kept(folder, tmp_path, change, words, finished):
    from dataclasses import replace

    if finished:
        prepare([folder], tmp_path, OPTIONS)
    else:
        interrupt(folder, tmp_path)
    before = content(tmp_path)
    with pytest.raises(UsageError, match=f"holds a different preparation .*{words}"):
        prepare([folder], tmp_path, replace(OPTIONS, **change))
    assert {name: data for name, data in content(tmp_path).items() if "digests" not in name} == {
        name: data for name, data in before.items() if "digests" not in name
    }


def interrupt(folder, out):
    """A preparation that stopped after a few units."""

    def stop(stage, done, total):
        if stage == "encode" and done > total / 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare([folder], out, OPTIONS, on_progress=stop)


@pytest.mark.parametrize("processes", [1, 2])
def test_an_interruption_leaves_what_is_done(folder, expected, tmp_path, processes):
    interrupt(folder, tmp_path)
    assert not list((tmp_path / ".partial").glob("*.tmp"))
    told = []
    prepare([folder], tmp_path, OPTIONS, processes=processes, on_progress=lambda *each: told.append(each))
    assert next(done for stage, done, _ in told if stage == "encode") > 0
    assert content(tmp_path) == expected


def test_texts_that_changed_meanwhile_are_refused(folder, tmp_path):
    texts = tmp_path / "texts"
    shutil.copytree(folder, texts)
    interrupt(texts, tmp_path / "out")
    (texts / "03.txt").write_text("something else")
    with pytest.raises(UsageError, match=r"holds a different preparation \(other texts\)"):
        prepare([texts], tmp_path / "out", OPTIONS)


def test_a_directory_with_other_files_is_refused_and_kept(folder, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(UsageError, match="the directory holds other files: name a new or empty one"):
        prepare([folder], tmp_path, OPTIONS)
    assert content(tmp_path) == {"thesis.txt": b"years of work"}
    with pytest.raises(UsageError, match=r"thesis\.txt: is a file: name a directory"):
        prepare([folder], tmp_path / "thesis.txt", OPTIONS)


def test_a_second_preparation_at_the_same_time_is_refused(folder, tmp_path):
    refused = []

    def again(stage, done, total):
        if stage == "encode" and not refused:
            with pytest.raises(UnmaskError, match="another preparation is at work in it: wait for it") as caught:
                prepare([folder], tmp_path, OPTIONS)
            refused.append(caught)

    prepare([folder], tmp_path, OPTIONS, on_progress=again)
    assert refused


@pytest.mark.parametrize("processes", [1, 2])
def test_bad_text_among_good_is_named_and_mended_text_goes_on(folder, tmp_path, processes):
    texts = tmp_path / "texts"
    shutil.copytree(folder, texts)
    (texts / "zz.txt").write_bytes(b"caf\xe9")
    options = PrepareOptions(tokenizer="bytes", valid_fraction=0.2)
    with pytest.raises(UnmaskError, match=r"zz\.txt: not UTF-8: byte 3: convert the file, or leave it out"):
        prepare([texts], tmp_path / "out", options, processes=processes)
    assert not (tmp_path / "out" / "manifest.json").exists()


@pytest.mark.parametrize(
    ("content_of", "options", "words"),
    [
        ({"a.txt": ""}, {}, "all texts are empty: nothing to prepare"),
        ({"a.txt": " \n\n "}, {}, "all texts are empty: nothing to prepare"),
        ({"a.txt": ""}, {"tokenizer": "bpe:300"}, "no text to train the tokenizer on"),
        ({"a.txt": "one"}, {"valid_fraction": 0.999999}, "no document is left for training: all are in valid"),
        ({"a.jsonl": '{"text": "a\\ud800"}'}, {}, r"a\.jsonl: line at byte 0: lone surrogate at character 1"),
    ],
)
def test_texts_that_give_nothing_are_told(tmp_path, content_of, options, words):
    (tmp_path / "texts").mkdir()
    for name, text in content_of.items():
        (tmp_path / "texts" / name).write_text(text)
    with pytest.raises(UnmaskError, match=words):
        prepare([tmp_path / "texts"], tmp_path / "out", PrepareOptions(**{"tokenizer": "bytes", **options}))
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_a_tokenizer_without_an_end_of_text_is_refused(folder, tmp_path):
    byte_level().save(tmp_path / "tokenizer")
    config = tmp_path / "tokenizer" / "tokenizer_config.json"
    config.write_text(json.dumps({"eos_token": None}))
    with pytest.raises(UnmaskError, match="has no end-of-text token: name one as eos_token"):
        prepare([folder], tmp_path / "out", PrepareOptions(tokenizer=str(tmp_path / "tokenizer")))


def test_all_wrong_options_are_told_together():
    with pytest.raises(UsageError, match=r"--valid-fraction 1.5 .*; --separator is empty.*; --shard-tokens 0 .*"):
        PrepareOptions(valid_fraction=1.5, separator="", shard_tokens=0)
    with pytest.raises(UsageError, match="--processes 0 must be at least 1"):
        prepare(["x"], "y", processes=0)


# Memory


MEASURE = """
import resource, sys
from unmask.data.prepare import PrepareOptions, prepare

prepare([sys.argv[1]], sys.argv[2], PrepareOptions(tokenizer=sys.argv[3], valid_fraction=0.1))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10)
"""


@pytest.mark.parametrize("extension", ["txt", "jsonl"])
def test_memory_does_not_grow_with_the_text(tmp_path, extension):
    peaks = []
    for megabytes in (2, 16):
        folder = tmp_path / f"{megabytes}"
        folder.mkdir()
        line = prose(megabytes, 300) + "\n"
        with (folder / f"a.{extension}").open("w", encoding="utf-8") as file:
            for number in range((megabytes << 20) // len(line)):
                text = f"{number} {line}"
                file.write(text if extension == "txt" else json.dumps({"text": text}) + "\n")
        (folder / "b.txt").write_text("never held out alone")
        command = [sys.executable, "-c", MEASURE, str(folder), str(tmp_path / f"out-{megabytes}"), "bytes"]
        peaks.append(int(subprocess.check_output(command)))
    assert peaks[1] - peaks[0] < 8, f"MiB at 2 and at 16 MiB of text: {peaks}"
