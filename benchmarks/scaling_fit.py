"""Bootstrap of the parametric law: all resamples at once (ours) against one L-BFGS for each resample (the plain loop).

500 runs, 1,000 resamples. The loop starts each resample from the full fit and has the same analytic gradients; it is
measured on a part of the resamples and scaled up. Both must end at the same objectives.

    python benchmarks/scaling_fit.py [--json benchmarks/results/scaling_fit.json]
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
from scipy import optimize

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from synthetic_law import Law
from unmask import machine
from unmask.scaling import fit_parametric
from unmask.scaling.bootstrap import in_chunks, resample_weights
from unmask.scaling.huber import LogHuber

POINTS, RESAMPLES, LOOPED = 500, 1000, 50


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    points = Law().points(budgets=list(np.geomspace(1e18, 1e22, 25)), sizes=20, noise=0.005)
    assert len(points) == POINTS
    problem = LogHuber(points)
    best, _ = problem.fit()
    weights = resample_weights(POINTS, RESAMPLES, np.random.default_rng(0))

    begun = time.perf_counter()
    parts = in_chunks(lambda chunk: problem.refine(np.repeat(best[None], len(chunk), axis=0), chunk), weights)
    ours = time.perf_counter() - begun
    objectives = np.concatenate([part.objective_R for part in parts])
    assert np.concatenate([part.converged_R for part in parts]).all()

    scale = 1 / problem.delta**2
    bounds = list(zip(problem.lower_K, problem.upper_K, strict=True))
    looped: list[float] = []
    begun = time.perf_counter()
    for row in weights[:LOOPED]:

        def objective(theta, row=row):
            value, gradient, _ = problem.evaluate(theta[None], row[None])
            return float(value[0]) * scale, gradient[0] * scale

        options_ = {"maxiter": 1000, "maxfun": 3000, "ftol": 1e-12, "gtol": 1e-8}
        found = optimize.minimize(objective, best, jac=True, method="L-BFGS-B", bounds=bounds, options=options_)
        looped.append(float(found.fun) / scale)
    loop = (time.perf_counter() - begun) * RESAMPLES / LOOPED
    worst = float(np.max(np.abs(objectives[:LOOPED] / np.array(looped) - 1)))
    assert worst < 1e-5, worst

    begun = time.perf_counter()
    fit_parametric(points, bootstrap=RESAMPLES)
    whole = time.perf_counter() - begun

    result = {
        "what": f"parametric law, {POINTS} runs, {RESAMPLES} bootstrap resamples",
        "machine": machine.describe(),
        "versions": {name: version for name, version in machine.versions().items() if name in ("numpy", "scipy")},
        "all_at_once_seconds": ours,
        "loop_seconds": loop,
        "loop_resamples_measured": LOOPED,
        "ratio": loop / ours,
        "largest_relative_difference_of_objectives": worst,
        "whole_fit_seconds": whole,
    }
    print(json.dumps(result, indent=2))
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
