"""From a model's name or folder to its files: the catalogue, the licence, the download and the revision."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from splade_retriever.encoding.model_archive import is_archive, unpack
from splade_retriever.encoding.model_cards import Catalogue, ModelCard
from splade_retriever.encoding.model_folder import (
    DIGEST,
    QUERY_TABLE,
    ModelFolder,
    choose_model,
    export_help,
    find_model,
    has_quantised_name,
    open_folder,
)
from splade_retriever.encoding.model_root import ContentStamp, ModelRoot, content_stamp, sha256
from splade_retriever.errors import InputError, LicenseError, ModelFilesError, UnknownModelError
from splade_retriever.validation import type_name

__all__ = [
    "ModelFiles",
    "ModelSource",
    "bundled_doc_folder",
    "bundled_folder",
    "bundled_names",
    "check_license",
    "locate",
]

logger = logging.getLogger(__name__)

_BUNDLED: Final = Path(__file__).parents[1] / "bundled"
_BUNDLED_DOC: Final = Path(__file__).parents[1] / "bundled_doc"
_ACCEPTED: Final = "SPLADE_ACCEPT_LICENSE"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSource:
    """Where the files of a model may come from.

    Attributes:
        specific_model_path: A folder or an archive that holds them, in place of a download.
        cache_dir: The folder for downloads; None is huggingface_hub's cache.
        local_files_only: Never use the network.
        revision: The commit, branch or tag, or the digest of a folder; None is the card's.
        accept_license: The user accepts a non-commercial licence.
    """

    specific_model_path: str | os.PathLike[str] | None = None
    cache_dir: str | os.PathLike[str] | None = None
    local_files_only: bool = False
    revision: str | None = None
    accept_license: bool = False


def bundled_folder() -> ModelFolder:
    """Return the model that ships in the package."""
    return open_folder(_BUNDLED)


def bundled_doc_folder() -> ModelFolder:
    """Return the bundled model whose queries need no network.

    It shares the network and the tokenizer of the first, so both give a document the same vector. Only its
    card and its table of query weights are separate.
    """
    card = ModelRoot(_BUNDLED_DOC).read_json("card.json") or {}
    return replace(
        bundled_folder(),
        path=_BUNDLED_DOC,
        card=ModelCard(**ModelCard.known_fields(card)),
        query_weights=_BUNDLED_DOC / QUERY_TABLE,
    )


def bundled_names() -> tuple[str, str]:
    """Return the names of the models that ship in the package, the default first."""
    return bundled_folder().card.model, bundled_doc_folder().card.model


def locate(
    model_name: str | os.PathLike[str] | None, source: ModelSource, *, catalogue: Catalogue, lazy: bool
) -> ModelFiles:
    """Find the files of a model, and download those of a published one.

    Args:
        model_name: The name of a bundled model or one of the catalogue, in any case, or the path of a
            folder or an archive; None is the bundled model. A name wins over a folder of that name.
        source: Where the files may come from.
        catalogue: The models known by name.
        lazy: Leave the ONNX file of a model whose queries do not need it for `ModelFiles.onnx_file`.

    Raises:
        InputError: If an argument has another type.
        UnknownModelError: If no model has that name, or the files have another revision.
        LicenseError: If the licence is non-commercial and was not accepted; nothing is downloaded before.
        ModelFilesError: If a file is missing and could not be downloaded.
    """
    _check_types(model_name, source)
    path = source.specific_model_path
    if model_name is None and path is None:
        return _local(bundled_folder(), None, source)
    card = catalogue.find(model_name) if isinstance(model_name, str) else None
    if card is not None:
        check_license(card, accepted=source.accept_license)
        if path is None:
            return _published(card, source, lazy=lazy)
        return _local(*_opened(Path(path).expanduser(), card), source)
    if isinstance(model_name, str) and path is None:
        for bundled in (bundled_folder(), bundled_doc_folder()):
            if model_name.lower() == bundled.card.model.lower():
                return _local(bundled, None, source)
    folder = Path(path if path is not None else model_name or "").expanduser()
    # Path("") is the working folder, which nobody means by an empty name.
    exists = folder.is_dir() or is_archive(folder)
    if isinstance(model_name, str) and path is None and not (model_name and exists):
        raise catalogue.unknown(model_name, bundled_names())
    opened, commit = _opened(folder)
    if isinstance(model_name, str) and path is not None:
        opened = replace(opened, card=replace(opened.card, model=model_name))
    check_license(opened.card, accepted=source.accept_license)
    return _local(opened, commit, source)


def _check_types(model_name: object, source: ModelSource) -> None:
    paths = {
        "model_name": model_name,
        "specific_model_path": source.specific_model_path,
        "cache_dir": source.cache_dir,
    }
    for name, value in paths.items():
        if value is not None and not isinstance(value, str | os.PathLike):
            raise InputError(f"{name} is {type_name(value)}, expected a str, a path or None.")
    if source.revision is not None and not isinstance(source.revision, str):
        raise InputError(f"revision is {type_name(source.revision)}, expected a str or None.")


def _opened(path: Path, card: ModelCard | None = None) -> tuple[ModelFolder, str | None]:
    """Open a folder or an archive; return its files and, for an archive, the commit that it states."""
    if not is_archive(path):
        return open_folder(path, card), None
    archive = unpack(path)
    return open_folder(archive.folder, card), archive.commit


class ModelFiles:
    """The located files of one model; safe to share between threads.

    Attributes:
        folder: The files that are on this machine.
        card: The description of the model.
    """

    def __init__(self, folder: ModelFolder, source: ModelSource, *, commit: str | None = None) -> None:
        self.folder, self.card = folder, folder.card
        self._source, self._commit = source, commit
        self._digest: str | None = None
        self._document_digest: str | None = None
        self._stamps: dict[Path, ContentStamp] = {}
        self._small_files = {
            path: sha256(path) for path in (folder.tokenizer, folder.query_weights) if path is not None
        }

    @property
    def tokenizer_digest(self) -> bytes:
        """The SHA-256 digest of the tokenizer file when the model was opened."""
        return self._small_files[self.folder.tokenizer]

    @property
    def commit(self) -> str | None:
        """The commit of a downloaded model; None for a folder."""
        return self._commit

    @property
    def revision(self) -> str:
        """The commit of a downloaded model, or a digest of the files of a folder.

        Raises:
            ModelFilesError: If a file changed since the model was opened.
        """
        if self._commit is not None:
            return self._commit
        if self._digest is None:
            stamps = self._current_stamps()
            digest = self.folder.digest()
            self._check_small_files()
            self._stamps, self._digest = stamps, digest
        return self._digest

    @property
    def document_revision(self) -> str:
        """The revision of the files that decide a document's vector: all but the table of query weights.

        Raises:
            ModelFilesError: If a file changed since the model was opened.
        """
        revision = self.revision
        if self._document_digest is None:
            documents = replace(self.folder, query_weights=None)
            self._document_digest = revision if self._commit is not None else documents.digest()
        return self._document_digest

    def onnx_file(self) -> Path:
        """Return the path of the ONNX file, and download it where that was left for later.

        Raises:
            ModelFilesError: If it could not be downloaded.
        """
        if self.folder.model is not None:
            return self.folder.model
        # The commit was resolved with the first files; the ONNX file comes from that very commit.
        card, folder, _ = _fetch_all(self.card, replace(self._source, revision=self._commit))
        if has_quantised_name(card.model_file) != has_quantised_name(self.card.model_file):
            raise ModelFilesError(
                f"Model {card.model!r} has no {self.card.model_file} in its repository, only "
                f"{card.model_file}. Pass lazy_load=False, or state that file with model_file=."
            )
        return find_model(ModelRoot(folder), [card.model_file])

    def check_unchanged(self) -> None:
        """Check that the files are still those of the revision.

        Raises:
            ModelFilesError: If a file changed since the model was opened.
        """
        if self._commit is not None:
            return
        revision = self.revision
        stamps = self._current_stamps()
        if stamps == self._stamps:
            return
        # A new link or new permissions change the stamp too: the content decides.
        if self.folder.digest() != revision:
            raise self._changed()
        self._stamps = stamps

    def _current_stamps(self) -> dict[Path, ContentStamp]:
        return {path: content_stamp(path) for path in self.folder.weight_files}

    def _check_small_files(self) -> None:
        if any(sha256(path) != digest for path, digest in self._small_files.items()):
            raise self._changed()

    def _changed(self) -> ModelFilesError:
        return ModelFilesError(
            f"The model folder {self.folder.tokenizer.parent} changed after the model was opened, so its "
            f"vectors would not have the recorded revision. Open the model again."
        )


def _published(card: ModelCard, source: ModelSource, *, lazy: bool) -> ModelFiles:
    if source.revision is not None and source.revision.startswith(DIGEST):
        raise UnknownModelError(
            f"Revision {source.revision} of model {card.model!r} is the digest of a folder, not a commit "
            f"of {card.source!r}. Pass that folder with specific_model_path=."
        )
    if card.export_needed:
        found_card = _with_published_file(card, source)
        if found_card is None:
            raise ModelFilesError(export_help(card))
        card = found_card
    deferred = lazy and card.query_side != "symmetric"
    if deferred:
        folder, commit = _fetch(card, ("tokenizer.json", *card.query_files), source)
    else:
        card, folder, commit = _fetch_all(card, source)
    quantised = has_quantised_name(card.model_file)
    found = ModelFolder(
        path=folder,
        card=replace(card, precision="int8") if quantised else card,
        model=None if deferred else folder / card.model_file,
        finished=quantised,
        tokenizer=folder / "tokenizer.json",
        query_weights=folder / "idf.json" if card.query_side == "idf" else None,
    )
    return ModelFiles(found, source, commit=commit)


def _fetch_all(card: ModelCard, source: ModelSource) -> tuple[ModelCard, Path, str]:
    """Fetch all files; return the card with the ONNX file that was found, the folder and the commit."""
    try:
        return card, *_fetch(card, card.files, source)
    except ModelFilesError:
        # The repository, or offline the cache, may have the ONNX file under another name.
        other = _with_published_file(card, source)
        if other is None or other.model_file == card.model_file:
            raise
        logger.warning(
            "Model %r is read from %s: %s was not found.", card.model, other.model_file, card.model_file
        )
        return other, *_fetch(other, other.files, source)


def _with_published_file(card: ModelCard, source: ModelSource) -> ModelCard | None:
    """Return the card with the ONNX file that its repository has, wherever it lies; None if it has none.

    Without a connection the files in the cache are listed.
    """
    names = _listed(card, source)
    chosen = choose_model(names, card.model_file)
    if chosen is None:
        return None
    beside = tuple(name for name in names if name in (f"{chosen}_data", f"{chosen}.data"))
    return replace(card, model_file=chosen, additional_files=(*card.additional_files, *beside))


def _listed(card: ModelCard, source: ModelSource) -> list[str]:
    from splade_retriever.encoding.hub import list_files

    for local_files_only in dict.fromkeys((source.local_files_only, True)):
        try:
            return list_files(
                card.source or card.model,
                model=card.model,
                revision=source.revision or card.revision,
                cache_dir=None if source.cache_dir is None else Path(source.cache_dir),
                local_files_only=local_files_only,
            )
        except ModelFilesError as error:
            logger.info("The files of model %r cannot be listed: %s", card.model, error)
    return []


def _fetch(card: ModelCard, files: Sequence[str], source: ModelSource) -> tuple[Path, str]:
    """Return the folder of a published model and its commit."""
    from splade_retriever.encoding.hub import fetch

    snapshot = fetch(
        card.source or card.model,
        files,
        model=card.model,
        revision=source.revision or card.revision,
        cache_dir=None if source.cache_dir is None else Path(source.cache_dir),
        local_files_only=source.local_files_only,
    )
    return snapshot.folder, snapshot.revision


def _local(folder: ModelFolder, commit: str | None, source: ModelSource) -> ModelFiles:
    """Compare the revision of a folder with the requested one, if any."""
    files = ModelFiles(folder, source, commit=commit)
    if source.revision is not None and source.revision != files.revision:
        raise UnknownModelError(
            f"The model {folder.card.model!r} in {folder.tokenizer.parent} has revision {files.revision}, "
            f"not {source.revision}. Leave revision= out, or open the folder that holds that revision."
        )
    return files


def check_license(card: ModelCard, *, accepted: bool) -> None:
    """Check that a non-commercial licence was accepted, by argument or by SPLADE_ACCEPT_LICENSE.

    Raises:
        LicenseError: If it was not.
    """
    if not card.non_commercial or accepted:
        return
    named = {part.strip().lower() for part in os.environ.get(_ACCEPTED, "").split(",")}
    if named & {card.license.lower(), card.model.lower()}:
        return
    raise LicenseError(
        f"Model {card.model!r} has the licence {card.license}, which forbids commercial use; nothing was "
        f"downloaded. If you have read the licence and comply with it, pass accept_license=True or set "
        f"{_ACCEPTED}={card.license}. list_supported_models() shows models without that limit."
        f"{f' {export_help(card)}' if card.export_needed else ''}"
    )
