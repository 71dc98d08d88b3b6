"""Checkpoints of training runs: their state as a file, and back."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import torch
from torch.nn import Module

from splade_retriever.training.learner import Learner

__all__ = ["SAVE_EVERY", "Resumable", "load_checkpoint", "restore", "save_state", "state_of"]

SAVE_EVERY = 120
"""Seconds between two checkpoints."""


class Resumable(Protocol):
    """What a checkpoint holds of a run."""

    recipe: Any
    """The settings, a dataclass."""
    model: Any
    learner: Learner
    step: int
    spent: float
    """Seconds of training."""
    curve: list[dict[str, float]]


def state_of(run: Resumable) -> dict[str, Any]:
    """Return the content of a checkpoint, from which `model_building.train.finished` reads the weights."""
    model: Module = run.model
    return {
        "model": model.state_dict(),
        "optimiser": run.learner.optimiser.state_dict(),
        "step": run.step,
        "spent": run.spent,
        "pressure": run.learner.pressure.factors,
        "recipe": asdict(run.recipe),
        "curve": run.curve,
    }


def load_checkpoint(file: Path, recipe: Any, *, device: str) -> dict[str, Any]:
    """Read a checkpoint.

    Raises:
        SystemExit: It is one of another recipe.
    """
    state: dict[str, Any] = torch.load(file, map_location=device)
    if state["recipe"] != asdict(recipe):
        raise SystemExit(
            f"The run in {file.parent} has another recipe. Pass another --out to start a new run."
        )
    return state


def restore(run: Resumable, state: dict[str, Any]) -> None:
    """Continue a run from the content of a checkpoint."""
    run.model.load_state_dict(state["model"])
    run.learner.optimiser.load_state_dict(state["optimiser"])
    run.learner.pressure.factors = state["pressure"]
    run.step, run.spent, run.curve = state["step"], state["spent"], state["curve"]


def save_state(state: dict[str, Any], file: Path) -> None:
    """Write a file so that an interruption leaves either the old file or the new one."""
    temporary = file.with_suffix(".tmp")
    torch.save(state, temporary)
    temporary.replace(file)
