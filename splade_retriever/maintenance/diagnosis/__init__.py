"""Checks of an index that only read it: a folder, or the collections of a server."""

from splade_retriever.maintenance.diagnosis.diagnose import diagnose
from splade_retriever.maintenance.diagnosis.findings import Diagnosis, Finding, Level

__all__ = ["Diagnosis", "Finding", "Level", "diagnose"]
