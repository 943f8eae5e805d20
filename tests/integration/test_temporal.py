"""`unmask temporal` from dated files to the page, twice, and with one more seed."""

from __future__ import annotations

import csv
import json
import random
import re
from pathlib import Path

import pytest

from unmask import cli
from unmask.records import read

WORDS = {
    1850: "the carriage and the letter of the lady came to the house by night",
    1920: "a motor car and telephone rang in the office where she worked",
}
SMALL = [
    *("--until=1879", "--since=1906", "--size=5K", "--flops=3e7", "--batch-size=4", "--length=16", "--windows=24"),
    *("--tokenizer=bpe:300", "--valid-fraction=0.4", "--draws=2", "--workers=1"),
]


def write_texts(folder: Path) -> None:
    folder.mkdir()
    for number in range(10):
        for first, words in WORDS.items():
            chosen = random.Random(f"{first} {number}")
            text = " ".join(chosen.choice(words.split()) for _ in range(300))
            (folder / f"Somebody_{first + number}.txt").write_text(text)
    (folder / "Between_1890.txt").write_text("left out")


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("temporal")
    write_texts(place / "books")
    assert cli.main(["temporal", str(place / "books"), f"--out={place / 'out'}", *SMALL]) == 0
    return place / "out"


def test_models_of_one_size_get_equal_compute_and_16_times_of_it(out: Path) -> None:
    ends = {place.parent.name: read(place)[-1] for place in out.glob("runs/*/metrics.jsonl")}
    assert set(ends) == {"arm-1x-seed0", "mdm-1x-seed0", "mdm-16x-seed0"}
    assert len({end["params"] for end in ends.values()}) == 1
    assert ends["arm-1x-seed0"]["tokens"] == ends["mdm-1x-seed0"]["tokens"]
    step = 4 * 16
    once, more = ends["arm-1x-seed0"]["tokens"], ends["mdm-16x-seed0"]["tokens"]
    assert 16 * once <= more < 16 * (once + step)  # budgets are spent up to one step


def test_the_result_has_both_periods_with_errors_and_later_text_is_harder(out: Path) -> None:
    result = json.loads((out / "temporal.json").read_text())
    texts = result["texts"]
    assert (texts["early"], texts["late"], texts["left_out"]) == ([1850, 1859], [1920, 1929], 1)
    held_out = texts["splits"]["valid"]["documents"]
    assert 0 < held_out < 10
    assert result["periods"]["in-period"]["documents"] <= held_out
    assert [(model["name"], model["bound"]) for model in result["models"]] == [
        ("arm-1x", False),
        ("mdm-1x", True),
        ("mdm-16x", True),
    ]
    best = result["models"][-1]
    assert best["degradation"]["ci95"][0] > 0  # its words of later text were never seen
    assert best["loss"]["in-period"]["value"] < result["models"][1]["loss"]["in-period"]["value"]
    assert [(each["model"], each["baseline"]) for each in result["comparisons"]] == [
        ("mdm-1x", "arm-1x"),
        ("mdm-16x", "arm-1x"),
    ]


def test_tables_hold_every_figure_and_all_windows(out: Path) -> None:
    result = json.loads((out / "temporal.json").read_text())
    rows = list(csv.DictReader((out / "temporal.csv").read_text().splitlines()))
    assert [row["name"] for row in rows] == [model["name"] for model in result["models"]]
    assert float(rows[2]["degradation"]) == result["models"][2]["degradation"]["value"]
    windows = list(csv.DictReader((out / "windows.csv").read_text().splitlines()))
    assert len(windows) == sum(period["windows"] for period in result["periods"].values())
    mean = sum(float(row["arm-1x-seed0"]) for row in windows if row["period"] == "shifted")
    mean /= result["periods"]["shifted"]["windows"]
    assert mean == pytest.approx(result["models"][0]["loss"]["shifted"]["value"], abs=1e-3)


def test_the_page_opens_from_disk_and_says_that_the_mdm_is_a_bound(out: Path) -> None:
    page = (out / "index.html").read_text(encoding="utf-8")
    for target in re.findall(r'(?:src|srcset|href)="([^"]+)"', page):
        assert (out / target).is_file(), target
    assert "An MDM&#x27;s figures are bounds" in page
    assert "another seed of the training would change is not known" in page
    assert str(out) not in page


def test_run_again_it_trains_nothing_twice_and_a_further_seed_alone(
    out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    books = str(out.parent / "books")
    stamps = {path: path.stat().st_mtime_ns for path in out.glob("runs/*/metrics.jsonl")}
    losses = {path: path.stat().st_mtime_ns for path in out.glob("losses/*.json")}
    before = json.loads((out / "temporal.json").read_text())
    arguments = ["temporal", books, f"--out={out}", *SMALL, "--json"]
    assert cli.main([*arguments, "--seeds", "0", "1"]) == 0
    two = json.loads(capsys.readouterr().out)
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in [*stamps.items(), *losses.items()])
    assert two["settings"]["seeds"] == [0, 1]
    assert len(list(out.glob("runs/*/metrics.jsonl"))) == 6
    first = before["models"][0]["by_seed"][0]
    assert two["models"][0]["by_seed"][0] == first
    assert two["models"][0]["by_seed"][1] != first
    assert cli.main(arguments) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["models"] == before["models"]
    # another window is another measurement, of the same models
    assert cli.main([*arguments, "--windows=8"]) == 0
    assert json.loads(capsys.readouterr().out)["periods"]["shifted"]["windows"] == 8
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items())
    assert cli.main([*arguments, "--flops=4e7"]) == 2
    assert "was planned otherwise: give another directory" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--models", "mdn:1"], "unknown objective 'mdn': did you mean 'mdm'"),
        (["--models", "mdm:0"], "--models mdm:0: its compute must be a number above 0, as in mdm:16"),
        (["--windows=0"], "--windows 0: must be at least 1"),
        (["--flops=1"], "is less than one step"),
        (["--size=57K"], "unknown size '57K': did you mean '5"),
        (["--seeds", "1", "1"], "--seeds 1 1: give different numbers"),
        (["--until=1800"], "--until 1800: no text up to then"),
        (["--valid-fraction=0"], "--valid-fraction 0.0: holds none of 10 documents out: raise it"),
    ],
)
def test_what_is_wrong_is_one_line(
    arguments: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_texts(tmp_path / "books")
    assert cli.main(["temporal", str(tmp_path / "books"), f"--out={tmp_path / 'out'}", *SMALL, *arguments]) == 2
    assert told in capsys.readouterr().err


def test_a_folder_needs_its_years(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_texts(tmp_path / "books")
    assert cli.main(["temporal", str(tmp_path / "books"), f"--out={tmp_path / 'out'}"]) == 2
    assert "--until: name the last year to train on" in capsys.readouterr().err
