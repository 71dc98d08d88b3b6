"""Fixtures that the tests of the LangChain adapter share."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.index.parts import opened_store
from tests.langchain.parts import ENGINES


@pytest.fixture(params=ENGINES)
def client(request: pytest.FixtureRequest) -> Iterator[Any]:
    """A client of each engine, without collections."""
    with opened_store(request.param, request) as opened:
        yield opened
