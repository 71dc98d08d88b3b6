"""`splade serve`: the search page of an index."""

from __future__ import annotations

import secrets
from typing import Annotated

import typer

from splade_retriever.cli.options import (
    CaOption,
    CollectionOption,
    GrpcOption,
    GrpcPortOption,
    IndexOption,
    KeyOption,
    ModelOption,
    ReadOnlyOption,
    RetryForOption,
    TimeoutOption,
    open_to_read,
    server_keywords,
)
from splade_retriever.cli.output import print_message

__all__ = ["serve"]


def serve(
    *,
    index: IndexOption,
    host: Annotated[
        str, typer.Option("--host", metavar="ADDRESS", help="Address; others than 127.0.0.1 need a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=1, max=65535, metavar="N", help="Port.")] = 8321,
    token: Annotated[
        str | None,
        typer.Option(
            "--token",
            envvar="SPLADE_WEB_TOKEN",
            metavar="TOKEN",
            help="Token that requests must send; made up for an address that others can reach.",
        ),
    ] = None,
    collection: CollectionOption = "splade",
    model: ModelOption = None,
    api_key: KeyOption = None,
    grpc: GrpcOption = False,
    grpc_port: GrpcPortOption = None,
    timeout: TimeoutOption = None,
    retry_for: RetryForOption = None,
    ca: CaOption = None,
    read_only: ReadOnlyOption = False,
) -> None:
    """Serve a page that searches an index and explains each hit, and its JSON API."""
    from splade_retriever.web.server import is_loopback
    from splade_retriever.web.server import serve as serve_page

    if token is None and not is_loopback(host):
        token = secrets.token_urlsafe(24)
    with open_to_read(
        index,
        collection,
        model=model,
        api_key=api_key,
        server=server_keywords(grpc, grpc_port, timeout, retry_for, ca),
        read_only=read_only,
    ) as opened:
        address = f"http://{f'[{host}]' if ':' in host else host}:{port}/"
        print_message(f"Serving {index} at {address}{'' if token is None else f'#token={token}'}")
        serve_page(opened, host=host, port=port, token=token)
