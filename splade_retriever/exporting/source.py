"""Finds the model to export: a folder, a model of the catalogue, or a repository on the hub."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from splade_retriever.encoding.model_cards import Activation, Catalogue, ModelCard, published
from splade_retriever.encoding.model_files import check_license
from splade_retriever.encoding.model_folder import Checkpoint, open_checkpoint
from splade_retriever.errors import ModelFilesError

if TYPE_CHECKING:
    from splade_retriever.encoding.hub import Snapshot

__all__ = ["Source", "find_source"]

_README: Final = "README.md"
_TEXTS: Final = re.compile(r"(?i).*\.(json|txt|jinja|model|spm)|(.*/)?(readme|licen[cs]e|notice)[^/]*")
_SAFE_WEIGHTS: Final = re.compile(r"(?i)(.*/)?model(-\d+-of-\d+)?\.safetensors")
_PICKLED_WEIGHTS: Final = re.compile(r"(?i)(.*/)?pytorch_model(-\d+-of-\d+)?\.bin")
_OTHER_FOLDERS: Final = ("onnx/", "openvino/", "runs/", "checkpoint-", ".")
_LICENSE: Final = re.compile(r"(?m)^license:[ \t]*['\"]?([\w.+-]+)['\"]?[ \t]*$")
_LICENSE_NAME: Final = re.compile(r"(?m)^license_name:[ \t]*['\"]?([\w.+-]+)['\"]?[ \t]*$")


@dataclass(frozen=True, slots=True)
class Source:
    """A model to export, on this machine.

    Attributes:
        folder: Its files.
        checkpoint: What the files say.
        repository: Where they come from; None for a folder.
        commit: The commit of the repository.
    """

    folder: Path
    checkpoint: Checkpoint
    repository: str | None = None
    commit: str | None = None

    @property
    def card(self) -> ModelCard:
        """The description of the model."""
        return self.checkpoint.card

    @property
    def terms(self) -> list[Path]:
        """The files with the licence and the description of the model."""
        return sorted(path for path in self.folder.glob("*") if _is_terms(path.name) and path.is_file())


def find_source(
    model: str | Path,
    *,
    activation: Activation | None,
    revision: str | None,
    cache_dir: str | Path | None,
    local_files_only: bool,
    accept_license: bool,
    trust_remote_code: bool,
) -> Source:
    """Find the files of a model, and download those of a repository.

    Args:
        model: The path of a folder, a name of the catalogue, or "owner/name" on the hub. A known name wins
            over a folder of that name.
        activation: The activation, for a model whose files do not state it.
        revision: The commit, branch or tag of the repository.
        cache_dir: The folder for downloads; None is huggingface_hub's cache.
        local_files_only: Never use the network.
        accept_license: The user accepts a non-commercial licence.
        trust_remote_code: Download the Python files of the repository, too.

    Raises:
        LicenseError: If the licence is non-commercial and was not accepted; no weights are downloaded before.
        ModelFilesError: If a file is missing and could not be downloaded.
        ModelGraphError: If the model is not a SPLADE model, or pooled in a way that is not supported.
    """
    card = Catalogue(published()).find(model) if isinstance(model, str) else None
    if card is not None:
        card = replace(card, export_needed=False, model_file="model.onnx", additional_files=(), revision=None)
        check_license(card, accepted=accept_license)
    folder = Path(model).expanduser()
    repository = commit = None
    if card is not None or not folder.is_dir():
        # The repository with the ONNX file may not be the one with the checkpoint.
        repository = card.model if card else _repository(str(model))
        files = _RepositoryReader(repository, cache_dir, local_files_only)
        folder, commit = files.read(revision, accept_license=accept_license, with_code=trust_remote_code)
    checkpoint = open_checkpoint(folder, card, activation=activation)
    if card is None:
        stated = checkpoint.card.license or _stated_license(folder)
        name = repository or checkpoint.card.model
        checkpoint = replace(checkpoint, card=replace(checkpoint.card, model=name, license=stated))
        check_license(checkpoint.card, accepted=accept_license)
    return Source(folder, checkpoint, repository, commit)


@dataclass(frozen=True, slots=True)
class _RepositoryReader:
    """Downloads what an export needs of one repository."""

    repository: str
    cache_dir: str | Path | None
    local_files_only: bool

    def read(self, revision: str | None, *, accept_license: bool, with_code: bool) -> tuple[Path, str]:
        """Return the folder of the files and their commit."""
        from splade_retriever.encoding.hub import list_files

        listed = list_files(
            self.repository,
            model=self.repository,
            revision=revision,
            cache_dir=self.cache_dir,
            local_files_only=self.local_files_only,
        )
        needed = self._needed(listed, with_code=with_code)
        # The first file resolves the revision; all others come from that very commit.
        first = self._fetch([_README if _README in needed else needed[0]], revision)
        stated = ModelCard(model=self.repository, license=_stated_license(first.folder))
        check_license(stated, accepted=accept_license)
        snapshot = self._fetch(needed, first.revision)
        return snapshot.folder, snapshot.revision

    def _fetch(self, names: Sequence[str], revision: str | None) -> Snapshot:
        from splade_retriever.encoding.hub import fetch

        return fetch(
            self.repository,
            names,
            model=self.repository,
            revision=revision,
            cache_dir=self.cache_dir,
            local_files_only=self.local_files_only,
        )

    def _needed(self, names: Sequence[str], *, with_code: bool) -> list[str]:
        own = [name for name in names if not name.startswith(_OTHER_FOLDERS)]
        weights = [name for name in own if _SAFE_WEIGHTS.fullmatch(name)]
        weights = weights or [name for name in own if _PICKLED_WEIGHTS.fullmatch(name)]
        if not weights:
            raise ModelFilesError(
                f"The repository {self.repository!r} has no weights of PyTorch (model.safetensors or "
                f"pytorch_model.bin; files found: {', '.join(names[:20]) or 'none'}). Pass a repository that "
                f"has them."
            )
        texts = [name for name in own if _TEXTS.fullmatch(name)]
        code = [name for name in own if name.endswith(".py")] if with_code else []
        return list(dict.fromkeys([*texts, *code, *weights]))


def _repository(model: str) -> str:
    if re.fullmatch(r"[\w.-]+/[\w.-]+", model) and not model.startswith("."):
        return model
    raise ModelFilesError(
        f"There is no model folder {model}, and it is not a name on the hub (owner/name). Check the path."
    )


def _stated_license(folder: Path) -> str:
    """Return the licence in the head of the README; "" if it states none."""
    path = folder / _README
    text = path.read_text(encoding="utf-8", errors="replace")[:100_000] if path.is_file() else ""
    head = text.split("\n---", 1)[0] if text.startswith("---") else ""
    found = _LICENSE.search(head)
    if found is None:
        return ""
    named = _LICENSE_NAME.search(head)
    return (named or found)[1].lower() if found[1] == "other" else found[1].lower()


def _is_terms(name: str) -> bool:
    return name.lower().startswith(("readme.md", "license", "licence", "notice"))
