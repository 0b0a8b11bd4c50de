"""A running server that the tests of HTTP and of the page share."""

import pytest
from serving_client import running_server


@pytest.fixture(scope="package")
def server(model_directory):
    with running_server(model_directory) as server:
        yield server
