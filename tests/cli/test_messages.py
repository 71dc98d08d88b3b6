"""The advice in messages: every option, command and error class that a message names exists."""

import ast
import asyncio
import builtins
import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import typer

from splade_retriever import errors
from splade_retriever.cli.commands import app

PACKAGE = Path(__file__).parents[2] / "splade_retriever"
GROUP: Any = typer.main.get_command(app)
OPTIONS = {"--help", "--version"} | {
    option
    for group in GROUP.commands.values()
    for command in (group, *getattr(group, "commands", {}).values())
    for parameter in command.params
    for option in (*parameter.opts, *parameter.secondary_opts)
}


def strings(tree: ast.AST) -> Iterator[str]:
    """Every string of a module, docstrings of the command line included: --help prints them."""
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            constants = [part.value for part in node.values if isinstance(part, ast.Constant)]
            yield "".join(map(str, constants))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


@functools.cache
def messages() -> list[tuple[str, str]]:
    """Every string of the package, with its module."""
    return [
        (path.relative_to(PACKAGE).as_posix(), text)
        for path in sorted(PACKAGE.rglob("*.py"))
        for text in strings(ast.parse(path.read_text("utf-8")))
    ]


def named(pattern: str) -> set[tuple[str, str]]:
    return {(module, found) for module, text in messages() for found in re.findall(pattern, text)}


OF_OTHER_PROGRAMS = {
    ("encoding/batch_plan.py", "--query-gpu"),  # nvidia-smi
    ("encoding/batch_plan.py", "--format"),
    ("encoding/batch_plan.py", "--id"),
    ("maintenance/diagnosis/server_checks.py", "--upgrade"),  # pip install
}


def test_every_option_in_a_message_exists() -> None:
    options = named(r"(?<![\w`-])--[a-z][a-z-]+\b")

    assert len(options) > 30
    assert {(module, option) for module, option in options if option not in OPTIONS} == OF_OTHER_PROGRAMS


def test_every_command_in_a_message_exists() -> None:
    commands = named(r"`splade ([a-z]+)")

    assert len(commands) > 5
    assert {(module, name) for module, name in commands if name not in GROUP.commands} == set()


def test_every_error_class_in_a_message_exists() -> None:
    names = named(r"\b([A-Z]\w+Error)\b")
    internal = {
        node.name
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.ClassDef)
    }

    assert len(names) > 10
    known = {*errors.__all__, *internal, *dir(builtins), *dir(asyncio), *dir(httpx)}
    known |= {"OnError", "DuplicateDocumentError", "RpcError"}  # of index.ingest, Haystack and gRPC
    assert {(module, name) for module, name in names if name not in known} == set()


@pytest.mark.parametrize("name", errors.__all__)
def test_every_error_class_is_a_splade_error(name: str) -> None:
    assert issubclass(getattr(errors, name), errors.SpladeError)
