"""The results of checks."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

__all__ = ["Diagnosis", "Finding", "Level"]

Level: TypeAlias = Literal["ok", "warning", "fault"]
"""Whether a finding needs attention: "fault" where data or results are wrong or a request fails."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Result of one check."""

    check: str
    """What was checked, such as "model"."""
    found: str
    level: Level = "ok"
    advice: str = ""
    """What to do; empty if nothing."""
    collection: str | None = None
    """Name of the collection; None for a finding about the folder or the server."""
    documents: tuple[str, ...] = ()
    """Ids of the documents that the finding is about, for damaged documents."""

    def to_dict(self) -> dict[str, Any]:
        """Return the finding as JSON values."""
        return {
            "name": self.check,
            "collection": self.collection,
            "ok": self.level != "fault",
            "level": self.level,
            "found": self.found,
            "advice": self.advice,
            "documents": list(self.documents),
        }


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What the checks of one place found."""

    location: str
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether no fault was found; warnings may have been."""
        return all(finding.level != "fault" for finding in self.findings)

    def at_level(self, level: Level) -> list[Finding]:
        """Return the findings of one level, in order."""
        return [finding for finding in self.findings if finding.level == level]

    def to_dict(self) -> Mapping[str, Any]:
        """Return the diagnosis as JSON values."""
        return {
            "location": self.location,
            "ok": self.ok,
            "checks": [finding.to_dict() for finding in self.findings],
        }
