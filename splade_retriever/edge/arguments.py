"""Checks of arguments that the methods of qdrant-client's interface share."""

from collections.abc import Mapping
from typing import Any

from splade_retriever.errors import InputError, NotSupportedError
from splade_retriever.validation import checked_int

__all__ = ["check_options", "checked_limit"]


def check_options(method: str, unknown: Mapping[str, Any], **cluster_options: Any) -> None:
    """Refuse unknown arguments, and arguments that need a cluster.

    Arguments such as `wait`, `ordering` and `timeout` do not come here: with one copy in one process they
    change nothing, since a write is done and kept when its method returns.

    Args:
        method: Name of the method, for the message.
        unknown: What the method's `**kwargs` caught.
        cluster_options: Options of shards and replicas. None and 1 describe what Qdrant Edge has.

    Raises:
        InputError: If an argument is unknown.
        NotSupportedError: If an option asks for more than one shard or copy.
    """
    for name, value in unknown.items():
        raise InputError(f"{method} got the unknown argument {name}={value!r}. Remove it.")
    for name, value in cluster_options.items():
        if value is None or (value == 1 and not isinstance(value, bool)):
            continue
        raise NotSupportedError(
            f"{method} got {name}={value!r}, but Qdrant Edge keeps one copy in one shard. Remove {name}, or "
            "use a Qdrant server: QdrantClient(url=...)."
        )


def checked_limit(value: int, name: str = "limit") -> int:
    """Return a number of results; raise InputError unless it is an int of 1 or more."""
    return checked_int(name, value, minimum=1)
