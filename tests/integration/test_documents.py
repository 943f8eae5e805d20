"""Every command and every piece of Python in the README and the guide, as they stand there, on a small text.

Only the sizes and the number of steps are lowered. `make` and `unmask demo` have tests of their own.
"""

from __future__ import annotations

import json
import random
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from synthetic_study import LAWS
from synthetic_study import points as synthetic_points
from unmask import cli
from unmask.scaling.points import write_csv

REPOSITORY = Path(__file__).parents[2]
GUIDES = ["README.md", "docs/getting-started.md"]
SUBJECTS = [
    f"docs/{name}.md" for name in ("evaluation", "fine-tuning", "generation", "interoperate", "mt-bench", "scaling")
]
SMALLER = {
    "--size 1.0M": "--size 33K",
    "--steps 2000": "--steps 4",
    "bpe:4096": "bpe:300",
    "--flops 1e12 4e12": "--flops 1e12 4e12 --allow-repeats --no-measure",  # the text is too small for these budgets
}
ELSEWHERE = ("make ", ". .venv/", "unmask demo", "pip ")
NOT_HERE = (
    "unmask convert smdm mdm-170M",
    "unmask train adapt --from smollm2",
    "unmask export runs/arm",
    "unmask eval",
    "unmask compare",
    "unmask train sft",
    "unmask sample runs/chat",
    "unmask gsm8k",
    "unmask reversal",
)
"""Commands on models or data that the guide does not make: here it is tested only that they are understood."""
WORDS = "it was a dark and stormy night and the rain fell in torrents on the roofs of the town by the sea"


def blocks(guide: str) -> list[tuple[str, str]]:
    """(language, content) of the fenced blocks, in order."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", (REPOSITORY / guide).read_text(encoding="utf-8"), re.M | re.S)


def commands(content: str) -> list[str]:
    lines = re.sub(r"\\\n\s*", "", content).splitlines()
    found = [line.split("  #")[0].strip() for line in lines]
    return [line for line in found if re.match(r"(unmask|torchrun|make|\.|pip) ", line)]


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the files that the guides speak of."""
    rng = random.Random(0)
    (tmp_path / "books").mkdir()
    for number in range(30):
        text = " ".join(rng.choices(WORDS.split(), k=400))
        (tmp_path / "books" / f"{number}.txt").write_text(text.capitalize() + ".\n")
    (tmp_path / "notes.txt").write_text(" ".join(rng.choices(WORDS.split(), k=100)))
    (tmp_path / "held-out.txt").write_text(" ".join(rng.choices(WORDS.split(), k=700)))
    write_csv(synthetic_points([1e12, 4e12, 1.6e13], laws=LAWS), tmp_path / "points.csv")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run_command(command: str) -> None:
    for there, here in SMALLER.items():
        command = command.replace(there, here)
    program, *arguments = shlex.split(command)
    if program == "unmask":
        assert cli.main(arguments) == 0, command
        return
    assert program == "torchrun"
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", *arguments]
    finished = subprocess.run(launch, capture_output=True, text=True, timeout=300, check=False)
    assert finished.returncode == 0, finished.stderr


@pytest.mark.slow
@pytest.mark.parametrize("guide", GUIDES)
def test_what_a_guide_shows_works(guide: str, library: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ran: list[str] = []
    names: dict[str, object] = {}
    for language, content in blocks(guide):
        if language == "python":
            if "logits_fn" in content:  # needs a network of the reader's own; its names are tested below
                continue
            exec(compile(content, guide, "exec"), names)
            ran.append("python")
            continue
        for command in commands(content):
            if command.startswith(ELSEWHERE + NOT_HERE):
                continue
            if command.startswith("torchrun"):
                command = command.replace("runs/mdm", "runs/two")  # beside the run of that name, which has ended
            ran.append(command.split()[1])
            run_command(command)
    out = capsys.readouterr().out
    assert {"prepare", "train", "sample", "score", "perplexity", "python"} <= set(ran)
    assert "upper bound: the true value is no higher" in out
    assert "It was" in out
    lm = names["lm"]
    assert lm.objective == "mdm"
    for run in (library / "runs").iterdir():
        records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        assert records[-1]["kind"] == "end", run


def test_the_names_that_the_readme_shows_for_ones_own_network_work() -> None:
    import torch

    import toys
    import unmask

    model = toys.Joint(3, 2)
    namespace = {
        "unmask": unmask,
        "logits_fn": model,
        "mask_id": 2,
        "tokens_L": torch.tensor([1, 0, 1]),
        "scored_L": torch.ones(3, dtype=torch.bool),
        "generator": torch.Generator().manual_seed(0),
    }
    (shown,) = [content for language, content in blocks("README.md") if language == "python" and "logits_fn" in content]
    results = [eval(line, namespace) for line in re.sub(r"\n(?=[ )])", "", shown).splitlines()]
    assert results[0].log_likelihood < 0
    assert callable(results[1])


def test_every_command_of_the_help_is_in_a_guide() -> None:
    shown = {
        command.split()[1]
        for guide in GUIDES
        for language, content in blocks(guide)
        if not language
        for command in commands(content)
        if command.startswith("unmask ")
    }
    assert {"prepare", "train", "sample", "score", "perplexity", "scaling"} <= shown & set(cli.COMMANDS)


@pytest.mark.parametrize("guide", [*GUIDES, *SUBJECTS, "docs/index.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_the_links_of_a_guide_lead_somewhere(guide: str) -> None:
    path = REPOSITORY / guide
    links = re.findall(r"\]\(([^)#\s]+)\)|src(?:set)?=\"([^\"]+)\"", path.read_text(encoding="utf-8"))
    local = [link for pair in links for link in pair if link and not link.startswith("http")]
    for link in local:
        assert (path.parent / link).exists(), link


class Understood(BaseException):
    """Raised when the options of a command have been read, before it does anything."""


@pytest.mark.parametrize("guide", ["README.md", *SUBJECTS])
def test_the_commands_of_a_guide_are_understood(guide: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from unmask import arguments

    read = arguments.parse

    def read_only(*args: Any, **options: Any) -> None:
        read(*args, **options)
        raise Understood

    monkeypatch.setattr(arguments, "parse", read_only)
    found = [command for _, content in blocks(guide) for command in commands(content) if command.startswith("unmask")]
    assert found
    for command in found:
        with pytest.raises(Understood):
            cli.main(shlex.split(command.split(" > ")[0])[1:])
