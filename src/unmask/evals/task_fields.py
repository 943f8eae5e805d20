"""Local data without a field that a task needs: the file, the item and the field are named.

A task's templates say which fields of its documents they use. Where the harness's own code makes documents of the rows
of a file, what it misses is looked for in the rows, once it has failed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from unmask.errors import UnmaskError

TEMPLATES = ("doc_to_text", "doc_to_target", "doc_to_choice")


def needed_fields(config: Mapping[str, Any]) -> list[str]:
    """The fields that a task's templates cannot do without."""
    from jinja2 import Environment, meta

    environment = Environment(autoescape=False)
    found: set[str] = set()
    for template in (config.get(key) for key in TEMPLATES):
        if not isinstance(template, str) or "{%" in template or " if " in template or "defined" in template:
            continue  # a template with a condition may do without
        if "{{" in template:
            found |= meta.find_undeclared_variables(environment.parse(template)) - environment.globals.keys()
        elif template.isidentifier():
            found.add(template)
    return sorted(found)


def check_documents(task: str, documents: Any, config: Mapping[str, Any], file: Path) -> None:
    """Raise `UnmaskError` on the first document that lacks a field of the task's templates."""
    columns = cast("Sequence[str]", documents.column_names)
    for name in needed_fields(config):
        if name not in columns:
            raise _gap(task, file, 0, name)
        for item, value in enumerate(documents[name]):
            if value is None:
                raise _gap(task, file, item, name)


def explain_failure(
    task: str, error: Exception, config: Mapping[str, Any], reader: str, file: Path
) -> UnmaskError | None:
    """What a failure to make documents of the rows of `file` comes from, if that is a row without a field."""
    import datasets

    try:
        rows = cast("Any", datasets).load_dataset(reader, data_files={"rows": str(file)}, split="rows")
    except Exception:
        return None  # not the rows: the file
    columns = cast("list[str]", rows.column_names)
    if isinstance(error, IndexError) and "string index" in str(error):  # of the first letter of an answer
        return UnmaskError(
            f"{file}: item 0 (from 0) has an empty answer: task {task!r} can't begin with it: leave it out"
        )
    if isinstance(error, KeyError) and error.args and error.args[0] not in columns:
        return _gap(task, file, 0, str(error.args[0]))
    if not config.get("process_docs"):
        try:
            check_documents(task, rows, config, file)
        except UnmaskError as gap:
            return gap
    for item, row in enumerate(rows):
        for name in columns:
            if row[name] is None:
                return _gap(task, file, item, name)
    return None


def _gap(task: str, file: Path, item: int, name: str) -> UnmaskError:
    return UnmaskError(f"{file}: item {item} (from 0) has no field {name!r}, which task {task!r} needs: put it there")
