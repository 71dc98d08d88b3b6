"""Copy an index folder, so that it can be read without writing to it.

The engine writes to its files even when it only reads, so a reader needs separate files. Hard links would
share their content. A copy of 50,000 documents (102 MB) takes 0.17 s, and the first search is answered 0.56 s
after opening, 0.28 s without a copy (2 shared cores).
"""

import os
import shutil
from pathlib import Path

from splade_retriever.edge.layout import check_regular

__all__ = ["copy_folder"]


def copy_folder(source: Path, target: Path) -> None:
    """Copy the collections of an index folder, without the holes of reserved files.

    Raises:
        StorageError: If there is anything but folders and regular files.
    """
    collections = source / "collections"
    if not collections.is_dir():
        return
    check_regular(collections, hard_links=True)
    for parent, _, files in os.walk(collections):
        place = target / Path(parent).relative_to(source)
        place.mkdir(exist_ok=True)
        for name in files:
            _copy_file(Path(parent, name), place / name)


def _copy_file(source: Path, target: Path) -> None:
    if not hasattr(os, "SEEK_DATA"):
        shutil.copyfile(source, target)
        return
    with source.open("rb", buffering=0) as reader, target.open("wb", buffering=0) as writer:
        end = os.fstat(reader.fileno()).st_size
        writer.truncate(end)
        position = 0
        while position < end:
            try:
                start = os.lseek(reader.fileno(), position, os.SEEK_DATA)
            except OSError:  # only a hole is left
                return
            position = os.lseek(reader.fileno(), start, os.SEEK_HOLE)
            os.lseek(reader.fileno(), start, os.SEEK_SET)
            os.lseek(writer.fileno(), start, os.SEEK_SET)
            left = position - start
            while left and (piece := reader.read(min(left, 2**22))):
                writer.write(piece)
                left -= len(piece)
