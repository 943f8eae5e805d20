from __future__ import annotations

import csv
import dataclasses
import json
from html.parser import HTMLParser
from pathlib import Path

import pytest

import synthetic_study as synthetic
from unmask.errors import UnmaskError, UsageError
from unmask.report import findings, write_report
from unmask.report.evaluation import Evaluation, HeldOut, Sample, SampleToken
from unmask.report.samples import SHADES, shade
from unmask.report.tables import escaped
from unmask.scaling import figures
from unmask.scaling.plan import Plan
from unmask.scaling.points import read_csv
from unmask.scaling.study import run_study

VOID = {"meta", "img", "br", "source", "link"}
NASTY = '<script>alert("x")</script> & \x07'


class Page(HTMLParser):
    """What is on a page: a well-formed tree is checked on the way."""

    def __init__(self, path: Path):
        super().__init__()
        self.stack: list[str] = []
        self.links: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.cells: list[list[str]] = []
        self.path = path
        self.feed(path.read_text(encoding="utf-8"))
        assert not self.stack

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.tags.append((tag, found))
        self.links += [value for name, value in attrs if name in ("src", "href", "srcset")]
        if tag == "tr":
            self.cells.append([])
        if tag == "td":
            self.cells[-1].append("")
        if tag not in VOID:
            self.stack.append(tag)

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag

    def handle_data(self, data):
        if "style" in self.stack:
            assert "url(" not in data
            assert "@import" not in data
            return
        self.words.append(data)
        if "td" in self.stack:
            self.cells[-1][-1] += data

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).split())

    def check_links(self) -> None:
        for link in self.links:
            assert "//" not in link, "the page must need no network"
            if link.startswith("#"):
                assert any(attrs.get("id") == link[1:] for _, attrs in self.tags)
            else:
                assert (self.path.parent / link).exists(), link


def evaluation() -> Evaluation:
    def held_out(objective, split, loss):
        return HeldOut(objective, f"{objective}-big", split, loss, 0.02, loss / 3, objective == "mdm", 65536)

    tokens = (SampleToken("The", None), SampleToken(" state", 3), SampleToken(NASTY, 0), SampleToken("\n", 1))
    return Evaluation(
        temporal=(
            held_out("mdm", "in-period", 4.6),
            held_out("mdm", "shifted", 5.06),
            held_out("arm", "in-period", 4.0),
            held_out("arm", "shifted", 4.6),
        ),
        samples=(Sample("mdm", "mdm-big", NASTY, "infilled", "confidence", 4, 7, tokens),),
        splits={"in-period": "addresses up to 1999", "shifted": "addresses since 2000"},
        seconds=41.0,
    )


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Page:
    directory = tmp_path_factory.mktemp("study")
    plan = synthetic.plan(title=f"A study of {NASTY}", question="Which?", corpus="Some text", command="unmask demo")
    run_study(plan, directory, lambda run, place: synthetic.write_run(place, run))
    evaluation().write(directory)
    found = Page(write_report(directory, bootstrap=200))
    found.check_links()
    return found


def test_the_page_is_well_formed_and_needs_nothing_from_elsewhere(page):
    assert {"script", "iframe", "link"}.isdisjoint(tag for tag, _ in page.tags)
    assert any(tag == "img" and attrs.get("alt") for tag, attrs in page.tags)


def test_the_page_has_all_its_parts(page):
    ids = {attrs["id"] for _, attrs in page.tags if "id" in attrs}
    assert ids == {"scaling", "fits", "parametric", "temporal", "samples", "limits", "runs", "again"}
    for words in ("Which?", "Some text", "unmask demo", "2 CPU cores", "2.13.0", "41 s", "upper bound", "6 N D"):
        assert words in page.text


def test_what_others_wrote_is_escaped(page):
    assert 'alert("x")' in page.text
    assert "script" not in {tag for tag, _ in page.tags}
    assert "\x07" not in page.path.read_text(encoding="utf-8")


def test_the_figures_in_words_come_from_the_fits(page):
    fits = json.loads((page.path.parents[1] / "fits.json").read_text())
    law = fits["objectives"]["mdm"]["loss_law"]
    assert f"−{-law['exponent']:.4f}" in page.text
    curve = fits["compute_gap"]["curve"]
    told = float(page.text.split("×the compute is what the MDM")[0].split()[-1])
    assert min(row["gap"] for row in curve) * 0.99 < told < max(row["gap"] for row in curve) * 1.01


def test_every_run_is_in_the_table_with_its_error_and_what_kind_of_figure_it_is(page):
    runs = [cells for cells in page.cells if len(cells) == 10]
    assert len(runs) == 24
    assert sum("bound" in cells for cells in runs) == sum("exact" in cells for cells in runs) == 12
    assert all("± 0.011" in cells[6] for cells in runs)


def test_the_runs_can_be_fitted_again_from_the_csv(page):
    assert len(read_csv(page.path.parent / "points.csv")) == 24


def test_the_temporal_table_says_how_much_worse_shifted_text_is(page):
    rows = [cells for cells in page.cells if "shifted" in cells]
    assert [(cells[0], cells[2], cells[5]) for cells in rows] == [
        ("MDM", "5.060 ± 0.020", "+10.0%"),
        ("ARM", "4.600 ± 0.020", "+15.0%"),
    ]


def test_degradation_has_the_error_of_a_ratio():
    mdm, arm = findings.degradations(evaluation())
    assert mdm.relative == pytest.approx(0.1)
    assert mdm.standard_error == pytest.approx(1.1 * ((0.02 / 4.6) ** 2 + (0.02 / 5.06) ** 2) ** 0.5)
    assert arm.relative == pytest.approx(0.15)


def test_tokens_are_shaded_by_their_step_and_given_ones_told_apart(page):
    spans = [attrs for tag, attrs in page.tags if tag == "span" and attrs.get("title", "").startswith("step")]
    assert [(attrs["class"], attrs["title"]) for attrs in spans] == [
        ("s6", "step 4 of 4"),
        ("s0", "step 1 of 4"),
        ("s2", "step 2 of 4"),
    ]
    assert sum(attrs.get("class") == "given" for tag, attrs in page.tags if tag == "span") == 2  # legend and sample


def test_shades_rise_with_the_step_and_use_the_whole_range():
    shades = [shade(step, 32) for step in range(32)]
    assert shades == sorted(shades)
    assert set(shades) == set(range(SHADES))
    assert shade(0, 1) == 0


def test_an_unfinished_study_gets_a_page_that_says_so(tmp_path):
    plan = synthetic.plan()

    def fails(run, place):
        if run.flops > 2e12:
            raise UnmaskError("loss not finite in 3 steps in a row")
        synthetic.write_run(place, run)

    run_study(dataclasses.replace(plan, runs=plan.runs[:10]), tmp_path, fails)
    plan.write(tmp_path)
    page = Page(write_report(tmp_path))
    page.check_links()
    assert "only one budget" in page.text
    assert "2 runs failed" in page.text
    assert "14 runs of 24 are not finished" in page.text
    assert sum("loss not finite" in cell for cells in page.cells for cell in cells) == 2
    assert not (tmp_path / "fits.json").exists()


def test_a_study_without_a_finished_run_is_refused(tmp_path):
    synthetic.plan().write(tmp_path)
    with pytest.raises(UsageError, match="none of its 24 runs is finished"):
        write_report(tmp_path)


def test_an_evaluation_survives_its_file_and_a_damaged_one_is_named(tmp_path):
    path = evaluation().write(tmp_path)
    assert Evaluation.read(tmp_path) == evaluation()
    for content in (
        path.read_text()[:200],
        '{"format": "other"}',
        '{"format": "unmask-evaluation-1", "samples": [{}]}',
    ):
        path.write_text(content)
        with pytest.raises(UnmaskError, match=r"evaluation\.json") as error:
            Evaluation.read(tmp_path)
        assert "\n" not in str(error.value)
    path.unlink()
    assert Evaluation.read(tmp_path) is None


def test_the_tables_are_there_as_csv_and_latex(page):
    place = page.path.parent / "tables"
    fits = json.loads((page.path.parents[1] / "fits.json").read_text())
    with (place / "minima.csv").open() as file:
        minima = list(csv.DictReader(file))
    assert len(minima) == 6
    assert float(minima[0]["params"]) == fits["objectives"]["mdm"]["minima"][0]["params"]
    with (place / "runs.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 24
    with (place / "tests.csv").open() as file:
        assert [row["law"] for row in csv.DictReader(file)] == ["params", "tokens", "loss"]
    latex = (place / "tables.tex").read_text()
    assert latex.count(r"\begin{tabular}") == latex.count(r"\end{tabular}") == 2
    assert f"{fits['objectives']['mdm']['loss_law']['exponent']:.4f}" in latex
    for line in latex.splitlines():
        if line.endswith(r"\\"):
            assert line.count("&") in (3, 6)


def test_what_latex_would_take_for_markup_is_escaped():
    assert escaped("a_b & 50% {x}") == r"a\_b \& 50\% \{x\}"


def test_the_page_says_whether_exponents_differ_and_how_to_fit_again(page):
    assert "Whether the exponents differ" in page.text
    assert any("cannot be told apart" in cell or "they differ" in cell for cells in page.cells for cell in cells)
    assert "unmask scaling fit points.csv --bootstrap 200 --seed 0" in page.text
    assert "residuals.svg" in " ".join(link or "" for link in page.links)


def test_the_page_says_when_an_mdm_was_trained_without_the_weights_of_the_bound(tmp_path):
    plan = synthetic.plan()
    runs = tuple(
        dataclasses.replace(run, settings={"weighting": "flat"}) if run.objective == "mdm" else run for run in plan.runs
    )
    for name, each in (("bound", plan), ("flat", dataclasses.replace(plan, runs=runs))):
        place = tmp_path / name
        study = run_study(each, place, lambda run, place: synthetic.write_run(place, run))
        assert any("without the weight 1/t" in words for words in findings.limits(study, None)) == (name == "flat")


def test_the_page_says_how_the_learning_rates_of_the_sizes_were_chosen(tmp_path):
    for scheme, told in (("standard", "All sizes share one learning rate"), ("completep", "follow from one by width")):
        runs = [dataclasses.replace(run, settings={"parametrization": scheme}) for run in synthetic.plan().runs]
        study = run_study(Plan(tuple(runs)), tmp_path / scheme, lambda run, place: synthetic.write_run(place, run))
        assert any(told in sentence for sentence in findings.limits(study, None))


@pytest.fixture
def unsaved(monkeypatch):
    """Figures are drawn; of their files, which take most of a report's time, only repeats.png is written."""
    save = figures.save

    def save_or_touch(figure, path):
        if path.name == "repeats.png":
            save(figure, path)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()

    monkeypatch.setattr(figures, "save", save_or_touch)


def repeating_study(directory: Path):
    """Two objectives at three budgets, and at the middle one twice more on fewer distinct tokens."""
    fresh = [dataclasses.replace(run, unique_tokens=10**9) for run in synthetic.plan().runs]
    pools = [
        dataclasses.replace(run, unique_tokens=run.tokens // epochs, name=f"{run.name}-x{epochs}")
        for run in fresh
        for epochs in (4, 16)
        if run.flops == 8e12
    ]

    def train(run, place):
        seen = run.tokens / min(run.unique_tokens, run.tokens)
        synthetic.write_run(place, run, penalty=(0.01 if run.objective == "mdm" else 0.05) * (seen - 1))

    return run_study(Plan((*fresh, *pools)), directory, train)


def test_repeated_runs_get_a_law_a_figure_and_a_table_of_what_repeats_cost(tmp_path, unsaved):
    repeating_study(tmp_path)
    page = Page(write_report(tmp_path, bootstrap=4))
    page.check_links()
    assert {"parametric", "repeats"} <= {attrs["id"] for _, attrs in page.tags if "id" in attrs}
    rows = [row for row in page.cells if len(row) == 7 and row[0] == "ARM"]
    (row,) = (row for row in rows if row[2] == "804K" and row[4].startswith("16"))
    assert float(row[6].replace("−", "-")) == pytest.approx(0.05 * 15, abs=0.02)
    for name in ("fits-parametric.json", "fits-repeated.json", "report/figures/repeats.png"):
        assert (tmp_path / name).stat().st_size
    laws = json.loads((tmp_path / "fits-repeated.json").read_text())["objectives"]
    assert laws["arm"]["R_D"]["value"] < laws["mdm"]["R_D"]["value"]
    assert json.loads((tmp_path / "fits-parametric.json").read_text())["points"] == 24


def test_repeats_without_another_amount_of_data_beside_them_get_no_law(tmp_path, unsaved):
    runs = [dataclasses.replace(run, unique_tokens=run.tokens // 2) for run in synthetic.plan().runs]
    run_study(Plan(tuple(runs)), tmp_path, lambda run, place: synthetic.write_run(place, run))
    write_report(tmp_path, bootstrap=0)
    assert not (tmp_path / "fits-repeated.json").exists()


def test_without_repeats_the_page_has_no_word_of_them(page):
    assert "repeats" not in {attrs["id"] for _, attrs in page.tags if "id" in attrs}
    assert not (page.path.parents[1] / "fits-repeated.json").exists()


def test_too_few_runs_for_a_parametric_law_are_told(tmp_path, unsaved):
    plan = synthetic.plan()
    few = [run for run in plan.runs if run.objective == "mdm" or run.flops == 2e12]
    run_study(Plan(tuple(few)), tmp_path, lambda run, place: synthetic.write_run(place, run))
    page = Page(write_report(tmp_path, bootstrap=0))
    assert "Without a law: arm has 4 runs: five parameters take at least 6" in page.text
