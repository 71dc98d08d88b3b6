"""Keywords that a call does not take: refused with the name that is probably meant."""

import difflib
from collections.abc import Collection, Iterable
from typing import Final

__all__ = ["refuse_unknown"]

_NAMES_ELSEWHERE: Final = {
    "collection_name": ("collection",),
    "documents": ("texts",),
    "embeddings": ("dense", "embedding"),
    "k": ("similarity_top_k",),
    "limit": ("k", "similarity_top_k"),
    "model_name": ("model",),
    "n_results": ("k", "similarity_top_k"),
    "path": ("location",),
    "persist_directory": ("location",),
    "query_filter": ("filter",),
    "similarity_top_k": ("k",),
    "threshold": ("score_threshold",),
    "top_k": ("k", "similarity_top_k"),
    "url": ("location",),
    "where": ("filter",),
}
"""Keyword of another library -> names here, of which a call takes one."""


def refuse_unknown(call: str, keywords: Iterable[str], known: Collection[str]) -> None:
    """Refuse keywords that a call does not take.

    Args:
        call: What was called, for the message.
        keywords: The keywords.
        known: The arguments that it takes.

    Raises:
        TypeError: A keyword is unknown; the message names the argument that is probably meant, or all.
    """
    for name in keywords:
        if name not in known:
            meant = next((other for other in _NAMES_ELSEWHERE.get(name, ()) if other in known), None)
            similar = [meant] if meant else difflib.get_close_matches(name, known, n=1)
            hint = f"Did you mean {similar[0]!r}?" if similar else f"It takes: {', '.join(known)}."
            raise TypeError(f"{call} got an unexpected keyword argument {name!r}. {hint}")
