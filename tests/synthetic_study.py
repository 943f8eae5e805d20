"""Studies with known laws: loss = floor(C) + curvature * log(N / N*(C))^2 + noise."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from unmask.scaling.plan import Plan, PlannedRun, grid
from unmask.scaling.points import Point


@dataclass(frozen=True)
class Law:
    loss_coefficient: float
    loss_exponent: float
    params_coefficient: float
    params_exponent: float
    curvature: float = 0.08

    def best_params(self, flops: float) -> float:
        return self.params_coefficient * flops**self.params_exponent

    def floor(self, flops: float) -> float:
        return self.loss_coefficient * flops**self.loss_exponent

    def loss(self, flops: float, params: float) -> float:
        return self.floor(flops) + self.curvature * float(np.log(params / self.best_params(flops))) ** 2


# exponents near the paper's; coefficients that suit budgets of 1e12 to 1e14 FLOPs
LAWS = {
    "mdm": Law(5.6 * 1e12**0.0625, -0.0625, 1.5e5 / 1e12**0.629, 0.629),
    "arm": Law(5.0 * 1e12**0.0642, -0.0642, 3.0e5 / 1e12**0.642, 0.642),
}


def points(
    budgets: Sequence[float],
    *,
    sizes: int = 7,
    noise: float = 0.0,
    seed: int = 0,
    repeats: int = 1,
    span: float = 4.0,
    laws: dict[str, Law] = LAWS,
) -> list[Point]:
    """`sizes` sizes within a factor `span` of the best one at each budget; gaussian noise on the loss."""
    rng = np.random.default_rng(seed)
    found: list[Point] = []
    for objective, law in laws.items():
        for flops in budgets:
            for params in law.best_params(flops) * np.geomspace(1 / span, span * 1.2, sizes):
                for _ in range(repeats):
                    loss = law.loss(flops, params) + noise * rng.standard_normal()
                    found.append(Point(objective, flops, float(params), flops / (6 * float(params)), loss))
    return found


SIZES = {
    2e12: ("33K", "131K", "307K", "804K"),
    8e12: ("131K", "307K", "804K", "1.7M"),
    3.2e13: ("307K", "804K", "1.7M", "3.5M"),
}


def plan(**fields: str) -> Plan:
    """The plan of a study as small as the demo's."""
    runs = grid(list(SIZES), SIZES, ("mdm", "arm"), batch_size=16, length=128)
    return Plan(runs, **fields)


def write_run(place: Path, run: PlannedRun, *, seed: int = 0, noise: float = 0.004, penalty: float = 0.0) -> None:
    """What a trainer leaves in a run directory, with the loss from the known laws and a `penalty` on top."""
    place.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng([seed, *run.name.encode()])
    loss = LAWS[run.objective].loss(run.flops, run.params) + noise * rng.standard_normal() + penalty
    seconds = run.flops / 4e10
    config = {"objective": run.objective, "size": run.size, "steps": run.steps, "seed": run.seed}
    config |= {"batch_size": run.batch_size, "length": run.length}
    (place / "config.json").write_text(json.dumps(config))
    start = {"kind": "start", "time": "2026-01-02T03:04:05+00:00", "machine": "2 CPU cores (x86_64), 16 GiB, no GPU"}
    start |= {"versions": {"unmask": "0.1.0", "torch": "2.13.0"}, "seed": run.seed, "params": run.params}
    spent = {"step": run.steps, "tokens": run.tokens, "flops": 6 * run.params * run.tokens}
    measured = {"loss": loss, "standard_error": 0.011, "bits_per_byte": loss / 3.1, "bound": run.objective == "mdm"}
    end = {"kind": "end", **spent, "params": run.params, "objective": run.objective, "size": run.size}
    end |= {**measured, "seconds": seconds, "flop_convention": "6nd"}
    valid = {"kind": "valid", "split": "valid", **spent, **measured}
    (place / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in (start, valid, end)))
