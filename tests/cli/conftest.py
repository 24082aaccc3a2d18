"""One data file and one run for all tests of the command line."""

import pytest

from worldline.cli.main import main

from .tiny import train


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "cartpole.npz"
    assert main(["collect", "CartPole-v1", "--episodes", "12", "--out", str(path)]) == 0
    return path


@pytest.fixture(scope="session")
def finished_run(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "finished"
    assert main(train(data, out, "--save-interval", 3)) == 0
    return out
