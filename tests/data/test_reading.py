import gzip
import itertools
import json
import lzma
import os

import pyarrow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from unmask.data import reading
from unmask.data.reading import Source, find_sources, read_documents
from unmask.errors import UnmaskError, UsageError


def compress(data, extension):
    if extension == ".gz":
        return gzip.compress(data)
    if extension == ".xz":
        return lzma.compress(data)
    if extension == ".zst":
        sink = pyarrow.BufferOutputStream()
        with pyarrow.CompressedOutputStream(sink, "zstd") as stream:
            stream.write(data)
        return sink.getvalue().to_pybytes()
    return data


def documents(path, *span, **options):
    """(key, text) of each document."""
    source = path if isinstance(path, Source) else Source(path, path.name)
    found = read_documents(source, *span, **options)
    return [(each.key, each.text if isinstance(each.text, str) else "".join(each.text)) for each in found]


def texts(path, *span, **options):
    return [text for _, text in documents(path, *span, **options)]


RECORDS = [{"id": f"d{i}", "text": f"Überall {i} " * (i % 7), "n": i} for i in range(40)]


# Text files


@pytest.mark.parametrize("extension", ["", ".gz", ".zst", ".xz"])
def test_a_text_file_is_one_document_however_it_is_compressed(tmp_path, extension):
    text = "Fellow citizens,\nzwölf Boxkämpfer\r\n" * 1000
    path = tmp_path / f"speech.txt{extension}"
    path.write_bytes(compress(text.encode(), extension))
    assert documents(path) == [(path.name, text)]


def test_characters_cut_by_a_block_are_whole_again(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "BLOCK", 7)
    text = "aé國🎆" * 50
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    assert texts(tmp_path / "a.txt") == [text]


def test_a_long_text_is_a_stream_of_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "BLOCK", 100)
    (tmp_path / "a.txt").write_text("word " * 100)
    (document,) = read_documents(Source(tmp_path / "a.txt", "a.txt"))
    assert [len(block) for block in document.text] == [100] * 5


def test_a_byte_order_mark_is_no_text(tmp_path):
    (tmp_path / "a.txt").write_text("We the", encoding="utf-8-sig")
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "We the"}), encoding="utf-8-sig")
    assert texts(tmp_path / "a.txt") == texts(tmp_path / "a.jsonl") == ["We the"]


@given(st.text("ab-\n", max_size=40), st.sampled_from(["-", "--", "-\n-", "aa"]), st.integers(1, 9))
@settings(max_examples=300, deadline=None)
def test_a_separator_cuts_a_text_as_split_does_whatever_the_blocks(text, separator, size):
    blocks = [text[start : start + size] for start in range(0, len(text), size)]
    assert list(reading._separated(blocks, separator)) == text.split(separator)


def test_a_separated_text_is_its_own_key(tmp_path):
    (tmp_path / "a.txt").write_text("one\n---\ntwo\n---\none")
    assert documents(tmp_path / "a.txt", separator="\n---\n") == [("one", "one"), ("two", "two"), ("one", "one")]


# JSON lines


@pytest.mark.parametrize("extension", ["", ".gz", ".zst", ".xz"])
def test_json_lines_are_documents_however_they_are_compressed(tmp_path, extension):
    path = tmp_path / f"a.jsonl{extension}"
    lines = "".join(json.dumps(record, ensure_ascii=i % 2 == 0) + "\n" for i, record in enumerate(RECORDS))
    path.write_bytes(compress(lines.encode(), extension))
    assert documents(path) == [(record["id"], record["text"]) for record in RECORDS]


def test_files_of_several_compressed_members_are_read_to_the_end(tmp_path):
    for extension in (".gz", ".xz", ".zst"):
        path = tmp_path / f"a.txt{extension}"
        path.write_bytes(compress(b"We the ", extension) + compress(b"people", extension))
        assert texts(path) == ["We the people"]


@given(st.lists(st.integers(0, 30), max_size=12), st.lists(st.integers(0, 700), max_size=5), st.booleans())
@settings(max_examples=150, deadline=None)
def test_ranges_of_bytes_share_out_the_lines(tmp_path_factory, lengths, cuts, ends_with_newline):
    path = tmp_path_factory.mktemp("ranges") / "a.jsonl"
    lines = [json.dumps({"text": f"{i} " + "é" * length}, ensure_ascii=False) for i, length in enumerate(lengths)]
    path.write_bytes("\n".join(lines).encode() + b"\n" * ends_with_newline)
    size = path.stat().st_size
    edges = sorted({0, size, *(min(cut, size) for cut in cuts)})
    shared = [text for start, stop in itertools.pairwise(edges) for text in texts(path, start, stop)]
    assert shared == texts(path) == [json.loads(line)["text"] for line in lines]


def test_blank_lines_are_passed_over_and_a_document_without_id_is_its_own_key(tmp_path):
    (tmp_path / "a.jsonl").write_text('\n{"body": "one"}\n  \n{"body": "two", "id": 7}\n\n')
    assert documents(tmp_path / "a.jsonl", text_field="body") == [("one", "one"), ("7", "two")]


def test_null_is_an_empty_text(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": null}\n{"text": "one"}\n')
    parquet.write_table(pyarrow.table({"text": [None, "one"]}), tmp_path / "a.parquet")
    assert texts(tmp_path / "a.jsonl") == texts(tmp_path / "a.parquet") == ["", "one"]


# Parquet


@pytest.mark.parametrize("name", ["a.parquet", "a[1] b*{2}?.parquet"])
def test_rows_of_parquet_are_documents_whatever_the_files_name(tmp_path, name):
    parquet.write_table(pyarrow.Table.from_pylist(RECORDS), tmp_path / name, row_group_size=7)
    assert documents(tmp_path / name) == [(record["id"], record["text"]) for record in RECORDS]


def test_parquet_is_read_a_few_rows_at_a_time_and_no_other_column(tmp_path, monkeypatch):
    import datasets

    asked = {}
    load = datasets.load_dataset
    monkeypatch.setattr(
        datasets, "load_dataset", lambda *args, **options: asked.update(options) or load(*args, **options)
    )
    parquet.write_table(pyarrow.Table.from_pylist(RECORDS), tmp_path / "a.parquet")
    assert len(documents(tmp_path / "a.parquet")) == 40
    assert asked["streaming"] is True
    assert asked["columns"] == ["id", "text"]
    assert asked["batch_size"] == reading.PARQUET_ROWS


# Bad input: one line that says what and where


def bad_files(folder):
    good = "".join(json.dumps(record) + "\n" for record in RECORDS).encode()
    sink = pyarrow.BufferOutputStream()
    parquet.write_table(pyarrow.Table.from_pylist(RECORDS), sink)
    table = sink.getvalue().to_pybytes()
    parquet.write_table(pyarrow.table({"body": ["a"]}), folder / "field.parquet")
    parquet.write_table(pyarrow.table({"text": [["a"]]}), folder / "list.parquet")
    for name, content in {
        "latin.txt": "naïve".encode("latin-1"),
        "utf16.txt": "We the".encode("utf-16"),
        "binary.txt": b"\x7fELF\x02\x01\x01\x00\x00",
        "cut.txt": "We é".encode()[:-1],
        "latin.jsonl": b'{"text": "a"}\n{"text": "na\xefve"}\n',
        "broken.jsonl": b'{"text": "a"}\n\n{"text": "b"\n',
        "number.jsonl": b'{"text": 7}\n',
        "list.jsonl": b"[1]\n",
        "field.jsonl": b'{"body": "a", "id": 1}\n',
        "cut.jsonl.gz": compress(good, ".gz")[:-9],
        "cut.jsonl.xz": compress(good, ".xz")[:-9],
        "cut.jsonl.zst": compress(good, ".zst")[:-9],
        "plain.txt.gz": b"not compressed",
        "plain.txt.xz": b"not compressed",
        "plain.txt.zst": b"not compressed",
        "cut.parquet": table[: len(table) // 2],
        "plain.parquet": b"not a table",
    }.items():
        (folder / name).write_bytes(content)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("latin.txt", "not UTF-8: byte 2: convert"),
        ("utf16.txt", "UTF-16, not UTF-8: convert"),
        ("binary.txt", "binary, not text: zero byte at byte 7: leave the file out"),
        ("cut.txt", "not UTF-8: byte 3"),
        ("latin.jsonl", r"line 2 \(byte 14\): not UTF-8: byte 12 of the line"),
        ("broken.jsonl", r"line 3 \(byte 15\): broken JSON: Expecting ',' delimiter at character 13"),
        ("number.jsonl", r"line 1 \(byte 0\): field 'text' is 7, not a text"),
        ("list.jsonl", r"line 1 \(byte 0\): not a JSON object"),
        ("field.jsonl", r"line 1 \(byte 0\): no field 'text'; name another with --text-field: body, id"),
        ("cut.jsonl.gz", "damaged, perhaps truncated"),
        ("cut.jsonl.xz", "damaged, perhaps truncated"),
        ("cut.jsonl.zst", "damaged, perhaps truncated"),
        ("plain.txt.gz", "damaged, perhaps truncated: Not a gzipped file"),
        ("plain.txt.xz", "damaged, perhaps truncated"),
        ("plain.txt.zst", "damaged, perhaps truncated"),
        ("cut.parquet", "not readable as Parquet"),
        ("plain.parquet", "not readable as Parquet"),
        ("field.parquet", "row 0: no field 'text'; name another with --text-field: body"),
        ("list.parquet", "row 0: field 'text' is .*, not a text"),
    ],
)
def test_a_file_that_cannot_be_read_is_named_with_the_place(tmp_path, capfd, name, words):
    bad_files(tmp_path)
    with pytest.raises(UnmaskError, match=f"{name}: {words}") as caught:
        documents(tmp_path / name)
    assert caught.value.exit_status == 1
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")  # and no library says more


def test_the_line_of_a_mistake_is_counted_from_the_beginning_of_the_file(tmp_path):
    lines = [json.dumps({"text": "a" * 50})] * 20 + ["{"] + [json.dumps({"text": "b"})] * 3
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    with pytest.raises(UnmaskError, match="line 21 "):
        texts(tmp_path / "a.jsonl", 700)


@pytest.mark.skipif(os.getuid() == 0, reason="the superuser may read everything")
def test_a_file_that_may_not_be_read_is_named(tmp_path):
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "a.txt").chmod(0)
    with pytest.raises(UnmaskError, match=r"a\.txt: cannot be read: Permission denied"):
        texts(tmp_path / "a.txt")


# Which files


def test_a_folder_means_all_text_below_it_in_the_order_of_names(tmp_path):
    for name in ["b.txt", "a/z.jsonl.gz", "a/b.parquet", "a.txt.xz", "notes.md", ".hidden/c.txt", ".d.txt", "e.npy"]:
        path = tmp_path / "books" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    found = find_sources([tmp_path / "books"])
    assert [source.name for source in found] == [
        "books/a.txt.xz",
        "books/a/b.parquet",
        "books/a/z.jsonl.gz",
        "books/b.txt",
    ]


def test_names_do_not_depend_on_where_one_stands(tmp_path, monkeypatch):
    (tmp_path / "books").mkdir()
    (tmp_path / "books" / "a.txt").write_text("x")
    there = find_sources([tmp_path / "books"])
    monkeypatch.chdir(tmp_path / "books")
    assert [source.name for source in find_sources(["."])] == [source.name for source in there] == ["books/a.txt"]


def test_a_file_named_twice_is_one_document(tmp_path):
    (tmp_path / "a.txt").write_text("x")
    (tmp_path / "b.txt").write_text("x")
    found = find_sources([tmp_path / "b.txt", tmp_path, tmp_path / "a.txt"])
    assert [source.path.name for source in found] == ["b.txt", "a.txt"]


@pytest.mark.parametrize(
    ("given_path", "words", "status"),
    [
        ("absent.txt", r"absent\.txt: no such file or folder", 2),
        ("soto", "unknown file, folder or corpus 'soto': did you mean 'sotu'", 2),
        ("notes.md", r"notes\.md: unknown extension; known: \.txt", 2),
        ("empty.txt", r"empty\.txt: the file is empty", 1),
        ("nothing", "nothing: no text in this folder", 1),
    ],
)
def test_an_input_that_means_no_text_is_named(tmp_path, monkeypatch, given_path, words, status):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.md").write_text("x")
    (tmp_path / "empty.txt").touch()
    (tmp_path / "nothing").mkdir()
    with pytest.raises(UnmaskError, match=words) as caught:
        find_sources([given_path])
    assert caught.value.exit_status == status


def test_no_input_is_a_usage_error():
    with pytest.raises(UsageError, match="no text given"):
        find_sources([])
