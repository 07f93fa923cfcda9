import pytest
from photographs import photographs, real_brackets

pytest.importorskip("OpenImageIO", reason="OpenImageIO is not installed")


@pytest.fixture(scope="session")
def data():
    """The folder of real photographs."""
    return photographs()


@pytest.fixture(scope="session")
def brackets():
    """The list of real brackets, by folder."""
    return real_brackets()
