"""Reads PDF, DOCX, PPTX, HTML, EPUB and Jupyter notebooks as Markdown, with pages where there are pages."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from io import BytesIO
from typing import Any, BinaryIO, Final

from splade_retriever.errors import MissingExtraError

__all__ = ["DOCUMENTS", "DocumentError", "DocumentPart", "document_parts"]

_EXTRA: Final = 'pip install "splade-retriever[files]"'
_MAX_BYTES: Final = 2**28
"""Of a file, and of the content of a zip archive, which DOCX, PPTX and EPUB are."""
_SLIDE: Final = re.compile(r"<!-- Slide number: (\d+) -->")
_BROKEN_WORD: Final = re.compile("[\ufffe\u00ad]\\s*")
"""How PDFium marks a hyphen at the end of a line."""


class DocumentError(ValueError):
    """A file cannot be converted to text; the message completes the sentence that the file's name begins."""


@dataclass(frozen=True, slots=True)
class DocumentPart:
    """A page, a slide, or a complete document without pages."""

    text: str
    """Markdown."""
    page: int | None = None
    """The page or slide, from 1."""


def document_parts(file: BinaryIO, suffix: str) -> Iterator[DocumentPart]:
    """Yield the parts of a document in order.

    Args:
        file: The open file.
        suffix: Its extension, one of `DOCUMENTS`.

    Raises:
        DocumentError: If the file is damaged, protected, or too large.
        MissingExtraError: If the packages that read this kind are not installed.
    """
    content = file.read(_MAX_BYTES + 1)
    if len(content) > _MAX_BYTES:
        raise DocumentError(f"has more than {_MAX_BYTES:,} bytes; split it")
    try:
        yield from _READERS[suffix](content, suffix)
    except (DocumentError, MissingExtraError):
        raise
    except Exception as error:
        raise DocumentError(
            f"cannot be converted to text ({type(error).__name__}); is it damaged?"
        ) from error


def _pdf_parts(content: bytes, suffix: str) -> Iterator[DocumentPart]:
    try:
        import pypdfium2
    except ModuleNotFoundError as error:
        raise _missing(suffix) from error
    try:
        document = pypdfium2.PdfDocument(content)
    except pypdfium2.PdfiumError as error:
        if "password" in str(error).lower():
            raise DocumentError("is protected by a password; save it without one") from error
        raise
    with closing(document):  # in pypdfium2 4 a document is not a context manager
        for number, page in enumerate(document, start=1):
            text = page.get_textpage().get_text_bounded()
            page.close()
            plain = _BROKEN_WORD.sub("", text.replace("\r\n", "\n"))
            yield DocumentPart(plain, number)


def _markdown_parts(content: bytes, suffix: str) -> Iterator[DocumentPart]:
    try:
        from markitdown import MarkItDown, StreamInfo
    except ModuleNotFoundError as error:
        raise _missing(suffix) from error
    if suffix in _ARCHIVES:
        _check_archive(content)
    # The extension is known, so nothing is guessed and no plugin of the environment runs.
    converter = MarkItDown(enable_plugins=False)
    markdown = converter.convert_stream(BytesIO(content), stream_info=StreamInfo(extension=suffix)).markdown
    pieces = _SLIDE.split(markdown)
    if pieces[0].strip():
        yield DocumentPart(pieces[0])
    for number, text in zip(pieces[1::2], pieces[2::2], strict=True):
        yield DocumentPart(text, int(number))


def _check_archive(content: bytes) -> None:
    """Check the size of an archive's content before anything is unpacked.

    Raises:
        DocumentError: If it is too large.
    """
    with zipfile.ZipFile(BytesIO(content)) as archive:
        size = sum(entry.file_size for entry in archive.infolist())
    if size > _MAX_BYTES:
        raise DocumentError(f"holds {size:,} bytes, expected at most {_MAX_BYTES:,}")


def _notebook_parts(content: bytes, suffix: str) -> Iterator[DocumentPart]:
    notebook = json.loads(content)
    cells: Any = notebook["cells"] if isinstance(notebook, dict) else None
    if not isinstance(cells, list):
        raise DocumentError("has no list of cells; is it a notebook of format 4?")
    texts = []
    for cell in cells:
        source = cell.get("source", "")
        text = "".join(source) if isinstance(source, list) else str(source)
        if cell.get("cell_type") in ("markdown", "code") and text.strip():
            texts.append(text if cell["cell_type"] == "markdown" else f"```\n{text}\n```")
    yield DocumentPart("\n\n".join(texts))


def _missing(suffix: str) -> MissingExtraError:
    return MissingExtraError(f"{suffix} files need an extra package. Run: {_EXTRA}")


_ARCHIVES: Final = frozenset({".docx", ".pptx", ".epub"})
_READERS: Final[Mapping[str, Callable[[bytes, str], Iterator[DocumentPart]]]] = {
    ".pdf": _pdf_parts,
    ".docx": _markdown_parts,
    ".pptx": _markdown_parts,
    ".epub": _markdown_parts,
    ".html": _markdown_parts,
    ".htm": _markdown_parts,
    ".xhtml": _markdown_parts,
    ".ipynb": _notebook_parts,
}
DOCUMENTS: Final = frozenset(_READERS)
"""Extensions that `document_parts` reads."""
