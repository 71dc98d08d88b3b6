"""Options and arguments that several commands share."""

from __future__ import annotations

import contextlib
import functools
import inspect
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from splade_retriever.errors import InputError
from splade_retriever.validation import is_url, resolved_location

if TYPE_CHECKING:
    from splade_retriever.encoding.text_embedding import SparseTextEmbedding
    from splade_retriever.index.options import ServerKeywords
    from splade_retriever.index.splade_index import SpladeIndex

__all__ = [
    "BaseOption",
    "CollectionOption",
    "FilterOption",
    "IndexOption",
    "JsonOption",
    "KeyOption",
    "ModelOption",
    "ReadOnlyOption",
    "SecondModelOption",
    "TokensOption",
    "allows_insecure_key",
    "copied_stdin",
    "load_model",
    "open_index",
    "open_to_read",
    "parse_filter",
    "read_text",
    "server_keywords",
    "with_server_options",
]

IndexOption = Annotated[
    str,
    typer.Option(
        "--index",
        "-i",
        envvar="SPLADE_LOCATION",
        metavar="LOCATION",
        help="Index folder, or URL of a Qdrant server.",
    ),
]
CollectionOption = Annotated[
    str,
    typer.Option("--collection", envvar="SPLADE_COLLECTION", metavar="NAME", help="Collection in the index."),
]
ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        envvar="SPLADE_MODEL",
        metavar="NAME",
        help="Model name or folder; see `splade models`.",
    ),
]
SecondModelOption = Annotated[
    str | None,
    typer.Option(
        "--second-model", metavar="NAME", help="A second sparse model for hybrid search, such as Qdrant/bm25."
    ),
]
KeyOption = Annotated[
    str | None,
    typer.Option("--api-key", envvar="QDRANT_API_KEY", metavar="KEY", help="API key of the Qdrant server."),
]
GrpcOption = Annotated[
    bool, typer.Option("--grpc", help="Send requests over gRPC, at the port of the URL + 1.")
]
GrpcPortOption = Annotated[
    int | None,
    typer.Option(
        "--grpc-port", min=1, max=65535, metavar="PORT", help="Send requests over gRPC, at this port."
    ),
]
TimeoutOption = Annotated[
    int | None,
    typer.Option("--timeout", min=1, metavar="S", help="Seconds after which a try of a request fails."),
]
RetryForOption = Annotated[
    float | None,
    typer.Option(
        "--retry-for", min=0.0, metavar="S", help="Seconds to wait for a server that does not answer."
    ),
]
CaOption = Annotated[
    str | None,
    typer.Option("--ca", metavar="FILE", help="Certificates (PEM) of the authorities to trust."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, on stdout.")]
BaseOption = Annotated[
    Path | None,
    typer.Option("--base", metavar="FOLDER", help="File names are relative to FOLDER, not absolute."),
]
FilterOption = Annotated[
    str | None,
    typer.Option("--filter", "-f", metavar="JSON", help="""Such as '{"year": {"$gte": 2020}}'."""),
]
ReadOnlyOption = Annotated[
    bool,
    typer.Option("--read-only", help="Read a copy of the folder, so that several processes can open it."),
]
SyntaxOption = Annotated[
    bool, typer.Option("--syntax", help='Read +word, -word, word^2 and "two words" in QUERY.')
]
TokensOption = Annotated[int, typer.Option("--tokens", min=1, metavar="N", help="Tokens to show.")]


def open_index(
    location: str,
    collection: str,
    *,
    model: str | None,
    api_key: str | None,
    create: bool,
    second_model: str | None = None,
    server: ServerKeywords | None = None,
    read_only: bool = False,
) -> SpladeIndex:
    """Open an index in a folder or on a server.

    Raises:
        InputError: If the location is a host and a port without http://.
        SpladeError: What `SpladeIndex` raises.
    """
    from splade_retriever.index.splade_index import SpladeIndex

    key = api_key if is_url(location) else None
    return SpladeIndex(
        location,
        collection=collection,
        model=model,
        second_model=second_model,
        api_key=key,
        create=create,
        read_only=read_only,
        **(server or server_keywords()),
    )


def allows_insecure_key() -> bool:
    """Return whether the environment allows that the API key is sent over http to another machine."""
    return os.environ.get("SPLADE_ALLOW_INSECURE_KEY", "0") not in ("", "0")


def server_keywords(
    *,
    grpc: GrpcOption = False,
    grpc_port: GrpcPortOption = None,
    timeout: TimeoutOption = None,
    retry_for: RetryForOption = None,
    ca: CaOption = None,
) -> ServerKeywords:
    """Return how to connect to a server, as the options and the environment say, as keywords."""
    return {
        "prefer_grpc": grpc or grpc_port is not None,
        "grpc_port": grpc_port,
        "timeout": timeout,
        "retry_for": retry_for,
        "ca": ca,
        "allow_insecure_key": allows_insecure_key(),
    }


def with_server_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of `server_keywords`; their result is its argument `server`."""
    options = _parameters(server_keywords)
    others = [parameter for parameter in _parameters(command) if parameter.name != "server"]

    @functools.wraps(command)
    def run(**arguments: Any) -> None:
        chosen = {option.name: arguments.pop(option.name) for option in options}
        command(**arguments, server=server_keywords(**chosen))

    parameters = sorted([*others, *options], key=lambda parameter: parameter.kind)
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def _parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    """Return the parameters of a command with their types; that of `server` is for type checkers only."""
    found = inspect.signature(function).parameters.values()
    texts = {parameter.name: parameter.annotation for parameter in found if parameter.name != "server"}
    holder = type("Holder", (), {"__annotations__": texts})
    types = get_type_hints(holder, globalns=function.__globals__, include_extras=True)
    return [parameter.replace(annotation=types.get(parameter.name, Any)) for parameter in found]


def open_to_read(
    location: str,
    collection: str,
    *,
    model: str | None,
    api_key: str | None,
    server: ServerKeywords,
    read_only: bool,
) -> SpladeIndex:
    """Open an index for a command that only reads it; a folder that cannot be written is read from a copy.

    Raises:
        SpladeError: What `SpladeIndex` raises.
    """
    folder = Path(resolved_location(location))
    is_protected = not is_url(location) and folder.is_dir() and not os.access(folder, os.W_OK)
    return open_index(
        location,
        collection,
        model=model,
        api_key=api_key,
        server=server,
        create=False,
        read_only=read_only or is_protected,
    )


def load_model(name: str | None) -> SparseTextEmbedding:
    """Load a model by name or folder; None for the bundled model."""
    from splade_retriever.encoding.text_embedding import SparseTextEmbedding

    return SparseTextEmbedding(name)


def parse_filter(value: str | None) -> dict[str, Any] | None:
    """Read the JSON of --filter.

    Raises:
        typer.BadParameter: If it is not a JSON object.
    """
    if value is None:
        return None
    try:
        parsed = json.loads(value)
    except (ValueError, RecursionError) as error:
        raise typer.BadParameter(
            f"The filter is not JSON: {error}. Write it as '{{\"year\": 2020}}'.", param_hint="--filter"
        ) from error
    if not isinstance(parsed, dict):
        raise typer.BadParameter(
            f"The filter is {value}, expected a JSON object such as '{{\"year\": 2020}}'.",
            param_hint="--filter",
        )
    return parsed


@contextlib.contextmanager
def copied_stdin(name: str) -> Iterator[Path]:
    """Copy stdin to a temporary file of a name, whose extension decides how it is read.

    Raises:
        InputError: If the name is a path.
    """
    if name != Path(name).name:
        raise InputError(f"The name of stdin is {name!r}, expected a file name such as records.jsonl.")
    with tempfile.TemporaryDirectory(prefix="splade-stdin-") as folder:
        path = Path(folder, name)
        with path.open("wb") as file:
            shutil.copyfileobj(sys.stdin.buffer, file)
        yield path


def read_text(argument: str) -> str:
    """Return an argument, or stdin if the argument is "-"."""
    if argument != "-":
        return argument
    text = sys.stdin.buffer.read().decode("utf-8", errors="replace")
    return text.removesuffix("\n")
