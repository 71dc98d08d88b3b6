"""Explanations of a score: the share of each token, and the words of the text that the tokens come from.

`explain` computes an `Explanation`, which draws itself in terminals and notebooks.
"""

from splade_retriever.explanation.contributions import Contribution, Kind, Mark, UnmatchedToken, kind_of
from splade_retriever.explanation.explain import ScoredQuery, ScoredText, explain, explain_all
from splade_retriever.explanation.explanation import Explanation
from splade_retriever.explanation.terminal import bar, explanation_view, marked_text, why_not_view
from splade_retriever.explanation.why_not import Place, Reason, TokenDifference, WhyNot, differences
from splade_retriever.explanation.words import LiteralTokenizer, literal_tokenizer

__all__ = [
    "Contribution",
    "Explanation",
    "Kind",
    "LiteralTokenizer",
    "Mark",
    "Place",
    "Reason",
    "ScoredQuery",
    "ScoredText",
    "TokenDifference",
    "UnmatchedToken",
    "WhyNot",
    "bar",
    "differences",
    "explain",
    "explain_all",
    "explanation_view",
    "kind_of",
    "literal_tokenizer",
    "marked_text",
    "why_not_view",
]
