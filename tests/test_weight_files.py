"""Reading and writing weights: whole, in shards, damaged, and hostile."""

import json
import os
import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file

from unmask import weight_files
from unmask.errors import UnmaskError, UsageError
from unmask.weight_files import Entry

WEIGHTS = {
    "a": torch.arange(6.0).view(2, 3),
    "b": torch.randn(5, generator=torch.Generator().manual_seed(0)).bfloat16(),
    "c": torch.ones(1, 1, dtype=torch.float16),
}


class RunsCode:
    def __reduce__(self):
        return os.system, ("touch ran",)


def read(path):
    return dict(weight_files.find(path).tensors())


def assert_same(found, expected=WEIGHTS):
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)


def test_what_is_written_in_any_order_safetensors_reads_and_so_do_we(tmp_path):
    entries = {name: Entry(tuple(tensor.shape), tensor.dtype) for name, tensor in WEIGHTS.items()}
    weight_files.write(tmp_path / "model.safetensors", entries, reversed(WEIGHTS.items()))
    assert_same(load_file(tmp_path / "model.safetensors"))
    assert_same(read(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
    assert weight_files.find(tmp_path).nbytes == 24 + 10 + 2


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "lit_model.pth", "other.ckpt"])
@pytest.mark.parametrize("old", [False, True])
def test_one_file_of_every_kind(name, old, tmp_path):
    if name.endswith("safetensors"):
        save_file(WEIGHTS, tmp_path / name)
    else:
        torch.save(WEIGHTS, tmp_path / name, _use_new_zipfile_serialization=not old)
    assert_same(read(tmp_path))
    assert_same(read(tmp_path / name))
    assert weight_files.find(tmp_path).entries["b"] == Entry((5,), torch.bfloat16)


@pytest.fixture(params=["safetensors", "bin"])
def sharded(request, tmp_path):
    stem = "model" if request.param == "safetensors" else "pytorch_model"
    save = save_file if request.param == "safetensors" else torch.save
    weight_map = {}
    for number, name in enumerate(WEIGHTS, start=1):
        weight_map[name] = f"{stem}-0000{number}-of-00003.{request.param}"
        save({name: WEIGHTS[name]}, tmp_path / weight_map[name])
    index = tmp_path / f"{stem}.{request.param}.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return index


def test_shards_are_read_by_their_index_or_by_their_names(sharded):
    assert_same(read(sharded.parent))
    sharded.unlink()
    assert_same(read(sharded.parent))


def test_missing_shards_are_named(sharded):
    gone = next(path for path in sharded.parent.iterdir() if "-00002-" in path.name)
    gone.unlink()
    with pytest.raises(UnmaskError, match=f"1 of its 3 shards are missing: {gone.name}"):
        read(sharded.parent)
    sharded.unlink()
    with pytest.raises(UnmaskError, match="of 3 shards these are missing: 2: get them too"):
        read(sharded.parent)


def test_shards_of_two_checkpoints_are_not_one(tmp_path):
    for name in ("model-00001-of-00002.safetensors", "model-00002-of-00003.safetensors"):
        save_file(WEIGHTS, tmp_path / name)
    with pytest.raises(UnmaskError, match="holds shards of 2 and of 3: keep the files of one checkpoint apart"):
        read(tmp_path)


def test_an_index_that_lies_or_reaches_outside_is_refused(sharded):
    content = json.loads(sharded.read_text())
    content["weight_map"]["d"] = content["weight_map"]["a"]
    sharded.write_text(json.dumps(content))
    with pytest.raises(UnmaskError, match="lacks d, which the index promises"):
        read(sharded.parent)
    sharded.write_text(json.dumps({"weight_map": {"a": "../../secret.safetensors"}}))
    with pytest.raises(UnmaskError, match="outside its folder"):
        read(sharded.parent)
    for text in ("{", "[]", '{"weight_map": 3}'):
        sharded.write_text(text)
        with pytest.raises(UnmaskError, match="not an index of shards"):
            read(sharded.parent)


@pytest.mark.parametrize("kept", [0, 5, 100, -1])
def test_truncated_files_are_named(kept, tmp_path):
    save_file(WEIGHTS, tmp_path / "x.safetensors")
    torch.save(WEIGHTS, tmp_path / "x.bin")
    for name in ("x.safetensors", "x.bin"):
        path = tmp_path / name
        path.write_bytes(path.read_bytes()[:kept])
        with pytest.raises(UnmaskError, match=rf"{name}: damaged or cut short .*: restore it"):
            read(path)


def test_a_pointer_of_git_lfs_is_told_from_damage(tmp_path):
    (tmp_path / "x.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(UnmaskError, match="a pointer of Git LFS"):
        read(tmp_path)


@pytest.mark.parametrize("form", ["zip", "old torch", "plain pickle", "plain pickle 0"])
def test_a_pickle_that_would_run_code_is_refused_with_the_reason_and_not_run(form, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content, path = {"a": torch.ones(2), "x": RunsCode()}, tmp_path / "evil.bin"
    if form.startswith("plain"):
        path.write_bytes(pickle.dumps({"x": RunsCode()}, protocol=0 if form.endswith("0") else 4))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(UnmaskError, match=r"evil\.bin: refused: .* would call (posix|nt)\.system, .* safetensors"):
        read(path)
    assert not (tmp_path / "ran").exists()


def test_other_things_than_plain_weights_are_named(tmp_path):
    torch.save([torch.ones(2)], tmp_path / "list.pth")
    with pytest.raises(UnmaskError, match="holds a list, not named tensors"):
        read(tmp_path / "list.pth")
    torch.save({"lr": 0.1}, tmp_path / "none.pth")
    with pytest.raises(UnmaskError, match="holds no tensors"):
        read(tmp_path / "none.pth")
    save_file({"q": torch.ones(3, dtype=torch.int8)}, tmp_path / "q.safetensors")
    with pytest.raises(UnmaskError, match="q is of type I8, so no weight, or a quantised one"):
        read(tmp_path / "q.safetensors")
    (tmp_path / "x.onnx").write_bytes(b"x")
    with pytest.raises(UsageError, match=r"x\.onnx: not a weight file by its name"):
        read(tmp_path / "x.onnx")
    save_file(WEIGHTS, tmp_path / "r.safetensors")
    with pytest.raises(UsageError, match="holds 2 files of weights and no index: name one of them"):
        read(tmp_path)
    with pytest.raises(UsageError, match="no such file or folder"):
        read(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="holds no weights"):
        read(tmp_path / "empty")
