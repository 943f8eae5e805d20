"""A model on disk, in Hugging Face layout: `config.json`, `model.safetensors`, `tokenizer.json`.

Reading checks that the three belong together before anything is built; writing replaces each file in one step, the
weights first, so that a directory never holds a mixture that looks whole. A model that came without a tokenizer says
so in its `config.json`; one that is put into its directory later is taken.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from unmask import llama_names, weight_files
from unmask.config import ModelConfig, from_dict
from unmask.data.no_tokenizer import NoTokenizer
from unmask.data.tokenizer import Tokenizer
from unmask.errors import UnmaskError, UsageError
from unmask.weight_files import Entry

CONFIG, WEIGHTS = "config.json", "model.safetensors"
MODEL_TYPE = "unmask"
OTHER_FIELDS = {
    *("model_type", "objective", "tokenizer", "converted_from"),
    *("architectures", "auto_map", "dtype", "torch_dtype", "transformers_version", "_name_or_path"),
    *("bos_token_id", "eos_token_id", "pad_token_id", "tie_word_embeddings", "use_cache", "return_dict"),
    *("output_hidden_states", "output_attentions", "chunk_size_feed_forward", "is_encoder_decoder"),
    *("id2label", "label2id", "problem_type"),
}
"""Fields of `config.json` beside those of the `ModelConfig`, ours and those that Transformers writes."""


@dataclass(frozen=True)
class Stored:
    """What a model directory holds."""

    directory: Path
    config: ModelConfig
    objective: str
    tokenizer: Tokenizer
    weights: dict[str, Tensor]
    """Under the names that Llama has in Transformers, see `unmask.llama_names`."""
    converted_from: str | None = None
    """The format of the checkpoint that it was converted from."""

    def digest(self) -> str:
        """What tells these weights from others, in whatever files they are."""
        return digest(self.weights)


def digest(weights: Mapping[str, Tensor]) -> str:
    """The SHA-256 of the names and numbers of tensors, whatever their order and device."""
    hashed = hashlib.sha256()
    for name in sorted(weights):
        hashed.update(name.encode())
        hashed.update(weights[name].detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return hashed.hexdigest()


def save(
    directory: str | Path, weights: Mapping[str, Tensor], *, config: ModelConfig, tokenizer: Tokenizer, objective: str
) -> None:
    """Write a model directory. `weights` are the `state_dict` of the network, whole and on any device."""
    llama = llama_names.to_llama(weights, config)
    entries = {name: Entry(tuple(tensor.shape), tensor.dtype) for name, tensor in llama.items()}
    write(directory, entries, llama.items(), config=config, tokenizer=tokenizer, objective=objective)


def write(
    directory: str | Path,
    entries: Mapping[str, Entry],
    tensors: Iterable[tuple[str, Tensor]],
    *,
    config: ModelConfig,
    tokenizer: Tokenizer,
    objective: str,
    converted_from: str | None = None,
    on_tensor: Callable[[str], None] | None = None,
) -> None:
    """Write a model directory from weights under Llama's names that come one at a time; see `weight_files.write`."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    fields: dict[str, Any] = {"model_type": MODEL_TYPE, "objective": objective, **dataclasses.asdict(config)}
    if converted_from is not None:
        fields["converted_from"] = converted_from
    if isinstance(tokenizer, NoTokenizer):
        fields["tokenizer"] = None
    else:  # for Transformers
        fields |= {"bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.eos_id}
    weight_files.write(directory / WEIGHTS, entries, tensors, on_tensor)
    tokenizer.save(directory, causal=config.causal)
    partial = directory / (CONFIG + weight_files.PARTIAL)
    partial.write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")
    _replace(partial, directory / CONFIG)


def read(path: str | Path) -> Stored:
    """Read the model directory `path`, or the one in the run directory `path`.

    Raises `UsageError` if there is none, and `UnmaskError` if a file is missing, damaged, or does not fit the others.
    """
    directory = find(Path(path))
    config, objective, others = _read_config(directory / CONFIG)
    has_tokenizer = others.get("tokenizer", True) is not None
    if has_tokenizer or any((directory / name).is_file() for name in ("tokenizer.json", "tokenizer.model")):
        tokenizer = Tokenizer.load(directory)
    else:
        mask_id = config.vocab_size if config.mask_id is None else config.mask_id
        tokenizer = NoTokenizer(config.vocab_size - config.padded_rows, mask_id, str(directory))
    check_vocabulary(config, tokenizer, str(directory))
    weights = _read_weights(directory)
    return Stored(directory, config, objective, tokenizer, weights, others.get("converted_from"))


def read_config(directory: Path) -> ModelConfig:
    """The network of the model directory `directory`. Raises `UnmaskError` if its configuration is damaged."""
    config, _, _ = _read_config(directory / CONFIG)
    return config


def is_model(directory: Path) -> bool:
    """Whether `directory` is a model directory of ours."""
    return _model_type(directory / CONFIG) == MODEL_TYPE


def find(path: Path) -> Path:
    """The model directory that `path` is or, as a run directory, contains."""
    if not path.is_dir():
        raise UsageError(
            f"{path}: {'not a directory' if path.exists() else 'no such directory'}: give a model directory"
        )
    for directory in (path / "model", path):
        if is_model(directory):
            return directory
    if (path / "metrics.jsonl").exists():
        raise UsageError(f"{path}: this run has no model yet: finish it with unmask train --resume")
    found = _model_type(path / CONFIG)
    if found is not None:
        raise UsageError(f"{path}: holds a {found!r} model, not one of unmask: convert it with unmask convert")
    raise UsageError(f"{path}: not a model directory: no {CONFIG} of a model in it")


def short_name(path: str | Path) -> str:
    """What to call the model in `path`: by its folder, or by the run that it is in."""
    path = Path(path).resolve()
    return path.parent.name if path.name == "model" else path.name


def check_vocabulary(config: ModelConfig, tokenizer: Tokenizer, where: str) -> None:
    """Raise `UnmaskError` if network and tokenizer of `where` disagree on the tokens."""
    predicted, known = config.vocab_size - config.padded_rows, tokenizer_rows(config, tokenizer)
    if predicted != known:
        raise UnmaskError(
            f"{where}: the network predicts {predicted} tokens and its tokenizer has {known}: "
            "put back the tokenizer that it was trained with"
        )
    if config.mask_id is not None and config.mask_id != tokenizer.mask_id:
        raise UnmaskError(
            f"{where}: the network's mask token is {config.mask_id} and its tokenizer's {tokenizer.mask_id}: "
            "put back the tokenizer that it was trained with"
        )


def tokenizer_rows(config: ModelConfig, tokenizer: Tokenizer) -> int:
    """Ids of `tokenizer` that the network predicts or would: with a mask token inside its vocabulary, that one too."""
    inside = config.mask_id is not None and config.mask_id < config.vocab_size
    return max(tokenizer.vocab_size, tokenizer.mask_id + 1) if inside else tokenizer.vocab_size


def fitting_weights(stored: Stored) -> dict[str, Tensor]:
    """The stored weights as the `state_dict` of the network that they belong to; errors as `check_weights`."""
    check_weights(stored)
    return llama_names.from_llama(stored.weights, stored.config)


def check_weights(stored: Stored) -> None:
    """Raise `UnmaskError` for the first of the stored weights that does not fit the network."""
    where, weights = stored.directory / WEIGHTS, stored.weights
    expected = llama_names.shapes(stored.config)
    for name, shape in expected.items():
        if name not in weights:
            raise UnmaskError(f"{where}: lacks {name}, which {CONFIG} asks for: restore both files from a copy")
        if tuple(weights[name].shape) != shape:
            raise UnmaskError(
                f"{where}: {name} is {tuple(weights[name].shape)}, and {CONFIG} asks for {shape}: "
                "restore both files from a copy"
            )
    for name in weights:
        if name not in expected:
            raise UnmaskError(
                f"{where}: {name} belongs to no part of the network of {CONFIG}: restore both from a copy"
            )


def _model_type(path: Path) -> str | None:
    try:
        fields: Any = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise UnmaskError(f"{path}: not JSON ({error}): restore it from a copy") from None
    found = cast("dict[str, Any]", fields).get("model_type") if isinstance(fields, dict) else None
    return found if isinstance(found, str) else None


def _read_config(path: Path) -> tuple[ModelConfig, str, dict[str, Any]]:
    """The network's config, the objective, and all fields."""
    fields: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    objective = fields.get("objective")
    if not isinstance(objective, str):
        raise UnmaskError(f"{path}: names no objective: add the one that the model was trained with")
    shape = {name: value for name, value in fields.items() if name not in OTHER_FIELDS}
    return from_dict(ModelConfig, shape, str(path)), objective, fields


def _read_weights(directory: Path) -> dict[str, Tensor]:
    if not (directory / WEIGHTS).is_file() and not (directory / f"{WEIGHTS}.index.json").is_file():
        raise UnmaskError(f"{directory / WEIGHTS}: no such file: restore it from a copy")
    return dict(weight_files.find(directory).tensors())


def _replace(partial: Path, final: Path) -> None:
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    partial.replace(final)
