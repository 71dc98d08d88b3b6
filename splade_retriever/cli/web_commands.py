"""`splade serve`: the search page of an index."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Annotated

import typer

from splade_retriever.cli.options import (
    CollectionOption,
    IndexOption,
    KeyOption,
    ModelOption,
    ReadOnlyOption,
    open_to_read,
    with_server_options,
)
from splade_retriever.cli.output import print_message
from splade_retriever.cli.termination import closed_on_termination
from splade_retriever.validation import is_loopback

if TYPE_CHECKING:
    from splade_retriever.index.options import ServerKeywords

__all__ = ["serve"]


@with_server_options
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
    server: ServerKeywords,
    read_only: ReadOnlyOption = False,
) -> None:
    """Serve a page that searches an index and explains each hit, and its JSON API."""
    from splade_retriever.web.server import serve as serve_page

    host = host.strip("[]")
    if token is None and not is_loopback(host):
        token = secrets.token_urlsafe(24)
    with (
        closed_on_termination(),
        open_to_read(
            index, collection, model=model, api_key=api_key, server=server, read_only=read_only
        ) as opened,
    ):
        address = f"http://{f'[{host}]' if ':' in host else host}:{port}/"
        print_message(f"Serving {index} at {address}{'' if token is None else f'#token={token}'}")
        serve_page(opened, host=host, port=port, token=token)
