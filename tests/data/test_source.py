"""A prepared corpus opened: what is damaged is named and refused."""

import json
import os
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unmask.data import source as opening
from unmask.data.digests import sha256_files, write_atomically
from unmask.data.prepare import PrepareOptions, prepare
from unmask.data.source import Corpus
from unmask.errors import UnmaskError, UsageError

TEXTS = [f"Document {number}: " + "word " * number for number in range(30)]


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    (folder / "a.txt").write_text("\n--\n".join(TEXTS))
    options = PrepareOptions(tokenizer="bytes", separator="\n--\n", shard_tokens=500)
    prepare([folder / "a.txt"], folder / "corpus", options)
    return folder / "corpus"


@pytest.fixture
def corpus(original, tmp_path):
    return shutil.copytree(original, tmp_path / "corpus")


def test_tokens_are_one_array_over_all_shards(original):
    source = Corpus.open(original).split("train")
    whole = np.concatenate([np.load(original / shard.file) for shard in source.split.shards])
    assert len(source.split.shards) > 3
    assert len(source) == len(whole) == source.documents[-1]

    @given(st.integers(-3000, 3000), st.integers(-3000, 3000))
    @settings(max_examples=200, deadline=None)
    def check(start, stop):
        assert source[start:stop].tolist() == whole[start:stop].tolist()
        assert source[start:stop].dtype == np.uint16

    check()
    assert source[499] == whole[499]
    assert source[-1] == 257
    with pytest.raises(IndexError):
        source[len(whole)]
    with pytest.raises(IndexError, match="step 1"):
        source[::2]


def test_tokens_in_one_shard_are_mapped_and_cannot_be_written(original):
    tokens = Corpus.open(original).split("train")[10:20]
    assert isinstance(tokens, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        tokens[0] = 1


def test_an_unknown_split_is_a_usage_error(original):
    with pytest.raises(UsageError, match="'vaild': did you mean 'valid'"):
        Corpus.open(original).split("vaild")


def flip(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def shape(path):
    np.save(path, np.load(path).astype(np.uint32))


DAMAGE = {
    "a bit of a token": ("train-00001.npy", lambda path: flip(path, -1)),
    "a bit of the header": ("train-00001.npy", lambda path: flip(path, 20)),
    "the end is missing": ("train-00001.npy", lambda path: os.truncate(path, path.stat().st_size - 2)),
    "half is missing": ("train-00000.npy", lambda path: os.truncate(path, path.stat().st_size // 2)),
    "all is missing": ("train-00002.npy", lambda path: os.truncate(path, 0)),
    "no such file": ("valid-00000.npy", lambda path: path.unlink()),
    "something more": ("train-00000.npy", lambda path: path.write_bytes(path.read_bytes() + b"\0\0")),
    "another dtype": ("train-00000.npy", shape),
    "a bit of a boundary": ("train-documents.npy", lambda path: flip(path, 140)),
    "boundaries cut": ("valid-documents.npy", lambda path: os.truncate(path, 130)),
    "another tokenizer": ("tokenizer/tokenizer.json", lambda path: flip(path, 40)),
    "no tokenizer": ("tokenizer/tokenizer.json", lambda path: path.unlink()),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("opened_before", [True, False])
def test_a_damaged_file_is_named_and_refused(corpus, damage, opened_before):
    if opened_before:
        Corpus.open(corpus)
        assert (corpus / opening.VERIFIED).exists()
    name, do = DAMAGE[damage]
    do(corpus / name)
    with pytest.raises(UnmaskError, match=f"{name}: .*delete {corpus} and prepare it again") as caught:
        Corpus.open(corpus)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_status == 1


def test_a_pickle_in_place_of_a_shard_is_never_loaded(corpus):
    np.save(corpus / "train-00000.npy", np.array([print], dtype=object), allow_pickle=True)
    with pytest.raises(UnmaskError, match=r"train-00000\.npy: truncated or altered"):
        Corpus.open(corpus)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda fields: fields.update(vocab_size=300), "tokenizer: not the tokenizer of the manifest"),
        (lambda fields: fields.update(mask_id=0), "tokenizer: not the tokenizer of the manifest"),
        (lambda fields: fields.update(vocab_size=70_000), "a vocabulary of 70000 does not fit uint16"),
        (lambda fields: fields["splits"]["train"].update(tokens=7), "the shards do not add up to the split"),
        (lambda fields: fields["splits"]["train"].update(documents=7), "train-documents.npy: altered"),
        (lambda fields: fields.update(format="unmask-tokens-0"), "format 'unmask-tokens-0' is not 'unmask-tokens-1'"),
        (lambda fields: fields.pop("dtype"), r"damaged \(TypeError: .*dtype"),
        (lambda fields: fields.pop("splits"), r"damaged \(KeyError: 'splits'\)"),
        (lambda fields: fields.update(splits=[1]), r"damaged \(AttributeError"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(corpus, change, words):
    fields = json.loads((corpus / "manifest.json").read_text())
    change(fields)
    (corpus / "manifest.json").write_text(json.dumps(fields))
    with pytest.raises(UnmaskError, match=words):
        Corpus.open(corpus)


def test_a_manifest_cut_in_half_is_refused(corpus):
    os.truncate(corpus / "manifest.json", 300)
    with pytest.raises(UnmaskError, match=r"manifest\.json: damaged \(JSONDecodeError"):
        Corpus.open(corpus)


def test_a_place_without_a_corpus_is_told_how_to_make_one(tmp_path):
    with pytest.raises(UnmaskError, match=r"no prepared corpus \(no manifest\.json\): make it with unmask prepare"):
        Corpus.open(tmp_path)
    with pytest.raises(UnmaskError, match="no such directory"):
        Corpus.open(tmp_path / "absent")


def test_an_unchanged_corpus_is_hashed_once(corpus, monkeypatch):
    import hashlib

    Corpus.open(corpus)
    monkeypatch.setattr(hashlib, "file_digest", None)
    Corpus.open(corpus)
    os.utime(corpus / "train-00000.npy")
    with pytest.raises(TypeError):  # read again
        Corpus.open(corpus)


def test_the_stamp_of_a_verification_moves_with_the_corpus_but_not_to_other_files(corpus, monkeypatch):
    import hashlib

    Corpus.open(corpus)
    moved = corpus.rename(corpus.with_name("moved"))
    with monkeypatch.context() as patch:
        patch.setattr(hashlib, "file_digest", None)
        Corpus.open(moved)
    (moved / opening.VERIFIED).write_text("{broken")
    Corpus.open(moved)


def test_a_corpus_that_cannot_be_written_to_opens(corpus, monkeypatch):
    def refuse(path, text):
        raise OSError(30, "Read-only file system", str(path))

    monkeypatch.setattr("unmask.data.digests.write_atomically", refuse)
    assert Corpus.open(corpus).manifest.vocab_size == 258


def test_digests_are_those_of_sha256sum(tmp_path):
    import hashlib

    paths = [tmp_path / f"{number}" for number in range(20)]
    for number, path in enumerate(paths):
        path.write_bytes(os.urandom(1000 * number))
    seen = []
    found = sha256_files(paths, on_file=seen.append)
    assert found == [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]
    assert seen == list(range(20))


def test_an_atomic_write_that_fails_leaves_the_old_file_alone(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    write_atomically(path, "old")

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
