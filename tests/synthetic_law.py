"""Runs that follow L = E + A / N^alpha + B / D^beta, around the best size of each budget."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from unmask.scaling.points import Point

BUDGETS = tuple(np.geomspace(1e18, 1e21, 6))


@dataclass(frozen=True)
class Law:
    E: float = 1.8
    A: float = 480.0
    alpha: float = 0.35
    B: float = 2100.0
    beta: float = 0.37

    @property
    def size_exponent(self) -> float:
        return self.beta / (self.alpha + self.beta)

    @property
    def loss_exponent(self) -> float:
        return -self.alpha * self.beta / (self.alpha + self.beta)

    def best_params(self, flops: float) -> float:
        g = (self.alpha * self.A / (self.beta * self.B)) ** (1 / (self.alpha + self.beta))
        return g * (flops / 6) ** self.size_exponent

    def loss(self, params: float, tokens: float) -> float:
        return self.E + self.A / params**self.alpha + self.B / tokens**self.beta

    def points(
        self,
        objective: str = "arm",
        *,
        budgets: Sequence[float] = BUDGETS,
        sizes: int = 7,
        span: float = 6.0,
        noise: float = 0.0,
        seed: int = 0,
    ) -> list[Point]:
        """`sizes` sizes within a factor `span` of the best at each budget; noise relative to the loss."""
        rng = np.random.default_rng(seed)
        found: list[Point] = []
        for flops in budgets:
            for params in self.best_params(flops) * np.geomspace(1 / span, span, sizes):
                tokens = flops / (6 * params)
                loss = float(self.loss(params, tokens)) * math.exp(noise * rng.standard_normal())
                found.append(Point(objective, float(flops), float(params), float(tokens), loss))
        return found
