"""Explanations of a score: the share of each token, and the words of the text that the tokens stand for.

`explain` computes an `Explanation`, which draws itself in terminals and notebooks.
"""

from splade_retriever.explanation.contributions import Contribution, Kind, Mark, UnmatchedToken, kind_of
from splade_retriever.explanation.explain import explain
from splade_retriever.explanation.explanation import Explanation
from splade_retriever.explanation.terminal import bar, explanation_view, marked_text
from splade_retriever.explanation.words import LiteralTokenizer

__all__ = [
    "Contribution",
    "Explanation",
    "Kind",
    "LiteralTokenizer",
    "Mark",
    "UnmatchedToken",
    "bar",
    "explain",
    "explanation_view",
    "kind_of",
    "marked_text",
]
