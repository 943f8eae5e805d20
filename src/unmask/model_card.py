"""The model card of an export: what the model is, what it was trained on and for how long, and how good it is.

It says what the run directory around the model recorded, and says so where nothing was recorded.
"""

from __future__ import annotations

import dataclasses
import json
import shlex
from pathlib import Path
from typing import Any, cast

from unmask import records
from unmask.config import ModelConfig, RunConfig, field_arguments
from unmask.model_directory import Stored
from unmask.records import Record

SETTINGS = (
    *("objective", "size", "steps", "batch_size", "length", "seed", "learning_rate", "final_learning_rate"),
    *("warmup_steps", "parametrization", "base_size", "weight_decay", "beta1", "beta2", "clip", "short_share"),
    *("mask_eps", "weighting", "precision"),
)
"""Fields of a run's config that the card shows."""
OF_MASKS = ("short_share", "mask_eps", "weighting")
"""Those among them that a causal network has no use for."""
CONVENTIONS = {"6nd": "6 N D, without embeddings", "full": "attention and head counted"}


def of(stored: Stored, *, command: str | None = None, notes: list[str] | None = None) -> str:
    """The card of a model in Markdown, with the front matter that hubs read."""
    config = stored.config
    kind = "autoregressive" if config.causal else "masked diffusion"
    lines = [
        "---",
        "library_name: transformers" if config.causal else "library_name: unmask",
        f"pipeline_tag: {'text-generation' if config.causal else 'fill-mask'}",
        f"tags: [unmask, {kind.replace(' ', '-')}]",
        "---",
        "",
        f"# A{'n' if config.causal else ''} {kind} language model",
        "",
        f"{config.params:,} non-embedding parameters, objective `{stored.objective}`, made with unmask.",
        "",
        "## Network",
        "",
        *_table(_network(config)),
    ]
    run = stored.directory.parent
    recorded = records.read(run / "metrics.jsonl") if (run / "metrics.jsonl").is_file() else []
    settings = _settings(run / "config.json") if recorded else {}
    lines += ["", "## Training", "", *_training(recorded, settings, config, stored.converted_from)]
    lines += ["", "## Quality", "", *_quality(recorded)]
    commands = [each for each in (_train_command(settings, run.name), command) if each is not None]
    if commands:
        lines += ["", "## Made by", "", "```", *commands, "```"]
    if notes:
        lines += ["", "## Notes", "", *(f"- {note}" for note in notes)]
    return "\n".join(lines) + "\n"


def _network(config: ModelConfig) -> dict[str, Any]:
    heads = f"{config.n_head} of width {config.head_dim}"
    if config.n_kv_head != config.n_head:
        heads += f", {config.n_kv_head} for keys and values"
    rotary = f"base {config.rope_theta:g}"
    rotary += ", tables rounded to bfloat16" if config.rope_precision == "bfloat16" else ""
    return {
        "layers": config.n_layer,
        "width": config.n_embd,
        "SwiGLU width": config.intermediate_size,
        "heads": heads,
        "vocabulary": f"{config.vocab_size:,}",
        "mask token": "none" if config.mask_id is None else config.mask_id,
        "context": f"{config.context_length:,} tokens",
        "rotary positions": rotary,
    }


def _training(
    recorded: list[Record], settings: dict[str, Any], config: ModelConfig, converted_from: str | None
) -> list[str]:
    start = next((record for record in recorded if record.get("kind") == "start"), None)
    if start is None:
        if converted_from is not None:
            return [f"Not trained here: converted from a checkpoint in the format `{converted_from}`."]
        return ["Not recorded: the model was found without its run directory."]
    end = next((record for record in recorded if record.get("kind") == "end"), start)
    corpus = f"corpus {str(start.get('corpus', 'unknown'))[:12]}"
    if settings.get("data"):  # of paths the name alone: where it was is nobody's business
        corpus = f"`{Path(str(settings['data'])).name}`, {corpus}"
    convention = CONVENTIONS.get(str(end.get("flop_convention", start.get("flop_convention"))), "unknown convention")
    rows: dict[str, Any] = {
        "data": f"{corpus}, {start.get('train_tokens', 0):,} training tokens",
        "tokens seen": f"{end.get('tokens', start.get('tokens', 0)):,.0f}",
        "budget": f"{end.get('flops', start.get('flops', 0.0)):.3g} FLOPs ({convention})",
        "machine": start.get("machine", "unknown"),
    }
    if settings.get("init_from"):
        rows["started from"] = Path(str(settings["init_from"])).name
    shown = [name for name in SETTINGS if not (config.causal and name in OF_MASKS)]
    rows |= {name: settings[name] for name in shown if settings.get(name) not in (None, "")}
    return _table(rows)


def _train_command(settings: dict[str, Any], name: str) -> str | None:
    """What trained the run `name` from nothing, as far as its recipe is known to be the plain one."""
    if not settings.get("data") or settings.get("init_from"):
        return None
    plain = dataclasses.asdict(RunConfig())
    given = {key: value for key, value in settings.items() if key in plain and value != plain[key]}
    given["data"] = Path(str(settings["data"])).name
    if any(isinstance(value, dict | list | tuple) for value in given.values()):
        return None
    return shlex.join(["unmask", "train", "pretrain", *field_arguments(given), "--out", name])


def _settings(path: Path) -> dict[str, Any]:
    try:
        fields: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return cast("dict[str, Any]", fields) if isinstance(fields, dict) else {}


def _quality(recorded: list[Record]) -> list[str]:
    valid = [record for record in recorded if record.get("kind") == "valid"]
    if not valid:
        return ["Not measured."]
    last = valid[-1]
    error = last.get("standard_error")
    known = "" if error is None else f" ± {error:.4f}"
    what = "an upper bound on the negative log-likelihood" if last.get("bound") else "the exact negative log-likelihood"
    return [
        f"{last['loss']:.4f}{known} nats per token on the split `{last.get('split', 'valid')}` "
        f"({last['bits_per_byte']:.4f} bits per byte{_windows(last)}), {what}."
    ]


def _windows(record: Record) -> str:
    return f", {record['windows']:,} windows" if record.get("windows") else ""


def _table(rows: dict[str, Any]) -> list[str]:
    return ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())]
