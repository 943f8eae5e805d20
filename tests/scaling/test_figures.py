from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import pytest

import synthetic_study as synthetic
from unmask.scaling import figures, fit_isoflop

BUDGETS = [1e12, 3e12, 1e13]


@pytest.fixture(scope="module")
def study():
    points = synthetic.points(BUDGETS, sizes=4, noise=0.01)
    return points, fit_isoflop(points, bootstrap=200)


def test_every_figure_is_written_in_every_form(study, tmp_path):
    files = figures.save_all(*study, tmp_path)
    assert set(files) == {"isoflop", "loss-compute", "residuals"}
    for variants in files.values():
        assert set(variants) == {"wide-light", "wide-dark", "narrow-light", "narrow-dark", "png"}
        for name in variants.values():
            if name.endswith(".svg"):
                assert ElementTree.parse(tmp_path / name).getroot().tag.endswith("svg")
            else:
                assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_the_same_study_gives_the_same_bytes(study, tmp_path):
    for name in ("first.svg", "second.svg"):
        figures.save(figures.isoflop_figure(*study), tmp_path / name)
    assert (tmp_path / "first.svg").read_bytes() == (tmp_path / "second.svg").read_bytes()


def test_each_panel_shows_each_run_and_the_minima_at_their_place(study):
    points, fit = study
    panels = figures.isoflop_figure(points, fit).axes
    assert [panel.get_title(loc="left") for panel in panels] == ["MDM", "ARM"]
    for panel, objective in zip(panels, fit.objectives.values(), strict=True):
        dots = [line for line in panel.lines if line.get_marker() == "o"]
        drawn = sorted((x, y) for line in dots for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True))
        assert drawn == sorted((p.params, p.loss) for p in points if p.objective == objective.objective)
        diamonds = [line for line in panel.lines if line.get_marker() == "D"]
        assert [line.get_xdata()[0] for line in diamonds] == [minimum.params for minimum in objective.minima]


def test_the_arrow_spans_the_gap_that_is_written_on_it(study):
    points, fit = study
    axes = figures.loss_compute_figure(points, fit).axes[0]
    arrow = next(each for each in axes.texts if each.arrow_patch is not None)
    (right, loss), (left, _) = arrow.xy, arrow.xyann
    gap, _ = fit.gap_at(fit.gaps[0], loss)
    assert right / left == pytest.approx(gap)
    assert any(f"{gap:.2f}×" in each.get_text() for each in axes.texts)


def test_figures_need_no_fit(tmp_path):
    figures.save_all(synthetic.points([1e12]), None, tmp_path)


def test_a_home_that_cannot_be_written_gives_no_warning(tmp_path):
    home = tmp_path / "file"
    home.write_text("")  # no directory can be made below a file, not even by root
    kept = {name: value for name, value in os.environ.items() if name not in ("MPLCONFIGDIR", "XDG_CACHE_HOME")}
    kept |= {"HOME": str(home), "TMPDIR": str(tmp_path)}
    kept.pop("XDG_CONFIG_HOME", None)
    code = "from unmask.scaling.figures import Figure; import matplotlib; print(matplotlib.get_configdir())"
    done = subprocess.run([sys.executable, "-c", code], env=kept, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(str(tmp_path))
    assert "warn" not in done.stderr.lower()
    assert "not a writable" not in done.stderr


def test_scaling_and_report_import_no_torch():
    code = (
        "import sys, unmask.scaling, unmask.scaling.study, unmask.scaling.figures, unmask.report, "
        "unmask.commands.scaling; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_series_of_one_objective_have_its_colour_lines_of_their_own_and_rows_of_panels():
    names = {"mlm": ("mlm@0.15", "mlm@0.5"), "arm": ("arm", "arm@u1000000", "span@0.15")}
    points = [
        dataclasses.replace(point, objective=name)
        for like, series in names.items()
        for name in series
        for point in synthetic.points(BUDGETS, sizes=4, laws={like: synthetic.LAWS["arm"]}, noise=0.01, seed=len(name))
    ]
    fit = fit_isoflop(points, bootstrap=50)
    panels = figures.isoflop_figure(points, fit).axes
    titles = [panel.get_title(loc="left") for panel in panels if panel.axison]
    assert titles == ["MLM 15%", "MLM 50%", "ARM", "ARM, 1M unique", "span corruption 15%"]
    assert panels[0].get_position().y0 > panels[3].get_position().y0
    axes = figures.loss_compute_figure(points, fit).axes[0]
    axes.figure.canvas.draw()
    laws = [line for line in axes.lines if len(line.get_xdata()) == 100]
    assert [line.get_color() for line in laws][:3] == ["#009e73", "#009e73", "#d55e00"]
    assert len({(line.get_color(), line.get_linestyle()) for line in laws}) == 5
