"""`unmask prepare`, run as the command line runs it."""

import json
import os
import pty
import subprocess
import sys

import pytest

from unmask import cli
from unmask.data.source import Corpus


@pytest.fixture
def texts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "books"
    folder.mkdir()
    for number in range(8):
        (folder / f"{number}.txt").write_text("It was a dark and stormy night. " * (20 + number))
    return folder


def unmask(capsys, *arguments):
    status = cli.main(["prepare", *arguments])
    return status, *capsys.readouterr()


def test_it_prints_what_is_in_the_corpus(texts, capsys):
    status, out, err = unmask(capsys, "books", "--out", "corpus", "--tokenizer", "bytes", "--valid-fraction", "0.3")
    assert (status, err) == (0, "")
    assert out.splitlines()[0].split() == ["split", "documents", "tokens", "bytes", "bytes/token", "shards"]
    assert out.splitlines()[-1] == "prepared in corpus, vocabulary 258"
    corpus = Corpus.open("corpus")
    for name, split in corpus.manifest.splits.items():
        row = next(line.split() for line in out.splitlines() if line.startswith(name))
        figures = [
            f"{split.documents}",
            f"{split.tokens:,}",
            f"{split.bytes:,}",
            f"{split.bytes / split.tokens:.3f}",
            "1",
        ]
        assert row[1:] == figures
    assert sum(split.documents for split in corpus.manifest.splits.values()) == 8


def test_json_has_the_same_figures_alone_on_standard_output(texts, capsys):
    status, out, err = unmask(capsys, "books", "--out", "corpus", "--tokenizer", "bpe:300", "--json")
    found = json.loads(out)
    corpus = Corpus.open("corpus")
    assert (status, err) == (0, "")
    assert (found["out"], found["tokenizer"], found["vocab_size"]) == ("corpus", "bpe:300", corpus.manifest.vocab_size)
    for name, split in corpus.manifest.splits.items():
        assert found["splits"][name]["tokens"] == split.tokens
        assert found["splits"][name]["bytes"] == split.bytes


def test_processes_and_a_second_call_change_nothing(texts, capsys):
    _, first, _ = unmask(capsys, "books", "--out", "corpus", "--processes", "1", "--json")
    _, again, _ = unmask(capsys, "books", "--out", "corpus", "--processes", "2", "--json")
    assert first == again


def test_a_separator_may_be_written_with_escapes(texts, capsys):
    (texts / "poems.txt").write_text("one\n\t\ntwo\n\t\nthree")
    arguments = ("--out", "corpus", "--tokenizer", "bytes", "--separator", r"\n\t\n", "--valid-fraction", "0", "--json")
    _, out, _ = unmask(capsys, "books/poems.txt", *arguments)
    assert json.loads(out)["splits"]["train"]["documents"] == 3
    assert json.loads(out)["splits"]["train"]["bytes"] == 11


def test_it_tells_what_one_may_want_to_change(texts, capsys):
    (texts / "blank.txt").write_text("\n")
    _, out, _ = unmask(capsys, "books", "--out", "corpus", "--tokenizer", "bpe:5000", "--valid-fraction", "0")
    assert "1 document without text was left out" in out
    assert "no document is held out as valid: give more documents, a --separator" in out
    assert "the text is enough for bpe:" in out
    assert "not bpe:5000" in out


def test_a_path_is_not_taken_for_markup_or_broken(texts, capsys):
    long = "a" * 60 + "[bold]" + "b" * 60
    _, out, _ = unmask(capsys, "books", "--out", long, "--tokenizer", "bytes")
    assert f"prepared in {long}, vocabulary 258" in out


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["--out", "corpus"], 2, "no text given: name files, folders or a corpus"),
        (["books"], 2, "--out"),
        (["books", "--out", "corpus", "--processes", "-1"], 2, "--processes -1 must be at least 1, or 0"),
        (["books", "--out", "corpus", "--valid-fraction", "1"], 2, "--valid-fraction 1.0 must be at least 0"),
        (["books", "--out", "corpus", "--tokenizer", "byts"], 2, "did you mean 'bytes'"),
        (["books", "--out", "corpus", "--tokenizer", "absent.json"], 2, "no such file"),
        (["book", "--out", "corpus"], 2, "unknown file, folder or corpus 'book'"),
        (["books/9.txt", "--out", "corpus"], 2, "books/9.txt: no such file or folder"),
        (["books", "--out", "books"], 2, "--out books: the directory holds other files"),
        (
            ["books", "--out", "other"],
            2,
            "holds a different preparation (tokenizer 'bytes', not 'bpe:4096'; valid_fraction 0.5, not 0.1)",
        ),
        (["empty.txt", "--out", "corpus"], 1, "empty.txt: the file is empty"),
        (["latin.txt", "--out", "corpus"], 1, "latin.txt: not UTF-8: byte 3"),
        (["binary.txt", "--out", "corpus"], 1, "binary.txt: binary, not text"),
        (
            ["books", "latin.txt", "--out", "corpus", "--tokenizer", "bytes", "--processes", "2"],
            1,
            "latin.txt: not UTF-8",
        ),
        (["books/1.txt", "--out", "corpus", "--valid-fraction", "0.9999"], 1, "no text to train the tokenizer on"),
        (["books", "--out", "damaged"], 1, "train-00000.npy: altered: its SHA-256 is not the manifest's"),
    ],
)
def test_errors_are_one_line_with_their_status_and_lose_nothing(texts, capsys, arguments, status, words):
    root = texts.parent
    (root / "empty.txt").touch()
    (root / "latin.txt").write_bytes(b"caf\xe9")
    (root / "binary.txt").write_bytes(b"\x89PNG\r\n\x1a\n\x00\x00")
    unmask(capsys, "books", "--out", "other", "--valid-fraction", "0.5", "--tokenizer", "bytes")
    unmask(capsys, "books", "--out", "damaged")
    with (root / "damaged" / "train-00000.npy").open("r+b") as file:
        file.seek(-3, os.SEEK_END)
        file.write(b"!")
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    found, out, err = unmask(capsys, *arguments)
    assert (found, out) == (status, "")
    assert words in err
    assert err.count("\n") == 1
    assert not (root / "corpus" / "manifest.json").exists()
    after = {path: path.read_bytes() for path in before}
    assert after == before


def test_a_terminal_shows_progress_on_standard_error_alone(texts):
    leader, follower = pty.openpty()
    command = [sys.executable, "-m", "unmask", "prepare", "books", "--out", "corpus", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=follower, env={**os.environ, "TERM": "xterm"}) as run:
        os.close(follower)
        shown = b""
        try:
            while block := os.read(leader, 1 << 16):
                shown += block
        except OSError:  # the other end is closed
            pass
        out = run.stdout.read()
    os.close(leader)
    assert run.returncode == 0
    assert json.loads(out)["splits"]["train"]["documents"] > 0
    for title in ("reading the texts", "training the tokenizer", "encoding", "writing shards"):
        assert title.encode() in shown
