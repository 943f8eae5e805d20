"""Scaling studies: plan a grid of runs at equal compute, run it, fit how loss scales, and draw the figures.

`points` reads what was measured, `plan` and `study` make it, `isoflop` fits it, `figures` draws it. No torch here:
whoever runs a study passes the trainer in.
"""

from unmask.scaling.isoflop import fit_isoflop
from unmask.scaling.parametric import fit_parametric
from unmask.scaling.points import Point, read_csv
from unmask.scaling.repeated import fit_repeated_data

__all__ = ["Point", "fit_isoflop", "fit_parametric", "fit_repeated_data", "read_csv"]
