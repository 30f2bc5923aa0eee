import pytest
from exported import SMALL, a_run

from lsp_fast.export import policy


@pytest.fixture(scope="session")
def exported(smoke, tmp_path_factory):
    """The folders of a run and its policy."""
    place = tmp_path_factory.mktemp("exported")
    folder = a_run(place / "run", smoke(**SMALL))
    policy.export(folder, place / "policy")
    return folder, place / "policy"
