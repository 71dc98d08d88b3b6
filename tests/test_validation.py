"""Checks of arguments that every layer shares."""

import pytest

from splade_retriever.validation import is_loopback, loopback_names


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("localhost", True),
        ("qdrant.localhost", True),
        ("127.0.0.1", True),
        ("127.0.0.2", True),
        ("::1", True),
        ("[::1]", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.0.1", False),
        ("example.org", False),
        ("localhost.example.org", False),
        ("notlocalhost", False),
        ("[::1", False),
        ("", False),
    ],
)
def test_only_this_machine_is_reached_by_a_loopback_host(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback


@pytest.mark.parametrize(
    ("host", "others"),
    [
        ("localhost", []),
        ("127.0.0.1", []),
        ("::1", []),
        ("[::1]", []),
        ("127.0.0.2", ["127.0.0.2"]),
        ("::ffff:127.0.0.1", ["[::ffff:127.0.0.1]"]),
    ],
)
def test_requests_may_name_the_usual_hosts_and_the_one_that_is_served(host: str, others: list[str]) -> None:
    assert loopback_names(host) == ("localhost", "127.0.0.1", "[::1]", *others)
