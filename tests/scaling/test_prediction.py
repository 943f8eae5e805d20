from __future__ import annotations

import csv
import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest

import synthetic_study as synthetic
from synthetic_law import Law
from unmask import cli, sizes
from unmask.errors import UsageError
from unmask.scaling import fit_isoflop, fit_parametric, published
from unmask.scaling.json_fits import dumps
from unmask.scaling.law_rows import rows_of_fit
from unmask.scaling.law_sources import paper, read
from unmask.scaling.points import Point, write_csv
from unmask.scaling.prediction import crossover, limited, nearest_size, optimum, unlimited, with_repeats
from unmask.scaling.repeated import repeated_loss

DIGITISED = Path(__file__).parents[2] / "../shared/reference/scaling/smdm_figure2_digitised.csv"
LAW = Law()
ROW = np.array([[LAW.E, math.log(LAW.A), LAW.alpha, math.log(LAW.B), LAW.beta, math.log(15), math.log(5)]])


def test_the_built_in_law_is_that_of_the_papers_minima():
    if not DIGITISED.exists():
        pytest.skip("the minima read off the paper's figure are in ../shared, which is absent")
    with DIGITISED.open() as file:
        points = [
            Point(
                row["family"].lower(),
                flops=float(row["C_flops"]),
                params=1e6 * float(row["N_star_M_digitised"]),
                tokens=1e9 * float(row["D_star_B=C/6N"]),
                loss=float(row["L_star_nats_digitised"]),
            )
            for row in csv.DictReader(file)
        ]
    fit = fit_isoflop(points)
    for name in ("arm", "mdm"):
        for flops in (6e18, 1e21):
            built_in = optimum(name, paper().rows[name], flops)
            fitted = fit.objectives[name]
            assert built_in.params == pytest.approx(float(fitted.params_law.predict(flops)), rel=1e-3)
            assert built_in.loss == pytest.approx(float(fitted.loss_law.predict(flops)), rel=1e-4)
            low, high = (float(end[0]) for end in fitted.loss_law.band([flops]))
            assert built_in.loss_ci95 == pytest.approx((low, high), rel=0.01)


def test_an_isoflop_law_and_its_rows_agree_at_every_budget():
    fit = fit_isoflop(synthetic.points([1e12, 3e12, 1e13, 3e13], noise=0.005))
    for name, rows in rows_of_fit(fit).items():
        for flops in (1e12, 1e14):
            params, tokens, loss = unlimited(rows[:1], flops)
            fitted = fit.objectives[name]
            assert params[0] == pytest.approx(float(fitted.params_law.predict(flops)), rel=1e-6)
            assert loss[0] == pytest.approx(float(fitted.loss_law.predict(flops)), rel=1e-6)
            assert 6 * params[0] * tokens[0] == pytest.approx(flops, rel=1e-6)


def test_the_optimum_of_a_parametric_law_is_its_lowest_point():
    found = optimum("arm", ROW, 1e20)
    assert found.params == pytest.approx(LAW.best_params(1e20))
    assert found.loss == pytest.approx(LAW.loss(found.params, found.tokens))
    for factor in (0.9, 1.1):
        assert LAW.loss(found.params * factor, found.tokens / factor) > found.loss


def test_with_more_data_than_it_wants_a_limit_changes_nothing():
    free = optimum("arm", ROW, 1e20)
    held = optimum("arm", ROW, 1e20, unique_tokens=free.tokens * 1.01)
    assert (held.params, held.loss) == (free.params, free.loss)
    assert held.epochs == pytest.approx(1 / 1.01)


def test_the_optimum_under_a_limit_is_the_lowest_of_all_sizes():
    unique = 1e9
    found = optimum("arm", ROW, 1e21, unique_tokens=unique)
    params = np.geomspace(found.params / 100, found.params * 100, 4001)
    losses = repeated_loss(ROW, params, 1e21 / (6 * params), np.full_like(params, unique))[0]
    assert found.loss == pytest.approx(losses.min(), rel=1e-7)
    assert found.params == pytest.approx(params[losses.argmin()], rel=0.01)
    assert found.epochs == pytest.approx(1e21 / (6 * found.params) / unique)
    assert found.loss > optimum("arm", ROW, 1e21).loss


def test_the_objective_that_repeats_better_overtakes_where_the_losses_cross():
    worse = ROW + np.array([[0, math.log(1.1), 0, math.log(1.1), 0, 0, 0]])
    worse[0, 5:] = math.log(500), math.log(1000)
    found = crossover("mdm", "arm", worse, ROW, 1e9)
    assert found.flops is not None
    for factor, sign in ((0.5, 1), (2, -1)):
        flops = np.array([found.flops * factor])
        assert sign * (limited(worse, flops, 1e9)[2] - limited(ROW, flops, 1e9)[2]) > 0
    assert crossover("mdm", "arm", ROW, ROW - np.array([[0.1, 0, 0, 0, 0, 0, 0]]), 1e9).flops is None


def test_a_law_that_does_not_know_repeats_says_so_only_where_it_must_repeat():
    rows = rows_of_fit(fit_parametric(LAW.points(noise=0.003), bootstrap=50))["arm"]
    assert optimum("arm", rows, 1e18, unique_tokens=1e13).epochs < 1
    with pytest.raises(UsageError, match="does not say what repeated data is worth"):
        optimum("arm", rows, 1e22, unique_tokens=1e8)
    assert optimum("arm", with_repeats(rows, 15.0), 1e22, unique_tokens=1e8).epochs > 1


@pytest.mark.parametrize("name", ["33K", "804K", "170M", "1028M"])
def test_the_nearest_named_size_of_a_size_is_itself(name):
    assert nearest_size(sizes.lookup(name).params * 1.01) == name


def test_a_law_survives_its_file_with_its_resamples(tmp_path):
    points = LAW.points(noise=0.004)
    fit = fit_parametric(points, bootstrap=200)
    path = tmp_path / "fits.json"
    path.write_text(dumps(fit, points))
    laws = read(str(path))
    assert laws.convention == "6nd"
    assert laws.flops_range == (min(p.flops for p in points), max(p.flops for p in points))
    direct = rows_of_fit(fit)["arm"]
    assert laws.rows["arm"][:, :5] == pytest.approx(direct[:, :5], rel=1e-9)
    assert np.isnan(laws.rows["arm"][:, 5:]).all()
    assert max(len(line) for line in path.read_text().splitlines()) < 200


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("{", "is not JSON"),
        ("[]", "is not a file of unmask scaling fit"),
        ('{"format": "unmask-fits-1"}', "has no rows of a law"),
        ('{"format": "unmask-fits-1", "rows": {"arm": [[1, 2]]}}', "has no rows of a law"),
        ('{"format": "unmask-fits-1", "rows": {"arm": "x"}}', "has no rows of a law"),
    ],
)
def test_a_file_that_is_no_law_is_named_in_one_line(tmp_path, content, told, capsys):
    path = tmp_path / "fits.json"
    path.write_text(content)
    assert cli.main(["scaling", "predict", str(path), "--flops", "1e20"]) != 0
    complaint = capsys.readouterr().err
    assert told in complaint
    assert str(path) in complaint
    assert complaint.count("\n") == 1


def test_predict_prints_the_papers_answer(capsys):
    assert cli.main(["scaling", "predict", "--flops", "1e20", "--json", "-"]) == 0
    found = json.loads(capsys.readouterr().out)["predictions"][0]
    mdm, arm = found["objectives"]["mdm"], found["objectives"]["arm"]
    assert mdm["loss"] == pytest.approx(2.830, abs=0.01)
    assert arm["loss"] == pytest.approx(2.378, abs=0.01)
    assert mdm["params_ci95"][0] < mdm["params"] < mdm["params_ci95"][1]
    assert 14 < found["compute_gap"]["mdm"]["gap"] < 18
    assert sizes.lookup(mdm["nearest_size"]).params == mdm["nearest_params"]


def test_predict_with_a_limit_gives_epochs_and_the_crossover(capsys):
    arguments = ["scaling", "predict", "--flops", "1e22", "--unique-tokens", "1e9"]
    assert cli.main([*arguments, "--repeats", "mdm=500:1000", "arm=31:50"]) == 0
    printed = capsys.readouterr().out
    assert "On 1.00B distinct tokens the MDM beats the ARM beyond" in printed
    assert "mdm 500 epochs, excess parameters 1000" in printed
    assert "outside the budgets of the law" in printed
    assert cli.main(arguments) == 0
    printed = capsys.readouterr().out
    assert published.REPEATS_SOURCE in printed
    assert "A crossover depends on it" in printed


def test_predict_fits_a_csv_on_the_spot(tmp_path, capsys):
    path = tmp_path / "points.csv"
    write_csv(LAW.points(noise=0.003), path)
    assert cli.main(["scaling", "predict", str(path), "--flops", "1e20", "--bootstrap", "50", "--json", "-"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["predictions"][0]["objectives"]["arm"]["params"] == pytest.approx(LAW.best_params(1e20), rel=0.2)


def test_predict_names_an_objective_with_too_few_runs_and_answers_for_the_others(tmp_path, capsys):
    path = tmp_path / "points.csv"
    few = [dataclasses.replace(point, objective="mdm") for point in LAW.points()[:3]]
    write_csv([*LAW.points(), *few], path)
    assert cli.main(["scaling", "predict", str(path), "--flops", "1e20", "--bootstrap", "0"]) == 0
    printed = capsys.readouterr().out
    assert "Without a law: mdm has 3 runs: five parameters take at least 6; add runs." in printed
    assert "ARM" in printed


def test_a_loss_below_the_floor_of_a_law_is_reached_by_no_compute(tmp_path, capsys):
    path = tmp_path / "points.csv"
    write_csv([*LAW.points(), *dataclasses.replace(LAW, E=LAW.E + 2).points(objective="mdm")], path)
    assert cli.main(["scaling", "predict", str(path), "--flops", "1e22", "--bootstrap", "0"]) == 0
    assert "no compute takes the MDM to the loss of the ARM, by this law" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--flops", "-1"], "flops -1.0 must be a positive number"),
        (["--flops", "1e20", "--unique-tokens", "0"], "unique_tokens 0.0 must be a positive number"),
        (["--flops", "1e20", "--unique-tokens", "1e9", "--repeats", "mdm=x"], "--repeats mdm=x: must be an objective"),
        (["absent.json", "--flops", "1e20"], "absent.json: cannot be read"),
        ([], "--flops"),
    ],
)
def test_wrong_use_is_told_in_one_line(arguments, told, capsys):
    assert cli.main(["scaling", "predict", *arguments]) == 2
    complaint = capsys.readouterr().err
    assert told in complaint
    assert complaint.count("\n") == 1
