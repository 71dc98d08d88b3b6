"""The `splade` command: index files, search them, and inspect models and indexes.

Results go to stdout, everything else (progress, warnings, errors) to stderr. Exit status: 0 for success, 1
for an error that the message explains, 2 for wrong usage, 130 for an interrupt.
"""

from __future__ import annotations

import os
import sys
from typing import Annotated, Any, Final

import typer
from typer.core import TyperGroup

from splade_retriever import __version__
from splade_retriever.cli.agent_commands import mcp
from splade_retriever.cli.config_commands import config_commands
from splade_retriever.cli.document_commands import delete, list_files, optimize
from splade_retriever.cli.evaluation_commands import evaluate, tune
from splade_retriever.cli.index_commands import index, info
from splade_retriever.cli.maintenance_commands import doctor, migrate, reindex
from splade_retriever.cli.model_commands import bundle
from splade_retriever.cli.output import print_error, print_warnings_of_the_package, use_any_encoding
from splade_retriever.cli.search_commands import encode, explain, models, search, why_not
from splade_retriever.cli.training_commands import adapt, export
from splade_retriever.cli.web_commands import serve
from splade_retriever.errors import SpladeError

__all__ = ["app", "main"]

_INTERRUPTED: Final = 130
_DEBUG: Final = "SPLADE_DEBUG"


class _CommandGroup(TyperGroup):
    """Turns errors and interrupts into one message on stderr and an exit status."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except SpladeError as error:
            print_error(str(error))
            raise typer.Exit(1) from error
        except KeyboardInterrupt:
            print_error("interrupted.")
            raise typer.Exit(_INTERRUPTED) from None


app = typer.Typer(
    cls=_CommandGroup,
    help="SPLADE retrieval in the terminal: index files, search them, see why each hit was found.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _command in (
    index,
    search,
    why_not,
    explain,
    encode,
    models,
    info,
    delete,
    optimize,
    migrate,
    reindex,
    doctor,
):
    app.command()(_command)
app.command("list")(list_files)
app.command("eval")(evaluate)
app.command()(tune)
app.command()(adapt)
app.command()(export)
app.command()(bundle)
app.command()(mcp)
app.command()(serve)
app.add_typer(config_commands, name="config")


def _print_version(requested: bool) -> None:
    if requested:
        sys.stdout.write(f"splade-retriever {__version__}\n")
        raise typer.Exit


@app.callback()
def _root(
    *,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    """Take the options before the command."""


def main() -> None:
    """Run the `splade` command."""
    use_any_encoding()
    print_warnings_of_the_package()
    try:
        app(prog_name="splade")
    except Exception as error:
        if os.environ.get(_DEBUG):
            raise
        print_error(
            f"unexpected {type(error).__name__}: {error}\nThis is a bug in splade-retriever. Set {_DEBUG}=1 "
            "to see where it happened."
        )
        sys.exit(1)


if __name__ == "__main__":
    main()
