"""One tokenizer class for everything: a byte-level BPE trained here, plain bytes, Mistral's, or anybody's file.

A `Tokenizer` wraps a `tokenizers.Tokenizer` and knows the ids of three special tokens: beginning and end of text,
which are ordinary rows of the vocabulary, and the mask, which is not predicted and so has the id `vocab_size`
unless the file brings a mask token of its own. Text is text: "<|eos|>" in a document is encoded letter by letter,
never as the special token.
"""

from __future__ import annotations

import copy
import importlib.util
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors, trainers

from unmask.errors import UnmaskError, UsageError, unknown_name

BOS, EOS, MASK = "<|bos|>", "<|eos|>", "<|mask|>"

# What the field calls these tokens; the first that a file has is taken where its tokenizer_config.json names none.
BOS_NAMES = (BOS, "<s>", "<|begin_of_text|>", "<|startoftext|>", "<bos>", "[CLS]", "<|endoftext|>")
EOS_NAMES = (EOS, "</s>", "<|end_of_text|>", "<|endoftext|>", "<eos>", "[SEP]")
MASK_NAMES = (MASK, "[MASK]", "<mask>", "<|mdm_mask|>")

SPECS = ("bpe:N", "bytes", "mistral")
SMALLEST_BPE = 256 + 2
PART_CHARS = 1 << 14
"""Longer texts are encoded in parts of about this many characters: the time and memory of one call stay bounded."""


class Tokenizer:
    """Text to ids and back. Ids below `vocab_size` can be predicted; `mask_id` is the mask token's."""

    vocab_size: int
    """Rows that a network predicts: pieces and special tokens, without a mask that lies past them."""
    bos_id: int | None
    eos_id: int | None
    mask_id: int
    chat_template: str | None = None
    """The Jinja of its chats, see `unmask.data.chat_template`."""

    def __init__(self, backend: tokenizers.Tokenizer, *, bos: str | None, eos: str | None, mask: str | None) -> None:
        """Wrap `backend`, whose special tokens are called `bos`, `eos` and `mask`; a missing mask is added.

        Raises `UnmaskError` if one of the names is not in the vocabulary.
        """
        backend.no_padding()
        backend.no_truncation()
        for name in (bos, eos, mask):
            if name is not None and backend.token_to_id(name) is None:
                raise UnmaskError(f"special token {name!r} is not in the tokenizer's vocabulary: correct its config")
        rows = max(backend.get_vocab(with_added_tokens=True).values(), default=-1) + 1
        added = mask is None
        if mask is None:
            mask = MASK
            backend.add_special_tokens([AddedToken(MASK, special=True, normalized=False)])
        self.mask_id = cast(int, backend.token_to_id(mask))
        if added and self.mask_id != rows:
            raise UnmaskError(
                f"the tokenizer's ids have gaps: its mask token would be {self.mask_id}, not {rows}: name one of "
                "its own as mask_token in tokenizer_config.json"
            )
        self.vocab_size = min(rows, self.mask_id) if self.mask_id >= rows - 1 else rows
        self.bos_id = None if bos is None else backend.token_to_id(bos)
        self.eos_id = None if eos is None else backend.token_to_id(eos)
        self._names = {"bos_token": bos, "eos_token": eos, "mask_token": mask}
        self._backend = backend
        backend.encode_special_tokens = True  # special tokens in a text are text
        self._joint = self._joint_rule()

    @classmethod
    def load(cls, path: str | Path) -> Tokenizer:
        """The tokenizer of a `tokenizer.json`, of a directory that holds one, or of a SentencePiece BPE `.model`.

        Special tokens are those of the `tokenizer_config.json` beside it, else the ones with the usual names.
        Raises `UnmaskError` if the file is missing or is no tokenizer.
        """
        path = Path(path)
        if path.is_dir():
            present = [path / name for name in ("tokenizer.json", "tokenizer.model") if (path / name).is_file()]
            if not present:
                raise UnmaskError(f"{path}: no tokenizer.json or tokenizer.model in it")
            path = present[0]
        if not path.is_file():
            raise UnmaskError(f"{path}: no such tokenizer file")
        if path.suffix != ".json":
            return from_sentencepiece(path)
        try:
            backend = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises plain Exception
            raise UnmaskError(f"{path}: not a tokenizer.json ({error})") from None
        named = _configured_names(path.with_name("tokenizer_config.json"))
        names = {
            key: named[key] if key in named else _first_present(backend, usual)
            for key, usual in (("bos_token", BOS_NAMES), ("eos_token", EOS_NAMES), ("mask_token", MASK_NAMES))
        }
        # A config that names no mask token may still come with a vocabulary that has one.
        mask = names["mask_token"] or _first_present(backend, MASK_NAMES)
        tokenizer = cls(backend, bos=names["bos_token"], eos=names["eos_token"], mask=mask)
        tokenizer.chat_template = chat_template_beside(path)
        return tokenizer

    def with_chat_template(self, source: str) -> Tokenizer:
        """The same tokenizer with this chat template."""
        other = copy.copy(self)
        other.chat_template = source
        return other

    @property
    def special_tokens(self) -> dict[str, int]:
        """Every token that is no piece of text, and its id."""
        return {token.content: row for row, token in self._backend.get_added_tokens_decoder().items() if token.special}

    @property
    def special_names(self) -> dict[str, str]:
        """What a chat template may name: bos_token, eos_token and mask_token, as far as there are such."""
        return {name: token for name, token in self._names.items() if token is not None}

    def save(self, directory: str | Path, *, causal: bool | None = None) -> None:
        """Write `tokenizer.json` and `tokenizer_config.json` into `directory`, as Hugging Face reads them.

        Beside a network, `causal` or not, they also make Transformers do as we do: an autoregressive one reads the
        beginning-of-text token first, where there is one, another one none; and end-of-text pads the texts of a batch.
        """
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        # one that is missing is null: there is none, whatever the vocabulary has under the usual names
        config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
        config |= self._names
        text = self.to_json()
        if causal is not None:
            backend = tokenizers.Tokenizer.from_str(text)
            begin_with(backend, self.bos_id if causal else None)
            text = backend.to_str(pretty=True)
            config |= {"pad_token": self._names["eos_token"], "padding_side": "left" if causal else "right"}
        if self.chat_template is not None:
            config["chat_template"] = self.chat_template
        (directory / "tokenizer.json").write_text(text, encoding="utf-8")
        (directory / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")

    def same_tokens(self, other: Tokenizer) -> bool:
        """Whether both give a text the same ids; what Transformers puts in front of it does not matter here."""
        return _without_frame(self) == _without_frame(other)

    def reads(self, other: Tokenizer) -> bool:
        """Whether every id of `other` is the same piece here, so that tokens made with it can be read."""
        ours = self._backend.get_vocab()
        theirs = other._backend.get_vocab().items()
        return all(ours.get(piece) == row for piece, row in theirs if row < other.vocab_size)

    def to_json(self) -> str:
        """The text of `tokenizer.json`."""
        return self._backend.to_str(pretty=True)

    def encode(self, text: str) -> list[int]:
        """The ids of `text`, with no special tokens added. Raises `UnmaskError` if it holds lone surrogates."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each of `texts`, as `encode` gives them."""
        parts_of = [list(self.parts([text])) for text in texts]
        encoded = iter(self._encode_parts([part for parts in parts_of for part in parts]))
        return [[token for _ in parts for token in next(encoded)] for parts in parts_of]

    def encode_special(self, texts: Sequence[str], *, plain: bool = False) -> list[list[int]]:
        """The ids of each of `texts`, in which the names of special tokens mean these, or with `plain` are text."""
        self._backend.encode_special_tokens = plain
        try:
            return self._encode_parts(list(texts))
        finally:
            self._backend.encode_special_tokens = True

    def encode_stream(self, blocks: Iterable[str]) -> Iterator[list[int]]:
        """The ids of one text that comes in `blocks` of any size, a list at a time; memory stays bounded."""
        for part in self.parts(blocks):
            yield self._encode_parts([part])[0]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`; special tokens, the mask among them, are left out."""
        return self._backend.decode([int(token) for token in ids], skip_special_tokens=True)

    def _encode_parts(self, parts: list[str]) -> list[list[int]]:
        try:
            return [coded.ids for coded in self._backend.encode_batch_fast(parts, add_special_tokens=False)]
        except TypeError:  # how the library reports a str that is not Unicode text
            raise UnmaskError("the text holds lone surrogates, so it is not valid Unicode: mend its source") from None

    def parts(self, blocks: Iterable[str], size: int = PART_CHARS) -> Iterator[str]:
        """Cut the text made of `blocks` into parts of about `size` characters with the same ids as the whole.

        The cut is at a single space between two words, where no token of a BPE spans both sides. A text without
        one near the cut (`size / 2` back) is cut hard, which changes a token or two there.
        """
        rest = ""
        for block in blocks:
            rest += block
            start = 0
            while len(rest) - start > size:
                cut = start + size
                space = rest.rfind(" ", start + size // 2, cut)
                while space > 0 and (rest[space - 1].isspace() or rest[space + 1].isspace()):
                    space = rest.rfind(" ", start + size // 2, space)
                if space > 0 and self._joint is not None:
                    yield rest[start:space]
                    start = space + (self._joint == "dropped")
                else:
                    yield rest[start:cut]
                    start = cut
            rest = rest[start:]
        if rest:
            yield rest

    def _joint_rule(self) -> str | None:
        """How to cut at a space: keep it, or drop it because encoding prepends one (SentencePiece), or neither."""
        whole, left = self._encode_parts(["of the", "of"])
        kept, dropped = self._encode_parts([" the", "the"])
        if left + kept == whole:
            return "kept"
        return "dropped" if left + dropped == whole else None


def resolve(spec: str) -> Tokenizer | int:
    """The tokenizer that `spec` means, or the size N of a `bpe:N` that is still to be trained.

    Raises `UsageError` if `spec` is neither a known name nor a file.
    """
    kind, _, size = spec.partition(":")
    if kind == "bpe" and size:
        if not size.isdecimal() or int(size) < SMALLEST_BPE:
            raise UsageError(f"tokenizer {spec!r}: N must be a whole number of at least {SMALLEST_BPE}, as in bpe:4096")
        return int(size)
    if spec == "bytes":
        return byte_level()
    if spec == "mistral":
        return mistral()
    if Path(spec).exists():
        return Tokenizer.load(spec)
    if "/" in spec or Path(spec).suffix in (".json", ".model"):
        raise UsageError(f"tokenizer {spec!r}: no such file; give a tokenizer.json, or one of {', '.join(SPECS)}")
    raise unknown_name("tokenizer", spec, SPECS)


def train_bpe(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Train a byte-level BPE with `vocab_size` rows in all, the special tokens among them (fewer if text runs out)."""
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    return Tokenizer(backend, bos=BOS, eos=EOS, mask=None)


def byte_level() -> Tokenizer:
    """One token for each byte of UTF-8: id b is byte b; then come beginning and end of text."""
    # The `tokenizers` byte level writes byte b as one printable character: itself, or 256 + n for the n-th other one.
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    vocab = {chr(byte if byte in printable else 256 + others.index(byte)): byte for byte in range(256)}
    backend = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in (BOS, EOS)])
    return Tokenizer(backend, bos=BOS, eos=EOS, mask=None)


def mistral() -> Tokenizer:
    """Mistral v1: 32,000 pieces in the Llama layout, from the file in the PyPI package mistral-common."""
    package = importlib.util.find_spec("mistral_common")  # finds the package and does not import it
    if package is None or package.origin is None:
        raise UnmaskError("tokenizer 'mistral': mistral-common is not installed: pip install --no-deps mistral-common")
    path = Path(package.origin).parent / "data" / "tokenizer.model.v1"
    if not path.is_file():
        raise UnmaskError(f"tokenizer 'mistral': {path} is missing: pip install --force-reinstall mistral-common")
    return from_sentencepiece(path)


def from_sentencepiece(path: Path) -> Tokenizer:
    """The tokenizer of a SentencePiece BPE model with byte fallback and no text normalisation (Llama, Mistral).

    Raises `UnmaskError` for any other file.
    """
    from google.protobuf.message import DecodeError
    from transformers.convert_slow_tokenizer import import_protobuf

    proto = cast(Any, import_protobuf()).ModelProto()
    try:
        proto.ParseFromString(path.read_bytes())
    except DecodeError:
        raise UnmaskError(f"{path}: neither a tokenizer.json nor a SentencePiece model") from None
    spec, normal = proto.trainer_spec, proto.normalizer_spec
    is_bpe = spec.model_type == 2
    if not (is_bpe and spec.byte_fallback) or normal.precompiled_charsmap or normal.remove_extra_whitespaces:
        raise UnmaskError(
            f"{path}: not a plain SentencePiece BPE with byte fallback: save it as tokenizer.json with transformers"
        )
    pieces: list[str] = [piece.piece for piece in proto.pieces]
    vocab = {piece: row for row, piece in enumerate(pieces)}
    rows: tuple[int, int, int] = (spec.unk_id, spec.bos_id, spec.eos_id)
    unk, bos, eos = (pieces[row] if row >= 0 else None for row in rows)
    backend = tokenizers.Tokenizer(
        models.BPE(vocab=vocab, merges=_merges(proto.pieces, vocab), unk_token=unk, fuse_unk=True, byte_fallback=True)
    )
    spaces: list[normalizers.Normalizer] = [normalizers.Replace(" ", "▁")]
    if normal.add_dummy_prefix:
        spaces.insert(0, normalizers.Prepend("▁"))
    backend.normalizer = normalizers.Sequence(spaces)
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
        + ([decoders.Strip(" ", 1, 0)] if normal.add_dummy_prefix else [])
    )
    control, user_defined = 3, 4
    specials = [piece.piece for piece in proto.pieces if piece.type == control or piece.piece == unk]
    backend.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in specials])
    plain = [piece.piece for piece in proto.pieces if piece.type == user_defined]
    backend.add_tokens([AddedToken(name, special=False, normalized=False) for name in plain])
    return Tokenizer(backend, bos=bos, eos=eos, mask=_first_present(backend, MASK_NAMES))


def _merges(pieces: Any, vocab: dict[str, int]) -> list[tuple[str, str]]:
    """SentencePiece joins the pair that makes the best-scored piece; a BPE lists pairs, best first."""
    ordinary = {piece.piece: float(piece.score) for piece in pieces if piece.type == 1}
    pairs = [
        (-score, vocab[whole[:cut]], vocab[whole[cut:]], (whole[:cut], whole[cut:]))
        for whole, score in ordinary.items()
        for cut in range(1, len(whole))
        if whole[:cut] in ordinary and whole[cut:] in ordinary
    ]
    return [pair for *_, pair in sorted(pairs)]


def _configured_names(path: Path) -> dict[str, str | None]:
    """The special tokens that a `tokenizer_config.json` names, where there is one."""
    if not path.is_file():
        return {}
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UnmaskError(f"{path}: not JSON ({error})") from None
    names: dict[str, str | None] = {}
    for key in ("bos_token", "eos_token", "mask_token"):
        if isinstance(config, dict) and key in config:
            value = cast(dict[str, Any], config)[key]
            names[key] = value["content"] if isinstance(value, dict) else value
    return names


def chat_template_beside(path: Path) -> str | None:
    """The chat template that belongs to the tokenizer file `path`: a file of its own, or in its config."""
    own = path.with_name("chat_template.jinja")
    if own.is_file():
        return own.read_text(encoding="utf-8")
    beside = path.with_name("tokenizer_config.json")
    found = json.loads(beside.read_text(encoding="utf-8")).get("chat_template") if beside.is_file() else None
    if isinstance(found, list):  # several with names
        named = cast("list[dict[str, str]]", found)
        found = next((each["template"] for each in named if each.get("name") == "default"), None)
    return found if isinstance(found, str) else None


def begin_with(backend: tokenizers.Tokenizer, first: int | None) -> None:
    """Make Transformers, and whoever asks the library for special tokens, put the token `first` in front of a text.

    None: none. What does so already stays as it is.
    """
    alone = backend.encode("a", add_special_tokens=False).ids
    if backend.encode("a").ids == ([] if first is None else [first]) + alone:
        return
    if first is None:
        cast(Any, backend).post_processor = None
        return
    name = backend.id_to_token(first)
    assert name is not None
    single, pair = f"{name} $A", f"{name} $A $B"
    backend.post_processor = processors.TemplateProcessing(single=single, pair=pair, special_tokens=[(name, first)])


def _without_frame(tokenizer: Tokenizer) -> tuple[Any, int | None, int | None, int]:
    content: dict[str, Any] = json.loads(tokenizer.to_json())
    content.pop("post_processor", None)
    return content, tokenizer.bos_id, tokenizer.eos_id, tokenizer.mask_id


def _first_present(backend: tokenizers.Tokenizer, names: Iterable[str]) -> str | None:
    return next((name for name in names if backend.token_to_id(name) is not None), None)
