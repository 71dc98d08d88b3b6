"""Hooks of mkdocs: pages made of the repository's own files and of the code, and links out of `docs/`."""

import os
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from pymdownx.superfences import fence_code_format

ROOT: Final = Path(__file__).parents[2]
_SOURCES: Final = "https://github.com/splade-retriever/splade-retriever/blob/main/"
_MERMAID: Final = "assets/javascripts/mermaid.min.js"
_META: Final[dict[str, dict[str, Any]]] = {
    "start.md": {"hide": ["toc"]},  # room for the width of a terminal
    "troubleshooting.md": {"search": {"boost": 3}},
}
_LINK: Final = re.compile(r"(?<=\]\()(?!https?://|#|mailto:)([^)\s]+)(?=\))")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Draw diagrams where `MERMAID_JS` names the file of Mermaid; else their source is shown.

    The theme would load Mermaid from another host.
    """
    if os.environ.get("MERMAID_JS"):
        fence = {"name": "mermaid", "class": "mermaid", "format": fence_code_format}
        config.mdx_configs["pymdownx.superfences"] = {"custom_fences": [fence]}
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are not in `docs/`; the start page is the README."""
    index = files.get_file_from_path("index.md")
    if index is not None:
        index.dest_uri = "the_index/index.html"
        index.url = "the_index/"
    pages = {
        "start.md": _from_root((ROOT / "README.md").read_text("utf-8")),
        "changes.md": _from_root((ROOT / "CHANGELOG.md").read_text("utf-8")),
        "reference/commands.md": _commands(),
        "reference/configuration.md": _configuration(),
    }
    for path, content in pages.items():
        page = File.generated(config, path, content=content)
        if path == "start.md":
            page.dest_uri, page.url = "index.html", "./"
        files.append(page)
    if script := os.environ.get("MERMAID_JS"):
        files.append(File.generated(config, _MERMAID, content=Path(script).read_bytes()))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Point links to files outside `docs/` to the repository, and set what front matter would set.

    Front matter would be shown as a table where the pages are read in the repository.
    """
    page.meta.update(_META.get(page.file.src_uri, {}))
    folder = posixpath.dirname(page.file.src_uri)

    def target(found: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join("docs", folder, found[1]))
        return found[1] if path.startswith("docs/") else _SOURCES + path

    return _LINK.sub(target, markdown)


def on_post_page(output: str, page: Page, **_: Any) -> str:
    """Load Mermaid on pages with a diagram."""
    if '<pre class="mermaid">' not in output:
        return output
    script = posixpath.relpath(_MERMAID, page.url or ".")
    return output.replace("</head>", f'<script src="{script}"></script></head>', 1)


def _from_root(markdown: str) -> str:
    """Turn links of a page at the root of the repository into links from `docs/`."""

    def target(found: re.Match[str]) -> str:
        return found[1].removeprefix("docs/") if found[1].startswith("docs/") else f"../{found[1]}"

    return _LINK.sub(target, markdown)


def _commands() -> str:
    from splade_retriever.cli.commands import app

    group: Any = typer.main.get_command(app)
    return "# Commands\n\nMade of the command line's own help.\n\n" + "\n".join(
        _command_tree(group, "splade")
    )


def _command_tree(group: Any, name: str) -> Iterator[str]:
    for command_name, command in group.commands.items():
        full_name = f"{name} {command_name}"
        yield f"## {full_name}\n\n{_paragraphs(command.help or '')}\n"
        if hasattr(command, "commands"):
            yield from _command_tree(command, full_name)
            continue
        yield "| argument or option | meaning | default |\n|---|---|---|"
        for parameter in command.params:
            yield _parameter_row(parameter)
        yield ""


def _parameter_row(parameter: Any) -> str:
    names = ", ".join(f"`{name}`" for name in (*parameter.opts, *parameter.secondary_opts))
    if parameter.param_type_name == "argument":
        names = f"`{parameter.metavar or parameter.name.upper()}`"
    text = _cell(parameter.help or "")
    if parameter.envvar:
        text += f" Environment variable: `{parameter.envvar}`."
    default = parameter.default
    shown = "required" if parameter.required else "" if default in (None, False, ()) else f"`{default}`"
    return f"| {names} | {text} | {shown} |"


def _configuration() -> str:
    from splade_retriever.config import json_schema

    lines = [
        "# Configuration reference",
        "",
        "Made of the schema of [configuration files](../configuration.md).",
        "",
        "| field | type | meaning |",
        "|---|---|---|",
    ]
    properties = json_schema()["oneOf"][0]["properties"]
    for name, schema in properties.items():
        if name != "$schema":
            lines.append(f"| `{name}` | {_type(schema)} | {_cell(schema.get('description', ''))} |")
    for name in ("index", "encoder"):
        lines += ["", f"## {name}", "", "| argument | type |", "|---|---|"]
        arguments = properties[name]["properties"]
        lines += [f"| `{argument}` | {_type(schema)} |" for argument, schema in arguments.items()]
    return "\n".join(lines) + "\n"


def _type(schema: dict[str, Any]) -> str:
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_type(option) for option in schema["anyOf"]))
    if "$ref" in schema:
        return schema["$ref"].rpartition("/")[2]
    return str(schema.get("type", "any"))


def _paragraphs(text: str) -> str:
    return "\n".join(line.strip() for line in text.splitlines())


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
