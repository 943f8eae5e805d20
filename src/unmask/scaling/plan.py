"""The plan of a study: budgets x sizes x objectives x seeds, each a run with its steps and tokens; `study.json`.

Steps follow the paper's rule int(C / (6 N B T)) (Nie et al., 2025), so every run of a budget spends the same compute.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from unmask import config, sizes
from unmask.errors import UnmaskError, UsageError
from unmask.scaling.series import series_name

FORMAT = "unmask-study-1"


@dataclass(frozen=True)
class PlannedRun:
    """One run of a study."""

    name: str
    """Its directory under `runs/`."""
    objective: str
    size: str
    params: int
    """Non-embedding parameters N."""
    flops: float
    """The budget C; the run spends it up to one step."""
    steps: int
    tokens: int
    """Training tokens D: steps x batch x length."""
    batch_size: int
    length: int
    seed: int = 0
    unique_tokens: int | None = None
    """Distinct training tokens, where the plan limits them."""
    settings: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Further fields of the run's config, such as the learning rate."""

    def run_config(self, data: str) -> config.RunConfig:
        """The config that trains this run on the corpus in `data`. Raises `UsageError` for settings that are wrong."""
        return config.from_dict(
            config.RunConfig,
            {
                "data": data,
                "objective": self.objective,
                "size": self.size,
                "steps": self.steps,
                "batch_size": self.batch_size,
                "length": self.length,
                "seed": self.seed,
                **self.settings,
            },
            f"run {self.name}",
        )

    @property
    def series(self) -> str:
        """What is fitted as one: the objective, and with a fixed rate of masks also the rate."""
        return series_name(self.objective, mask_rate=self.settings.get("mask_rate"))


@dataclass(frozen=True)
class Plan:
    """All runs of a study, in the order in which they are to be made, and what a report says about it."""

    runs: tuple[PlannedRun, ...]
    title: str = "A scaling study"
    question: str = ""
    """What was asked, in a sentence or two."""
    corpus: str = ""
    """The data, in words."""
    command: str = ""
    """What makes this study again."""
    flop_convention: str = "6nd"
    recipe: str = "pretrain"
    """What `unmask scaling run` trains with."""
    data: str = ""
    """Directory of the corpus, prepared or of token files."""

    def __post_init__(self) -> None:
        names = [run.name for run in self.runs]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise UsageError(f"plan: more than one run is called {', '.join(twice)}: name each once")

    @property
    def flops(self) -> float:
        """Training FLOPs of the whole study."""
        return sum(run.flops for run in self.runs)

    @property
    def tokenizer(self) -> str:
        """Of token files, where their runs name one."""
        return next((str(run.settings["tokenizer"]) for run in self.runs if "tokenizer" in run.settings), "")

    @property
    def seeds(self) -> list[int]:
        """The seeds in use."""
        return sorted({run.seed for run in self.runs})

    def to_json(self) -> str:
        """The content of `study.json`."""
        fields = dataclasses.asdict(self)
        runs = fields.pop("runs")
        return json.dumps({"format": FORMAT, **fields, "seeds": self.seeds, "runs": runs}, indent=2) + "\n"

    def write(self, directory: Path) -> None:
        """Write `study.json` into `directory`, which is made if need be.

        A study that is there already is extended or replaced, so long as runs of the same name are the same; else
        `UsageError`, and nothing is written.
        """
        path = directory / "study.json"
        if path.exists():
            before = {run.name: run for run in Plan.read(directory).runs}
            for run in self.runs:
                if run != before.get(run.name, run):
                    raise UsageError(
                        f"{path}: run {run.name} was planned otherwise: give another directory, or remove this one"
                    )
        directory.mkdir(parents=True, exist_ok=True)
        draft = path.with_suffix(".json.part")
        draft.write_text(self.to_json(), encoding="utf-8")
        draft.replace(path)

    @classmethod
    def read(cls, directory: Path) -> Plan:
        """The plan in a study directory. Raises `UnmaskError` if there is none that this version can read."""
        path = directory / "study.json"
        try:
            fields = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise UsageError(f"{path}: cannot be read ({error.strerror}): name the directory of a study") from error
        except ValueError as error:
            raise UnmaskError(f"{path}: is not JSON ({error}): restore it, or plan the study again") from error
        found = cast(dict[str, Any], fields).get("format") if isinstance(fields, dict) else None
        if found != FORMAT:
            raise UnmaskError(f"{path}: format {found!r} is not {FORMAT!r}: use the version of unmask that wrote it")
        fields = {
            name: value for name, value in cast(dict[str, Any], fields).items() if name not in ("format", "seeds")
        }
        runs = [config.from_dict(PlannedRun, run, str(path)) for run in fields.pop("runs", [])]
        return config.from_dict(cls, {**fields, "runs": tuple(runs)}, str(path))


def planned_run(
    name: str,
    objective: str,
    size: str,
    flops: float,
    *,
    batch_size: int,
    length: int,
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
) -> PlannedRun:
    """A run that spends `flops` by the stepping rule. Raises `UsageError` for an unknown size, and below one step."""
    params = sizes.lookup(size).params
    steps = sizes.training_steps(flops, params, batch_size, length)
    return PlannedRun(
        name=name,
        objective=objective,
        size=size,
        params=params,
        flops=flops,
        steps=steps,
        tokens=steps * batch_size * length,
        batch_size=batch_size,
        length=length,
        seed=seed,
        settings=dict(settings or {}),
    )


def grid(
    budgets: Iterable[float],
    size_names: Sequence[str] | Mapping[float, Sequence[str]],
    objectives: Sequence[str],
    *,
    batch_size: int,
    length: int,
    seeds: Sequence[int] = (0,),
    settings: Mapping[str, Any] | None = None,
) -> tuple[PlannedRun, ...]:
    """The runs of budgets x sizes x objectives x seeds, the cheapest budget first.

    `size_names` are for every budget, or a mapping from each budget to its own. Objectives alternate within a size, so
    that a study cut short still compares them. Raises `UsageError` for an unknown size, or a budget below one step.
    """
    runs: list[PlannedRun] = []
    for flops in sorted(budgets):
        for size in size_names[flops] if isinstance(size_names, Mapping) else size_names:
            for objective in objectives:
                for seed in seeds:
                    suffix = f"-seed{seed}" if len(seeds) > 1 else ""
                    name = f"{objective}-{flops:.3g}-{size}{suffix}".replace("+", "")
                    runs.append(
                        planned_run(
                            name,
                            objective,
                            size,
                            flops,
                            batch_size=batch_size,
                            length=length,
                            seed=seed,
                            settings=settings,
                        )
                    )
    return tuple(runs)
