"""Keeps the harness from asking pip and lsb_release about this machine each time, most of a small evaluation."""

import pytest


@pytest.fixture(scope="session", autouse=True)
def _no_description_of_the_machine():
    from torch.utils import collect_env

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(collect_env, "get_pretty_env_info", lambda: "")
        yield
