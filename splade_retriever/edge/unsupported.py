"""The methods of qdrant-client that only a server has: each raises an error that names it."""

import functools
from collections.abc import Callable
from typing import Any, NoReturn

from splade_retriever.errors import NotSupportedError

__all__ = ["server_only"]


def server_only(method: Callable[..., Any], feature: str) -> Callable[..., NoReturn]:
    """Make a method of an embedded client that refuses.

    Args:
        method: The method of `QdrantClient`, whose name and signature the refusing one takes.
        feature: What only a server has, in the plural.
    """

    @functools.wraps(method)
    def refuse(*args: Any, **kwargs: Any) -> NoReturn:
        raise NotSupportedError(
            f"EdgeClient does not support {method.__name__}: Qdrant Edge has no {feature}. Use a Qdrant "
            "server: QdrantClient(url=...)."
        )

    refuse.__doc__ = f"Raise NotSupportedError: only a Qdrant server has {feature}."
    return refuse
