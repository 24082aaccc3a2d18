"""Images are tested where there is something to render with."""

import pytest

from worldline.envs.make import make_env
from worldline.errors import MissingPackageError


@pytest.fixture(scope="session")
def renderer():
    try:
        make_env("robot:reach", observe="pixels").reset(seed=0)
    except MissingPackageError as error:
        pytest.skip(str(error))
