"""`unmask mtbench answers`: a model's answers to MT-Bench's questions, in FastChat's format."""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from unmask.commands.sampling_options import SamplingOptions
from unmask.errors import UsageError
from unmask.wording import counted

if TYPE_CHECKING:
    from unmask.evals.mtbench.answers import Origin
    from unmask.language_model import LanguageModel


@dataclass(frozen=True)
class Answers:
    """Answer the questions of MT-Bench with a model. Run again, it goes on with those that have no answer yet.

    Each setting of a model is a file of answers of its own: OUT/model_answer/MODEL_ID.jsonl, as FastChat reads it.
    """

    model: Annotated[Path, tyro.conf.Positional]
    """Model directory, or directory of a training run: one that was fine-tuned on conversations."""
    questions: Path
    """FastChat's question.jsonl (in its repository under fastchat/llm_judge/data/mt_bench)."""
    out: Path
    """Folder of the comparison, the same for all models and settings."""
    model_id: str | None = None
    """What the answers go by. None: made from the model's name and the settings."""
    turns: Literal["first", "all"] = "all"
    """Whether the questions' second turns are asked too."""
    max_new_tokens: int = 1024
    """Tokens of an answer; fewer where the context has no room for so many."""
    temperature: float | None = None
    """0 takes the likeliest token. None: FastChat's by category (0.7 for writing and roleplay, 0.1 for stem and
    humanities, else 0)."""
    template: str = ""
    """Chat template: vicuna, or a Jinja file. None: the model's own."""
    sampling: tyro.conf.OmitArgPrefixes[SamplingOptions] = field(default_factory=SamplingOptions)
    """How tokens are drawn."""
    batch_size: int = 1
    """Conversations that are held at a time; the seconds of an answer are its share of the batch's."""
    question_ids: tuple[int, ...] = ()
    """Answer these questions only."""
    categories: tuple[str, ...] = ()
    """Answer questions of these categories only."""
    limit: int = 0
    """Questions of each category; 0: all."""
    seed: int = 0
    """The same seed gives the same answers."""
    device: str = "auto"
    """Where to run: auto, cpu, cuda."""
    json: bool = False
    """Print one JSON object instead of a sentence."""


def run(options: Answers) -> None:
    """Answer what has no answer yet, and print what that took."""
    from rich.console import Console

    from unmask.commands.progress import progress
    from unmask.evals.journal import Journal
    from unmask.evals.mtbench import answering, answers
    from unmask.evals.mtbench import questions as asking
    from unmask.language_model import load

    questions = asking.read(options.questions)
    chosen = asking.chosen(questions, options.question_ids, options.categories, options.limit)
    settings = answering.Settings(
        max_new_tokens=options.max_new_tokens,
        turns=options.turns,
        template=options.template,
        temperature=options.temperature,
        batch_size=options.batch_size,
        seed=options.seed,
        generate=options.sampling.arguments(),
    )
    lm = load(options.model, options.device)
    answering.check_template(lm, settings, str(options.model))
    origin = _origin(options, lm, questions.digest)
    model_id = options.model_id or _model_id(origin)
    if model_id != Path(model_id).name:
        raise UsageError(f"--model-id {model_id}: becomes the name of a file: leave out slashes")
    path = options.out / answers.FOLDER / f"{model_id}.jsonl"
    before = answers.read(path, questions) if path.is_file() and path.stat().st_size else {}
    answers.check_same_origin(before, origin, path)
    missing = [question for question in chosen if question.id not in before]
    with progress(Console(stderr=True)) as bar, Journal(path) as journal:
        task = bar.add_task(model_id, total=answering.turns_of(missing, settings))
        for question, turns in answering.answer(lm, missing, settings, lambda count: bar.advance(task, count)):
            temperature = settings.temperature_of(question)
            journal.write(answers.to_record(question, model_id, turns, origin, temperature))
    answers.sort(path)
    summary = _summary(path, model_id, options, answers.read(path, questions), len(before))
    print(json.dumps(summary, ensure_ascii=False) if options.json else _told(summary))


def _origin(options: Answers, lm: LanguageModel, questions: str) -> Origin:
    from unmask import machine, model_directory
    from unmask.evals.mtbench.answers import Origin

    plain = dataclasses.asdict(SamplingOptions())
    given = {name: value for name, value in dataclasses.asdict(options.sampling).items() if value != plain[name]}
    if "suppress" in given:
        given["suppress"] = list(options.sampling.suppress)  # as JSON has it
    common = ("max_new_tokens", "turns", "template", "temperature", "batch_size", "seed")
    settings: dict[str, Any] = {name: getattr(options, name) for name in common} | given
    return Origin(
        questions=questions,
        model=model_directory.short_name(options.model),
        kind="arm" if lm.config.causal else "mdm",
        params=lm.config.params,
        weights=model_directory.read(options.model).digest()[:16],
        label=_label(lm, options, given),
        device=lm.device.type,
        machine=machine.describe(),
        settings=settings,
    )


def _label(lm: LanguageModel, options: Answers, given: dict[str, Any]) -> str:
    """The settings in words: the sampler and its steps, and what else is not as by default."""
    name = options.sampling.sampler or ("block" if lm.config.block_length else "confidence")
    words = [] if lm.config.causal else [name]
    words += [f"{options.sampling.steps} steps"] if options.sampling.steps else []
    words += [f"w={options.sampling.guidance:g}"] if options.sampling.guidance else []
    words += [f"T={options.temperature:g}"] if options.temperature is not None else []
    others = [f"{option.replace('_', ' ')} {value}" for option, value in given.items() if option not in NAMED]
    return ", ".join(words + others)


NAMED = ("sampler", "steps", "guidance")


def _model_id(origin: Origin) -> str:
    slug = re.sub(r"[^\w.=]+", "-", origin.label).strip("-")
    return f"{origin.model}-{slug}" if slug else origin.model


def _summary(path: Path, model_id: str, options: Answers, found: dict[int, Any], before: int) -> dict[str, Any]:
    turns = [turn for answer in found.values() for turn in answer.turns]
    return {
        "file": str(path),
        "model_id": model_id,
        "answers": len(found),
        "new": len(found) - before,
        "turns": len(turns),
        "empty": sum(not turn.text for turn in turns),
        "full": sum(turn.new_tokens == turn.room > 0 for turn in turns),
        "less_room": sum(turn.room < options.max_new_tokens for turn in turns),
        "seconds": sum(turn.seconds for turn in turns),
        "network_calls": sum(turn.network_calls for turn in turns),
        "new_tokens": sum(turn.new_tokens for turn in turns),
    }


def _told(summary: dict[str, Any]) -> str:
    from unmask.scaling import numbers

    turns = summary["turns"]
    words = [
        f"{summary['model_id']}: {counted(summary['answers'], 'question')} answered in {counted(turns, 'turn')} "
        f"({summary['new']} new)",
        f"{summary['new_tokens'] / turns:.0f} tokens, {summary['network_calls'] / turns:.0f} network calls and "
        f"{numbers.three_figures(summary['seconds'] / turns)} s a turn",
    ]
    words += [f"{summary['full']} without an end"] if summary["full"] else []
    words += [f"{summary['empty']} empty"] if summary["empty"] else []
    words += [f"{summary['less_room']} with less room in the context"] if summary["less_room"] else []
    return f"{'; '.join(words)}\n[{summary['file']}]"
