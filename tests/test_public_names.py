import subprocess
import sys

import pytest

import unmask


def test_importing_unmask_imports_no_torch_until_a_name_needs_it():
    code = """
import sys, unmask
assert "torch" not in sys.modules and "numpy" not in sys.modules
assert unmask.sizes.lookup("6M").n_layer == 6
assert "torch" not in sys.modules
unmask.likelihood
assert "torch" in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", [name for name in unmask.__all__ if name != "scaling"])
def test_every_public_name_is_there(name):
    assert getattr(unmask, name) is not None
    assert name in dir(unmask)


def test_the_names_of_the_design():
    assert set(unmask.samplers.SAMPLERS) >= {"ancestral", "confidence", "autoregressive"}
    assert set(unmask.objectives.OBJECTIVES) >= {"mdm", "arm"}
    assert callable(unmask.load)
    assert callable(unmask.likelihood.bound)
    assert callable(unmask.guidance.classifier_free)
    with pytest.raises(AttributeError, match="no attribute 'loud'"):
        _ = unmask.loud
