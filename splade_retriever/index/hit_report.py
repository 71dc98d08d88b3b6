"""The report on a hit that adapters put into the metadata of a framework's document."""

from dataclasses import asdict
from typing import Any, Final

from splade_retriever.explanation import Explanation
from splade_retriever.index.documents import Hit
from splade_retriever.index.payload import PACKAGE_KEY

__all__ = ["METADATA_KEY", "hit_report"]

METADATA_KEY: Final = PACKAGE_KEY
"""The metadata key of the report. The index never stores metadata under it."""


def hit_report(hit: Hit, explanation: Explanation | None = None) -> dict[str, Any]:
    """Describe a hit in JSON values.

    Returns:
        `score`; `branches` (rank and score in each) for a hybrid search; `window` (start and end in
        characters) for a window of a document; `explanation` where one is passed.
    """
    report: dict[str, Any] = {"score": hit.score}
    if hit.branches:
        report["branches"] = {name: asdict(branch) for name, branch in hit.branches.items()}
    if hit.window is not None:
        report["window"] = list(hit.window)
    if explanation is not None:
        report["explanation"] = explanation.to_dict()
    return report
