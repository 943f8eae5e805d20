from __future__ import annotations

import dataclasses
import json

import pytest

import synthetic_study as synthetic
from synthetic_law import Law
from unmask import cli
from unmask.scaling.points import write_csv
from unmask.scaling.study import run_study


@pytest.fixture
def csv(tmp_path):
    path = tmp_path / "points.csv"
    write_csv(synthetic.points([1e12, 4e12, 1.6e13], sizes=5, noise=0.005), path)
    return path


def test_fit_prints_the_laws_and_writes_json(csv, tmp_path, capsys):
    out = tmp_path / "fits.json"
    assert cli.main(["scaling", "fit", str(csv), "--method", "isoflop", "--json", str(out), "--bootstrap", "100"]) == 0
    found = json.loads(out.read_text())
    assert set(found["objectives"]) == {"mdm", "arm"}
    assert found["bootstrap"] == 100
    printed = capsys.readouterr().out
    assert f"{found['objectives']['mdm']['loss_law']['exponent']:.4f}" in printed
    assert "1 degree of freedom" in printed


def test_fit_prints_json_alone_when_asked_to(csv, capsys):
    assert cli.main(["scaling", "fit", str(csv), "--json", "-", "--losses", "4.5", "5"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["loss"] for row in found["compute_gap"]["curve"]] == [4.5, 5.0]


def test_the_seed_fixes_the_intervals(csv, capsys):
    def fit(seed):
        assert cli.main(["scaling", "fit", str(csv), "--json", "-", "--seed", seed]) == 0
        return capsys.readouterr().out

    assert fit("1") == fit("1") != fit("2")


def test_fit_and_report_take_a_study(tmp_path, capsys):
    run_study(synthetic.plan(), tmp_path, lambda run, place: synthetic.write_run(place, run))
    assert cli.main(["scaling", "fit", str(tmp_path), "--json", "-"]) == 0
    fitted = json.loads(capsys.readouterr().out)
    assert cli.main(["scaling", "report", str(tmp_path)]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "report" / "index.html")
    assert json.loads((tmp_path / "fits.json").read_text()) == fitted


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["fit", "absent.csv"], "absent.csv: cannot be read"),
        (["fit", "POINTS", "--bootstrap", "-1"], "--bootstrap -1 must not be negative"),
        (["fit", "POINTS", "--losses", "-3"], "losses [-3.0] must be positive"),
        (["fit", "POINTS", "--method", "magic"], "--method: "),
        (["report", "nowhere"], "study.json: cannot be read"),
        (["guess"], "guess"),
    ],
)
def test_wrong_use_is_told_in_one_line_with_status_2(csv, arguments, told, capsys):
    assert cli.main(["scaling", *(str(csv) if each == "POINTS" else each for each in arguments)]) == 2
    complaint = capsys.readouterr().err
    assert told in complaint
    assert complaint.count("\n") == 1


def test_fit_parametric_prints_the_law_and_writes_it(tmp_path, capsys):
    path, out = tmp_path / "points.csv", tmp_path / "fits.json"
    write_csv(Law().points(noise=0.004), path)
    arguments = ["scaling", "fit", str(path), "--method", "parametric", "--json", str(out), "--bootstrap", "100"]
    assert cli.main(arguments) == 0
    law = json.loads(out.read_text())["objectives"]["arm"]
    printed = capsys.readouterr().out
    for name in ("E", "A", "alpha", "B", "beta"):
        assert f"{law[name]['value']:.4g}" in printed
    assert "off a budget that is left out" in printed


def test_fit_repeated_reads_unique_tokens_from_the_csv(tmp_path, capsys):
    points = [
        dataclasses.replace(point, tokens=point.tokens * times, flops=point.flops * times, unique_tokens=point.tokens)
        for point in Law().points(budgets=[1e18, 1e19, 1e20], sizes=4, noise=0.004)
        for times in (1, 3)
    ]
    path = tmp_path / "points.csv"
    write_csv(points, path)
    assert cli.main(["scaling", "fit", str(path), "--method", "repeated", "--bootstrap", "0"]) == 0
    printed = capsys.readouterr().out
    assert "R_D" in printed
    assert "24 runs of 1 to 3 epochs" in printed or "left out" in printed
    write_csv(Law().points(), path)
    assert cli.main(["scaling", "fit", str(path), "--method", "repeated"]) == 2
    assert "no run of arm repeats its data" in capsys.readouterr().err
