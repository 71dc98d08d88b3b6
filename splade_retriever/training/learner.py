"""The losses of one batch, and the step that they make the model take.

The losses compare the score matrix S = Q D^T of a batch's queries and texts with a teacher's:

1. contrastive, both ways: cross-entropy of S against the diagonal (arXiv 1807.03748); no text occurs twice;
2. distillation, both ways: KL divergence from the teacher's scores (after arXiv 2010.02666), unchanged and
   softened by a temperature (arXiv 1503.02531), which teaches the order of texts far from the answer, too;
3. FLOPS: sum over the vocabulary of the squared mean weight (arXiv 2004.05665), of texts and of queries.
   Weights are divided by the gain of their entry (to the power of `relief`), so rare words are regularised
   less (arXiv 2411.04403);
4. L1 of queries.

The factors of the two regularisers are not fixed. They hold the number of active dimensions: a factor grows
while a text has more than the target and shrinks while it has fewer (`Pressure`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from splade_retriever.training.model import Splade

__all__ = ["Learner", "LearningSettings", "Pressure", "divergence", "losses"]


@dataclass(frozen=True)
class LearningSettings:
    """Rates, factors of the losses, and targets.

    Attributes:
        head_rate: Learning rate of the head.
        layer_rate: Learning rate of the encoder's layers.
        warm_up: Share of the run in which the rates rise.
        distillation: Factor of the distillation.
        softened: Factor of the softened distillation.
        temperature: Divides the scores of the softened distillation.
        flops_text: Factor of FLOPS of texts, before the pressure.
        flops_query: Factor of FLOPS of queries, before the pressure.
        l1_query: Factor of L1 of queries, before the pressure.
        relief: Exponent of the gains by which weights are divided before they are regularised.
        dims_text: Active dimensions of a text to hold.
        dims_query: Active dimensions of a query to hold.
        ramp: Share of the run in which the targets fall from five times their value (arXiv 2109.10086).
        query_power: Exponent of a query's weights.
    """

    head_rate: float = 2e-3
    layer_rate: float = 1e-4
    warm_up: float = 0.03
    distillation: float = 2.0
    softened: float = 0.0
    temperature: float = 3.0
    flops_text: float = 5e-3
    flops_query: float = 5e-3
    l1_query: float = 1e-3
    relief: float = 1.0
    dims_text: float = 120.0
    dims_query: float = 26.0
    ramp: float = 0.3
    query_power: float = 1.0


class Learner:
    """The state that a batch changes: the model, its optimiser and the pressure on active dimensions."""

    def __init__(self, settings: LearningSettings, model: Splade) -> None:
        self.settings, self.model = settings, model
        self.pressure = Pressure({"text": settings.dims_text, "query": settings.dims_query}, settings.ramp)
        layers = [p for p in model.encoder.parameters() if p.requires_grad]
        self.optimiser = torch.optim.AdamW(
            [
                {"params": layers, "rate": settings.layer_rate},
                {"params": list(model.head.parameters()), "rate": settings.head_rate},
            ],
            weight_decay=0.0,
        )

    def update(self, queries: Tensor, texts: Tensor, teacher: Tensor, done: float) -> dict[str, float]:
        """Take one step, at the share `done` of the run.

        Args:
            queries: Shape (batch, vocab), weights by the model, with gradients.
            texts: Shape (texts, vocab), the same; row i answers query i, as in `losses`.
            teacher: Shape (batch, texts), the teacher's scores.
            done: From 0 to 1; the learning rate rises over the warm-up, then falls to 0 at 1.

        Returns:
            The losses, the active dimensions and the pressure, by name.
        """
        parts = losses(
            queries,
            texts,
            gain=self.model.head.gain(),
            teacher=teacher,
            settings=self.settings,
            pressure=self.pressure.factors,
        )
        return self.step(parts, queries, texts, done)

    def step(
        self, parts: Mapping[str, Tensor], queries: Tensor, texts: Tensor, done: float
    ) -> dict[str, float]:
        """Take one step that lowers the sum of some losses; arguments and result are those of `update`."""
        rate = min(1.0, done / self.settings.warm_up) * (1 - done)
        for group in self.optimiser.param_groups:
            group["lr"] = group["rate"] * rate
        self.optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(torch.stack(list(parts.values())).sum())
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 5.0)
        self.optimiser.step()
        dims = {
            f"{name}_dims": (weights > self.model.head.floor).sum(1).float().mean()
            for name, weights in (("query", queries), ("text", texts))
        }
        # All figures come from the device at once: a GPU waits for each transfer.
        figures = torch.stack([value.detach() for value in (*parts.values(), *dims.values())]).tolist()
        point = dict(zip((*parts, *dims), figures, strict=True))
        self.pressure.adjust({name: point[f"{name}_dims"] for name in self.pressure.goals}, done)
        return point | {f"{name}_pressure": value for name, value in self.pressure.factors.items()}


class Pressure:
    """Factors of the regularisers that hold the active dimensions of texts and queries at a target.

    Args:
        goals: "text" and "query" -> active dimensions to hold.
        ramp: Share of the run in which the targets fall from five times the goals, quadratically.
    """

    rate, start, max_excess = 0.05, 4.0, 1.0
    """Largest change of a factor per step, as a share; how far above the goal a target starts; the excess
    above which a step changes a factor no faster."""

    def __init__(self, goals: Mapping[str, float], ramp: float) -> None:
        self.goals, self.ramp = goals, ramp
        self.factors = dict.fromkeys(goals, 1.0)

    def adjust(self, dims: Mapping[str, float], done: float) -> None:
        """Adjust the factors to the active dimensions of a step, at the share `done` of the run."""
        slack = 1 + self.start * (1 - min(1.0, done / self.ramp)) ** 2 if self.ramp else 1.0
        for name, goal in self.goals.items():
            excess = min(self.max_excess, max(-self.max_excess, dims[name] / (goal * slack) - 1))
            self.factors[name] = min(1e3, max(1e-2, self.factors[name] * (1 + self.rate * excess)))


def losses(
    queries: Tensor,
    texts: Tensor,
    *,
    gain: Tensor,
    teacher: Tensor,
    settings: LearningSettings,
    pressure: Mapping[str, float],
) -> dict[str, Tensor]:
    """Return the weighted losses of one batch by name.

    Args:
        queries: Shape (batch, vocab), weights before they are raised to `query_power`.
        texts: Shape (texts, vocab), weights; row i answers query i, further rows answer no query.
        gain: Shape (vocab,), the head's gains; the regularisers see weights without them.
        teacher: Shape (batch, texts), the teacher's scores.
        settings: The factors.
        pressure: "text" and "query" -> factor of their regularisers.
    """
    scores = queries.pow(settings.query_power) @ texts.T
    diagonal = torch.arange(len(scores), device=scores.device)
    scores_back, teacher_back = (matrix[:, : len(matrix)].T for matrix in (scores, teacher))

    def both_ways(temperature: float) -> Tensor:
        return (
            divergence(scores, teacher, temperature) + divergence(scores_back, teacher_back, temperature)
        ) / 2

    relief = gain.pow(settings.relief)
    mean = {"text": texts.mean(0) / relief, "query": queries.mean(0) / relief}
    flops = {name: weights.square().sum() for name, weights in mean.items()}
    contrastive = functional.cross_entropy(scores, diagonal) + functional.cross_entropy(scores_back, diagonal)
    return {
        "contrastive": contrastive / 2,
        "distillation": settings.distillation * both_ways(1.0),
        "softened": settings.softened * both_ways(settings.temperature),
        "flops": pressure["text"] * settings.flops_text * flops["text"]
        + pressure["query"] * settings.flops_query * flops["query"],
        "l1": pressure["query"] * settings.l1_query * mean["query"].sum(),
    }


def divergence(scores: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return KL(teacher || scores) over each row, times temperature^2, which keeps the size of gradients."""
    wanted = functional.softmax(teacher / temperature, dim=1)
    actual = functional.log_softmax(scores / temperature, dim=1)
    return temperature**2 * functional.kl_div(actual, wanted, reduction="batchmean")
