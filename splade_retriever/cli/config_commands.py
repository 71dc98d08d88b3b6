"""Commands for configuration files: `splade config init`, `check`, `show` and `schema`."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from splade_retriever.cli.options import IndexOption, JsonOption
from splade_retriever.cli.output import print_error, print_result
from splade_retriever.errors import ConfigurationError, InputError, SpladeError
from splade_retriever.printable import printable

if TYPE_CHECKING:
    from splade_retriever.config import RetrieverConfig

__all__ = ["config_commands"]

config_commands = typer.Typer(
    help="Write, check and show configuration files of retrievers.", no_args_is_help=True
)

FileArgument = Annotated[Path, typer.Argument(metavar="FILE", help="YAML, TOML or JSON file.")]
SCHEMA_NAME = "splade.schema.json"


@config_commands.command()
def init(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="YAML file to write.")] = Path(
        "retriever.yaml"
    ),
    *,
    index: IndexOption = "./index",
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
) -> None:
    """Write a configuration with comments, and beside it the schema by which editors complete it."""
    from splade_retriever.config import json_schema, template

    if file.suffix.lower() not in (".yaml", ".yml"):
        raise InputError(f"The file {str(file)!r} does not end in .yaml. Rename it.")
    if file.exists() and not force:
        raise InputError(f"The file {str(file)!r} exists. Name another, or replace it with --force.")
    schema = file.with_name(SCHEMA_NAME)
    try:
        file.write_text(template(index, schema=f"./{SCHEMA_NAME}"), encoding="utf-8")
        schema.write_text(json.dumps(json_schema(), indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise InputError(f"{str(file)!r} cannot be written ({error.strerror}). Check the folder.") from error
    sys.stdout.write(printable(f"Wrote {file} and {schema}.\n"))


@config_commands.command()
def check(
    file: FileArgument,
    *,
    connect: Annotated[
        bool, typer.Option("--open", help="Open each index as well, and count its documents.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Check names, values and environment variables; every fault is listed with its line."""
    from splade_retriever.config import RetrieverConfig

    try:
        configs = RetrieverConfig.read_all(file)
        results = {name: _checked(config, connect=connect) for name, config in configs.items()}
    except ConfigurationError as error:
        for fault in error.faults:
            place = str(file) if fault.line is None else f"{file}:{fault.line}"
            print_error(f"{place}: {fault.reason}")
        if not error.faults:
            raise
        raise typer.Exit(1) from error
    failed = [name for name, result in results.items() if "error" in result]
    print_result(lambda: _check_view(results), results, as_json=as_json)
    if failed:
        raise typer.Exit(1)


@config_commands.command()
def show(file: FileArgument, *, as_json: JsonOption = False) -> None:
    """Print every retriever with its defaults; names of environment variables stay names."""
    from splade_retriever.config import RetrieverConfig, to_yaml

    retrievers = {name: config.to_dict() for name, config in RetrieverConfig.read_all(file).items()}
    plain = json.loads(json.dumps({"retrievers": retrievers}))
    print_result(lambda: to_yaml(plain).rstrip(), plain, as_json=as_json)


@config_commands.command()
def schema() -> None:
    """Print the JSON Schema of configuration files."""
    from splade_retriever.config import json_schema

    sys.stdout.write(json.dumps(json_schema(), indent=2) + "\n")


def _checked(config: RetrieverConfig, *, connect: bool) -> dict[str, Any]:
    """Check the environment variables of a configuration, and its index if asked.

    Raises:
        ConfigurationError: If a variable is not set.
    """
    config.check_environment()
    result: dict[str, Any] = {"location": config.location, "collection": config.collection}
    if not connect:
        return result
    try:
        with config.open() as index:
            return {**result, "model": index.model_name, "documents": index.count()}
    except SpladeError as error:
        return {**result, "error": str(error)}


def _check_view(results: dict[str, dict[str, Any]]) -> str:
    lines = []
    for name, result in results.items():
        where = f"{name}: {result['location']}, collection {result['collection']}"
        if "error" in result:
            lines.append(f"{where}: {result['error']}")
        elif "documents" in result:
            lines.append(f"{where}: {result['documents']} documents, model {result['model']}")
        else:
            lines.append(f"{where}: no faults found")
    return os.linesep.join(lines)
