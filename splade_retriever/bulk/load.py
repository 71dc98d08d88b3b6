"""Adds the vectors of a Parquet file to an index, without encoding a text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import tee
from pathlib import Path

from splade_retriever.bulk.vectors_file import fingerprint_of, read_rows
from splade_retriever.errors import CollectionMismatchError
from splade_retriever.files.sync import FILE_KEY
from splade_retriever.index.collection_settings import document_side
from splade_retriever.index.splade_index import SpladeIndex

__all__ = ["load_vectors"]


def load_vectors(
    index: SpladeIndex, path: Path, *, on_written: Callable[[Sequence[str]], None] = lambda ids: None
) -> int:
    """Add the passages of a file to an index; return their number.

    Args:
        index: The index; its model must be the one that made the file.
        path: A file that `encode_files` wrote.
        on_written: Called with the ids of each batch that the store acknowledged.

    Raises:
        InputError: If it is not such a file.
        CollectionMismatchError: If another model made it.
    """
    made_by, wanted = (
        document_side(fingerprint) for fingerprint in (fingerprint_of(path), index.model.fingerprint)
    )
    if made_by != wanted:
        differing = sorted(key for key in {*made_by, *wanted} if made_by.get(key) != wanted.get(key))
        raise CollectionMismatchError(
            f"{path} was made by model {made_by.get('model')!r}, and the index uses {wanted.get('model')!r} "
            f"({', '.join(f'{key}: {made_by.get(key)!r}, {wanted.get(key)!r}' for key in differing)}). Pass "
            f"the model that made the file. Nothing was written."
        )
    texts, metadatas, ids, files, encoded, vectors = tee(read_rows(path), 6)
    written = index.add(
        (row.passage.text for row in texts),
        (row.passage.metadata for row in metadatas),
        (row.passage.id for row in ids),
        # As `splade index` stores it, so that a later run of it recognises the passages.
        extras=({FILE_KEY: row.file} for row in files),
        encoded_texts=(
            f"{row.passage.context}\n{row.passage.text}" if row.passage.context else None for row in encoded
        ),
        vectors=(row.vector for row in vectors),
        on_written=on_written,
    )
    return len(written)
