import pytest

from tests.faults.scratch import Scratch, made


@pytest.fixture(scope="session")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Scratch:
    """A working directory in which commands meet mistakes: none of them changes it."""
    return made(tmp_path_factory.mktemp("mistakes"))
