"""Methods that call a method of another object, with its signature, types and docstring."""

import functools
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar, cast, overload

__all__ = ["Method", "delegate"]

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


class Method(Protocol[P, R_co]):
    """The type of a function in the body of a class."""

    @overload
    def __get__(self, instance: None, owner: type, /) -> Callable[Concatenate[Any, P], R_co]: ...
    @overload
    def __get__(self, instance: object, owner: type | None = None, /) -> Callable[P, R_co]: ...


def delegate(attribute: str, method: Callable[Concatenate[Any, P], R]) -> Method[P, R]:
    """Make a method that calls a method of an attribute of its object.

    Args:
        attribute: Name of the attribute.
        method: The method. With `**kwargs` it needs a slash after `self` for the type checker, since they
            could otherwise hold a second `self`.
    """

    @functools.wraps(method)
    def call(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return method(getattr(self, attribute), *args, **kwargs)

    return cast("Method[P, R]", call)
