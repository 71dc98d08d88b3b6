"""Fixtures that the tests of the LangChain adapter share."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.index.parts import client_of
from tests.langchain.parts import ENGINES


@pytest.fixture(params=ENGINES)
def client(request: pytest.FixtureRequest) -> Iterator[Any]:
    """A client of each engine that needs no server."""
    opened = client_of(request.param)
    yield opened
    opened.close()
