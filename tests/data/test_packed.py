"""Token files of other programs as training data."""

import dataclasses
import struct

import numpy as np
import pytest
from tests.packed_files import datatrove, documents, flat, lit_gpt, megatron
from tests.train.runs import losses, tiny_run, write_corpus

import unmask
from unmask.data import token_files, tokenizer
from unmask.data.packed import PackedCorpus, open_corpus
from unmask.data.pipeline import Batches
from unmask.data.source import Corpus
from unmask.errors import UnmaskError, UsageError
from unmask.train.loop import train

WRITERS = {
    "lit-gpt": lambda folder, docs: [lit_gpt(folder / f"train_x_{n}.bin", flat(docs[n::2])) for n in range(2)],
    "lit-gpt, int32": lambda folder, docs: [lit_gpt(folder / f"x_{n}.bin", flat(docs[n::2]), "<i4") for n in range(2)],
    "megatron": lambda folder, docs: [megatron(folder / f"x_{n}_text_document", docs[n::2]) for n in range(2)],
    "megatron, int32": lambda folder, docs: [megatron(folder / f"{n}", docs[n::2], "<i4") for n in range(2)],
    "datatrove": lambda folder, docs: [datatrove(folder / f"0000{n}_shuffled.ds", docs[n::2]) for n in range(2)],
    "datatrove, 4 bytes": lambda folder, docs: [datatrove(folder / f"{n}.ds", docs[n::2], 4) for n in range(2)],
}


@pytest.mark.parametrize("name", WRITERS)
def test_the_tokens_come_out_in_order_and_the_last_hundredth_is_held_out(name, tmp_path):
    docs = documents()
    WRITERS[name](tmp_path / "data", docs)
    corpus = open_corpus(tmp_path / "data", "bytes")
    expected = flat(docs[0::2]) + flat(docs[1::2])
    train, valid = corpus.split("train"), corpus.split("valid")
    found = np.concatenate([train[: len(train)], valid[: len(valid)]]).tolist()
    assert found == expected
    assert len(train) == corpus.manifest.splits["train"].tokens
    assert train[3:7].tolist() == expected[3:7]
    middle = len(flat(docs[0::2]))
    assert train[middle - 3 : middle + 3].tolist() == expected[middle - 3 : middle + 3]  # across two files
    if name.startswith("lit-gpt"):
        assert len(valid) == len(expected) // 100
    else:  # cut at a document
        ends = np.cumsum([len(d) for d in [*docs[0::2], *docs[1::2]]])
        assert len(train) in ends
        assert abs(len(valid) - len(expected) / 100) < 82
    # the bytes of the text: all letters, and neither of the special tokens
    for source in (train, valid):
        assert source.split.bytes == sum(token < 256 for token in source[: len(source)].tolist())
    batches = Batches(train, length=16, batch_size=4, seed=0)
    assert batches[0].shape == (4, 16)
    assert batches[0].max() < 258


def test_splits_are_those_that_files_and_folders_are_named_for(tmp_path):
    lit_gpt(tmp_path / "a" / "train_slim_0.bin", [1] * 10)
    lit_gpt(tmp_path / "a" / "validation_slim_0.bin", [2] * 5)
    lit_gpt(tmp_path / "b" / "Train" / "0.bin", [1] * 10)
    lit_gpt(tmp_path / "b" / "valid" / "0.bin", [2] * 5)
    lit_gpt(tmp_path / "b" / "test" / "0.bin", [3] * 5)
    lit_gpt(tmp_path / "d" / "test_0.bin", [3] * 5)
    lit_gpt(tmp_path / "c" / "training_notes_valid.bin", [1] * 300)
    for folder in ("a", "b"):
        corpus = open_corpus(tmp_path / folder, "bytes")
        assert corpus.split("train")[:].tolist() == [1] * 10
        assert corpus.split("valid")[:].tolist() == [2] * 5
    assert corpus.split("test")[:].tolist() == [3] * 5
    assert len(open_corpus(tmp_path / "c", "bytes").split("train")) == 297
    with pytest.raises(UsageError, match="holds files of test alone"):
        open_corpus(tmp_path / "d", "bytes")
    assert open_corpus(tmp_path / "d", "bytes", training=False).split("test")[:].tolist() == [3] * 5
    lit_gpt(tmp_path / "e" / "test_0.bin", [])
    with pytest.raises(UnmaskError, match="holds no tokens: give files that do"):
        open_corpus(tmp_path / "e", "bytes", training=False)


def test_one_file_and_a_prefix_of_megatron_are_enough(tmp_path):
    docs = documents()
    megatron(tmp_path / "my_text_document", docs)
    for path in ("my_text_document", "my_text_document.bin", "my_text_document.idx"):
        corpus = open_corpus(tmp_path / path, "bytes")
        assert len(corpus.split("train")) + len(corpus.split("valid")) == len(flat(docs))
    datatrove(tmp_path / "x.ds", docs, 4, metadata=False)
    assert token_files.datatrove(tmp_path / "x.ds").tokens.dtype == np.uint32  # from the index
    datatrove(tmp_path / "y.ds", docs, 2, metadata=False, index=False)
    assert token_files.datatrove(tmp_path / "y.ds").tokens.tolist() == flat(docs)


def test_training_on_token_files_gives_the_losses_of_the_prepared_corpus(tmp_path):
    prepared = Corpus.open(write_corpus(tmp_path))
    source = {name: prepared.split(name) for name in ("train", "valid")}
    for name, each in source.items():
        lit_gpt(tmp_path / "packed" / f"{name}_0.bin", each[:].tolist())
    run = tiny_run(tmp_path / "corpus", steps=4)
    expected = list(train(run, tmp_path / "one"))
    packed = dataclasses.replace(run, data=str(tmp_path / "packed"), tokenizer="bytes")
    found = list(train(packed, tmp_path / "two"))
    assert losses(found) == losses(expected)
    assert found[-1]["loss"] == expected[-1]["loss"]
    assert found[-1]["bits_per_byte"] == pytest.approx(expected[-1]["bits_per_byte"], rel=1e-3)
    assert unmask.load(tmp_path / "two", "cpu").tokenizer.vocab_size == 258
    # it goes on where the folder has moved to, and not on other tokens
    (tmp_path / "packed").rename(tmp_path / "moved")
    moved = dataclasses.replace(packed, data=str(tmp_path / "moved"))
    assert next(train(moved, tmp_path / "two", resume=True))["kind"] == "end"
    lit_gpt(tmp_path / "moved" / "train_0.bin", source["train"][:].tolist()[::-1])
    with pytest.raises(UsageError, match="began on another corpus"):
        next(train(moved, tmp_path / "two", resume=True))


def test_the_tokenizer_is_the_named_one_or_the_one_beside_the_files_or_that_of_the_model(tmp_path):
    datatrove(tmp_path / "x.ds", documents())
    with pytest.raises(UsageError, match=r"they say 'gpt2'.*give --tokenizer"):
        open_corpus(tmp_path)
    other = tokenizer.train_bpe(iter(["some words and more words"]), 300)
    assert open_corpus(tmp_path, default=other).tokenizer is other
    tokenizer.byte_level().save(tmp_path / "tokenizer")
    assert open_corpus(tmp_path, default=other).tokenizer.vocab_size == 258
    corpus = open_corpus(tmp_path, "bytes")
    assert isinstance(corpus, PackedCorpus)
    with pytest.raises(UsageError, match="a new vocabulary"):
        open_corpus(tmp_path, "bpe:300")
    prepared = write_corpus(tmp_path / "p")
    assert open_corpus(prepared).digest == Corpus.open(prepared).digest
    with pytest.raises(UsageError, match="has its own: leave it out"):
        open_corpus(prepared, "bytes")


def test_ids_that_the_tokenizer_lacks_are_refused_when_opened_and_when_met(tmp_path):
    tokens = [1] * 400_000
    lit_gpt(tmp_path / "a.bin", [*tokens[:10], 258])
    with pytest.raises(UnmaskError, match=r"a.bin: holds the token 258, and the tokenizer has 258"):
        open_corpus(tmp_path, "bytes")
    tokens[73_000] = 40_000  # in a large file, where opening it does not look
    lit_gpt(tmp_path / "a.bin", tokens)
    source = open_corpus(tmp_path, "bytes").split("train")
    assert source[:1000].max() == 1
    with pytest.raises(UnmaskError, match=r"a.bin: holds the token 40000"):
        source[72_999:73_020]
    with pytest.raises(UnmaskError, match=r"holds the token 40000"):
        for _, _ in zip(range(110), Batches(source, length=4000, batch_size=1, seed=0).iterate(), strict=False):
            pass
    lit_gpt(tmp_path / "other" / "b.bin", [1, -2, 3] * 100, "<i4")
    with pytest.raises(UnmaskError, match="holds the token -2"):
        open_corpus(tmp_path / "other", "bytes")


def test_damaged_files_are_named_and_refused(tmp_path):
    docs = documents(5)

    def problem(path):
        with pytest.raises((UnmaskError, UsageError)) as error:
            open_corpus(path, "bytes")
        return str(error.value)

    path = tmp_path / "a.bin"
    lit_gpt(path, flat(docs))
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    assert "tokens take" in problem(path)
    path.write_bytes(whole[:20])
    assert "cut short within its header" in problem(path)
    path.write_bytes(whole[:7] + struct.pack("<Q", 2) + whole[15:])
    assert "version 2" in problem(path)
    path.write_bytes(whole[:15] + b"\x06" + whole[16:])
    assert "type 6 in its header" in problem(path)

    megatron(tmp_path / "m", docs)
    index, tokens = tmp_path / "m.idx", tmp_path / "m.bin"
    whole_index, whole = index.read_bytes(), tokens.read_bytes()
    tokens.write_bytes(whole[:-2])
    assert "m.bin" in problem(tmp_path / "m")
    tokens.write_bytes(whole)
    index.write_bytes(whole_index[:-40])
    assert "promises 5 sequences" in problem(tmp_path / "m")
    index.write_bytes(b"TNTIDX\x00\x00\x00" + whole_index[9:])
    assert "not an index of Megatron" in problem(tmp_path / "m")
    index.write_bytes(whole_index[:54] + struct.pack("<q", 2) + whole_index[62:])
    assert "do not follow one another" in problem(tmp_path / "m")
    index.unlink()
    assert "no such directory" in problem(tmp_path / "m") or "no prepared corpus" in problem(tmp_path / "m")

    datatrove(tmp_path / "x.ds", docs)
    (tmp_path / "x.ds").write_bytes((tmp_path / "x.ds").read_bytes()[:-2])
    assert "x.ds.index: ends at token" in problem(tmp_path / "x.ds")
    datatrove(tmp_path / "x.ds", docs)
    (tmp_path / "x.ds.loss").write_bytes(b"\x01")
    assert "masks part of the loss" in problem(tmp_path / "x.ds")
    (tmp_path / "x.ds.loss").unlink()
    lit_gpt(path, flat(docs))
    assert "files of datatrove and of lit-gpt" in problem(tmp_path)
