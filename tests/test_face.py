"""`import lsp_fast`: four names, imported when they are used."""

import subprocess
import sys

import pytest

import lsp_fast


def test_importing_it_costs_nothing():
    code = "import sys, lsp_fast; print(sorted({'torch', 'numpy', 'gymnasium', 'numba'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_its_names_are_those_of_the_rooms():
    from lsp_fast import config, envs, evaluate
    from lsp_fast.training import loop

    assert lsp_fast.train is loop.train and lsp_fast.load is evaluate.load
    assert lsp_fast.make_config is config.make_config and lsp_fast.envs is envs
    assert set(lsp_fast.__all__) == {"train", "load", "make_config", "envs"} <= set(dir(lsp_fast))


def test_another_name_is_refused_with_those_there_are():
    with pytest.raises(
        AttributeError, match="'lsp_fast' has no attribute 'fit'; there are envs, load, make_config, train"
    ):
        lsp_fast.fit  # noqa: B018
