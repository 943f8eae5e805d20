r"""Files of problems: GSM8K in its own form and in that of Deng et al., and countdown.

    deng        question||rationale #### answer                              one a line (Deng et al., 2023)
    gsm8k       {"question": "...", "answer": "rationale\n#### answer"}      JSON lines (Cobbe et al., 2021)
    countdown   {"input": "15,44,79,50", "output": "44-15=29,79-29=50"}      JSON lines (Ye et al., 2024)

The fields of a JSON line tell which of the two it is. A file, and all files of a run, hold one kind.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

from unmask.data import countdown
from unmask.data.countdown import Countdown
from unmask.data.problems import ANSWER_MARK, QUESTION_END, Problem
from unmask.errors import UnmaskError, UsageError


def read(path: str | Path) -> list[Problem]:
    """The problems of a file in any of the formats.

    Raises `UsageError` for a path that is no file, and `UnmaskError`, which names the line, for a problem without `||`
    or `####`, without question or answer, for a countdown whose solution is none, and for a file without any problem. A
    rationale may be empty, as some of Deng's are.
    """
    path = Path(path)
    if not path.is_file():
        raise UsageError(f"{path}: {'not a file' if path.exists() else 'no such file'}: give a file of problems")
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise UnmaskError(f"{path}: byte {error.start}: not UTF-8: save it as UTF-8") from None
    parse = _json_line if path.suffix == ".jsonl" else _deng
    found = [parse(line, f"{path}: line {number}") for number, line in enumerate(lines, 1) if line.strip()]
    if not found:
        raise UnmaskError(f"{path}: holds no problems: give a file with some")
    return found


def check_one_kind(found: Iterable[Problem]) -> None:
    """Raise `UsageError` if some are countdown and others are not."""
    if len({isinstance(each, Countdown) for each in found}) > 1:
        raise UsageError("--task, --data and --test: some problems are countdown, others are not: give one kind")


def _deng(line: str, where: str) -> Problem:
    question, end, rest = line.partition(QUESTION_END)
    if not end:
        raise UnmaskError(f"{where}: no {QUESTION_END} between question and rationale: add it")
    return _checked(question, rest, where)


def _json_line(line: str, where: str) -> Problem:
    try:
        item = json.loads(line)
    except ValueError as error:
        raise UnmaskError(f"{where}: not JSON ({error}): mend it") from None
    fields = cast("dict[str, Any]", item) if isinstance(item, dict) else {}
    if "input" in fields:
        return countdown.parse(fields, where)
    question, answer = fields.get("question"), fields.get("answer")
    if not isinstance(question, str) or not isinstance(answer, str):
        raise UnmaskError(
            f"{where}: no texts 'question' and 'answer' (or 'input' and 'output', of countdown): give both"
        )
    return _checked(question, answer, where)


def _checked(question: str, rest: str, where: str) -> Problem:
    rationale, mark, answer = rest.rpartition(ANSWER_MARK)
    if not mark:
        raise UnmaskError(f"{where}: no {ANSWER_MARK} before the answer: add it")
    problem = Problem(question.strip(), rationale.strip(), answer.strip())
    for name in ("question", "answer"):
        if not getattr(problem, name):
            raise UnmaskError(f"{where}: an empty {name}: give one")
    return problem
