"""The tokenizer of a checkpoint from elsewhere, made to fit the network: the mask token where the network has it.

A checkpoint may have no tokenizer, one without the mask token, or fewer tokens than rows in its padded matrices.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, cast

import tokenizers
from tokenizers import AddedToken

from unmask.config import ModelConfig
from unmask.data.tokenizer import BOS, MASK, Tokenizer, chat_template_beside
from unmask.errors import UnmaskError
from unmask.model_directory import tokenizer_rows

LARGEST_PADDING = 16
"""Padded rows may be up to the 16th part of the vocabulary; more of them mean that it is another one's tokenizer."""


def read(directory: Path) -> Tokenizer | None:
    """The tokenizer beside the weights in `directory`, or None.

    Its beginning-of-text token counts only if it puts that in front of a text, as some name one and never do.
    """
    if (directory / "tokenizer.json").is_file() or (directory / "tokenizer.model").is_file():
        tokenizer = Tokenizer.load(directory)
        return tokenizer if (directory / "tokenizer.json").is_file() is False else without_unused_bos(tokenizer)
    if (directory / "vocab.json").is_file() and (directory / "merges.txt").is_file():
        return without_unused_bos(_from_vocabulary_and_merges(directory))
    return None


def fitted(tokenizer: Tokenizer, config: ModelConfig, where: str) -> tuple[Tokenizer, ModelConfig]:
    """`tokenizer` with its mask token where the network has it, and `config` with the rows that no token has.

    Raises `UnmaskError` if the tokenizer has more tokens than the network, or far fewer.
    """
    if config.mask_id is not None and tokenizer.mask_id != config.mask_id:
        tokenizer = _with_mask_at(tokenizer, config.mask_id, where)
    padded = config.vocab_size - tokenizer_rows(config, tokenizer)
    if not 0 <= padded <= config.vocab_size // LARGEST_PADDING:
        raise UnmaskError(
            f"{where}: the network has {config.vocab_size} tokens and its tokenizer {config.vocab_size - padded}: "
            "give the tokenizer that it was trained with (--tokenizer)"
        )
    return tokenizer, dataclasses.replace(config, padded_rows=padded)


def without_mask(tokenizer: Tokenizer) -> tokenizers.Tokenizer:
    """The library's tokenizer, without a mask token that lies past its vocabulary."""
    content: dict[str, Any] = json.loads(tokenizer.to_json())
    if tokenizer.mask_id >= tokenizer.vocab_size:
        added = cast("list[dict[str, Any]]", content["added_tokens"])
        content["added_tokens"] = [token for token in added if token["id"] != tokenizer.mask_id]
    return tokenizers.Tokenizer.from_str(json.dumps(content))


def without_unused_bos(tokenizer: Tokenizer) -> Tokenizer:
    """`tokenizer`, whose beginning-of-text token is None unless it puts it in front of a text itself."""
    backend = tokenizers.Tokenizer.from_str(tokenizer.to_json())
    ids = backend.encode("a").ids
    if tokenizer.bos_id is None or (ids and ids[0] == tokenizer.bos_id):
        return tokenizer
    if backend.token_to_id(BOS) == tokenizer.bos_id:  # one of ours, which puts it there without saying so
        return tokenizer
    return _wrapped(backend, tokenizer, None, backend.id_to_token(tokenizer.mask_id))


def _with_mask_at(tokenizer: Tokenizer, mask_id: int, where: str) -> Tokenizer:
    backend = without_mask(tokenizer)
    rows = max(backend.get_vocab(with_added_tokens=True).values()) + 1
    if mask_id < rows and mask_id not in (tokenizer.bos_id, tokenizer.eos_id):
        return _wrapped(backend, tokenizer, tokenizer.bos_id, backend.id_to_token(mask_id))
    if not 0 <= mask_id - rows <= rows // LARGEST_PADDING:
        raise UnmaskError(
            f"{where}: the network's mask token is {mask_id} and its tokenizer has {rows} tokens: "
            "give the tokenizer that it was trained with (--tokenizer)"
        )
    unused = [f"<|unused_{row}|>" for row in range(rows, mask_id)]
    backend.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in [*unused, MASK]])
    return _wrapped(backend, tokenizer, tokenizer.bos_id, MASK)


def _wrapped(backend: tokenizers.Tokenizer, source: Tokenizer, bos_id: int | None, mask: str | None) -> Tokenizer:
    bos = None if bos_id is None else backend.id_to_token(bos_id)
    eos = None if source.eos_id is None else backend.id_to_token(source.eos_id)
    tokenizer = Tokenizer(backend, bos=bos, eos=eos, mask=mask)
    tokenizer.chat_template = source.chat_template
    return tokenizer


def _from_vocabulary_and_merges(directory: Path) -> Tokenizer:
    """Qwen's and Dream's older layout: a byte-level BPE in two files, special tokens in `tokenizer_config.json`."""
    from transformers import Qwen2Tokenizer

    try:
        loaded = cast(Any, Qwen2Tokenizer).from_pretrained(str(directory), local_files_only=True)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UnmaskError(f"{directory}: vocab.json and merges.txt are no tokenizer ({error}): mend them") from None
    backend = tokenizers.Tokenizer.from_str(loaded.backend_tokenizer.to_str())
    path = directory / "tokenizer_config.json"
    named: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    names: list[str | None] = []
    for key in ("bos_token", "eos_token", "mask_token"):
        value = named.get(key)
        name = value.get("content") if isinstance(value, dict) else value  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
        names.append(name if isinstance(name, str) and backend.token_to_id(name) is not None else None)
    tokenizer = Tokenizer(backend, bos=names[0], eos=names[1], mask=names[2])
    tokenizer.chat_template = chat_template_beside(path)
    return tokenizer
