"""Token files of other programs, written byte by byte as their layouts say."""

import struct

import numpy as np

CODES = {"<u1": 1, "<i2": 3, "<i4": 4, "<i8": 5, "<u2": 8}


def lit_gpt(path, tokens, dtype="<u2"):
    """`PackedDatasetBuilder._write_chunk` of lit-gpt."""
    body = np.asarray(tokens, dtype).tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(
        b"LITPKDS" + struct.pack("<Q", 1) + struct.pack("<B", CODES[dtype]) + struct.pack("<Q", len(tokens)) + body
    )


def megatron(prefix, documents, dtype="<u2"):
    """`IndexedDatasetBuilder` of Megatron-LM: one sequence for each document."""
    size = np.dtype(dtype).itemsize
    lengths = [len(document) for document in documents]
    places = [size * sum(lengths[:number]) for number in range(len(lengths))]
    prefix.parent.mkdir(parents=True, exist_ok=True)
    prefix.with_name(f"{prefix.name}.bin").write_bytes(b"".join(np.asarray(d, dtype).tobytes() for d in documents))
    prefix.with_name(f"{prefix.name}.idx").write_bytes(
        b"MMIDIDX\x00\x00"
        + struct.pack("<QBQQ", 1, CODES[dtype], len(documents), len(documents) + 1)
        + struct.pack(f"<{len(lengths)}i", *lengths)
        + struct.pack(f"<{len(lengths)}q", *places)
        + struct.pack(f"<{len(lengths) + 1}q", *range(len(lengths) + 1))
    )


def datatrove(path, documents, size=2, metadata=True, index=True):
    """`TokenizedFile` of datatrove."""
    letter = {2: "H", 4: "I"}[size]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(struct.pack(f"<{len(d)}{letter}", *d) for d in documents))
    ends = np.cumsum([len(document) for document in documents]).tolist()
    if index:
        path.with_name(f"{path.name}.index").write_bytes(struct.pack(f"<{len(ends)}Q", *ends))
    if metadata:
        path.with_name(f"{path.name}.metadata").write_text(f"gpt2|{size}\n{ends[-1]}\n{ends[-1]} T")


def documents(count=40, seed=0):
    generator = np.random.default_rng(seed)
    return [[256, *generator.integers(97, 123, generator.integers(1, 80)).tolist(), 257] for _ in range(count)]


def flat(docs):
    return [token for document in docs for token in document]
