"""`splade mcp`: serve an index to agents."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from splade_retriever.cli.options import (
    CollectionOption,
    IndexOption,
    KeyOption,
    ModelOption,
    open_index,
    with_server_options,
)
from splade_retriever.validation import is_url

if TYPE_CHECKING:
    from splade_retriever.index.options import ServerKeywords

__all__ = ["mcp"]


@with_server_options
def mcp(
    *,
    index: IndexOption,
    collection: CollectionOption = "splade",
    model: ModelOption = None,
    api_key: KeyOption = None,
    server: ServerKeywords,
    write: Annotated[bool, typer.Option("--write", help="Offer the tools add and delete as well.")] = False,
    tenant: Annotated[
        str | None,
        typer.Option(
            "--tenant",
            metavar="NAME",
            help="Offer the documents of this tenant only.",
        ),
    ] = None,
    http: Annotated[
        bool, typer.Option("--http", help="Serve over HTTP on this machine instead of over stdin and stdout.")
    ] = False,
    host: Annotated[
        str, typer.Option("--host", metavar="ADDRESS", help="Loopback address, with --http.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=1, max=65535, metavar="N", help="With --http.")] = 8765,
) -> None:
    """Serve an index to agents by the Model Context Protocol: search, get, explain, why_not.

    The client starts this command and talks to it over stdin and stdout; with --http it connects to
    http://127.0.0.1:8765/mcp. Without --write a folder is read from a copy, so another process can continue
    writing to it; start the command again to serve what it wrote.
    """
    from splade_retriever.mcp_server import serve

    read_only = not write and not is_url(index)
    with open_index(
        index, collection, model=model, api_key=api_key, server=server, create=False, read_only=read_only
    ) as opened:
        transport: Literal["http", "stdio"] = "http" if http else "stdio"
        serve(opened, write=write, tenant=tenant, transport=transport, host=host, port=port)
