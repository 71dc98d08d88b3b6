"""An index as tools of a LlamaIndex agent."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

from llama_index.core.tools import FunctionTool

from splade_retriever.errors import SpladeError
from splade_retriever.index.agent_tools import IndexTools
from splade_retriever.index.splade_index import SpladeIndex

__all__ = ["create_tools"]


def create_tools(index: SpladeIndex, *, write: bool = False, tenant: str | None = None) -> list[FunctionTool]:
    """Return the tools search, get, explain and why_not, which search an index and say which words decided.

    Arguments and results are the same as those of `splade mcp`. An error of this package becomes the tool's
    answer, `{"error": message}`, so that the model can correct its call.

    Args:
        index: An open index; the caller closes it.
        write: Return the tools add and delete as well.
        tenant: Whose documents the tools find, read and write, where the index separates tenants; the model
            cannot choose it. Without it `search` finds those of all tenants, and tools that take ids answer
            with an error.

    Raises:
        InputError: If the tenant is not a text, or the index does not separate tenants.
    """
    tools = IndexTools(index, tenant=tenant)
    return [_tool(index, method) for method in (*tools.reading, *(tools.writing if write else ()))]


def _tool(index: SpladeIndex, method: Callable[..., dict[str, Any]]) -> FunctionTool:
    @functools.wraps(method)
    def call(*args: Any, **kwargs: Any) -> dict[str, Any]:
        try:
            return method(*args, **kwargs)
        except SpladeError as error:
            return {"error": str(error)}

    @functools.wraps(method)
    async def acall(*args: Any, **kwargs: Any) -> dict[str, Any]:
        return await index.run_in_thread(call, *args, **kwargs)

    return FunctionTool.from_defaults(
        fn=call, async_fn=acall, name=method.__name__, description=inspect.getdoc(method)
    )
