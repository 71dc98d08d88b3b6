"""qdrant-client's formulas, which score points by expressions over scores and payloads -> Qdrant Edge's."""

from collections.abc import Mapping
from typing import Any, Final

import qdrant_edge as edge
from qdrant_client import models

from splade_retriever.edge.convert_filter import to_condition, to_geo_point

__all__ = ["to_formula"]

_ONE_OPERAND: Final[Mapping[type, str]] = {
    models.NegExpression: "Neg",
    models.AbsExpression: "Abs",
    models.SqrtExpression: "Sqrt",
    models.ExpExpression: "Exp",
    models.Log10Expression: "Log10",
    models.LnExpression: "Ln",
    models.AcoshExpression: "Acosh",
}
_MANY_OPERANDS: Final[Mapping[type, str]] = {
    models.MultExpression: "Mult",
    models.SumExpression: "Sum",
    models.MaxExpression: "Max",
    models.MinExpression: "Min",
}
_DECAYS: Final[Mapping[type, edge.DecayKind]] = {
    models.LinDecayExpression: edge.DecayKind.Lin,
    models.GaussDecayExpression: edge.DecayKind.Gauss,
    models.ExpDecayExpression: edge.DecayKind.Exp,
}


def to_formula(query: models.FormulaQuery) -> edge.Formula:
    """Convert a formula with the defaults of its variables."""
    return edge.Formula(_expression(query.formula), query.defaults or {})


def _expression(expression: Any) -> Any:  # noqa: PLR0911 - one per kind
    make = edge.Expression
    kind = type(expression)
    if isinstance(expression, int | float):
        return make.Constant(float(expression))
    if isinstance(expression, str):
        return make.Variable(expression)
    if kind in _ONE_OPERAND or kind in _MANY_OPERANDS or kind in _DECAYS:
        (operand,) = (getattr(expression, name) for name in kind.model_fields)
        if kind in _ONE_OPERAND:
            return getattr(make, _ONE_OPERAND[kind])(_expression(operand))
        if kind in _MANY_OPERANDS:
            return getattr(make, _MANY_OPERANDS[kind])([_expression(item) for item in operand])
        return make.Decay(
            _DECAYS[kind],
            _expression(operand.x),
            target=None if operand.target is None else _expression(operand.target),
            midpoint=operand.midpoint,
            scale=operand.scale,
        )
    if isinstance(expression, models.DivExpression):
        parts = expression.div
        return make.Div(_expression(parts.left), _expression(parts.right), parts.by_zero_default)
    if isinstance(expression, models.PowExpression):
        return make.Pow(_expression(expression.pow.base), _expression(expression.pow.exponent))
    if isinstance(expression, models.GeoDistance):
        distance = expression.geo_distance
        return make.GeoDistance(to_geo_point(distance.origin), distance.to)
    if isinstance(expression, models.DatetimeExpression):
        return make.Datetime(expression.datetime)
    if isinstance(expression, models.DatetimeKeyExpression):
        return make.DatetimeKey(expression.datetime_key)
    return make.Condition(to_condition(expression))
