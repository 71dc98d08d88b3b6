"""Archives of models: the same vectors and fingerprint, and no byte that the manifest does not state."""

import hashlib
import io
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from splade_retriever import SparseTextEmbedding
from splade_retriever.cli.commands import app
from splade_retriever.encoding.model_archive import unpack
from splade_retriever.errors import InputError, LicenseError, ModelFilesError
from tests.hub_server import COMMIT, hub_of
from tests.tiny import write_json, write_tiny_model

MODEL = ("model.onnx", "tokenizer.json")
Members = list[tuple[tarfile.TarInfo, bytes]]


@pytest.fixture(scope="module")
def archive(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("archives") / "tiny.tar"
    SparseTextEmbedding(tiny_folder, lazy_load=True).save_archive(path)
    return path


def members(archive: Path) -> Members:
    with tarfile.open(archive) as opened:
        return [(member, _body(opened, member)) for member in opened]


def _body(opened: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = opened.extractfile(member)
    assert file is not None
    return file.read()


def write(path: Path, parts: Members, kind: int = tarfile.USTAR_FORMAT) -> Path:
    with tarfile.open(path, "w", format=kind) as opened:
        for member, body in parts:
            opened.addfile(member, io.BytesIO(body))
    return path


def test_an_archive_has_the_vectors_and_the_fingerprint_of_its_folder(
    tiny: SparseTextEmbedding, archive: Path
) -> None:
    model = SparseTextEmbedding(str(archive))

    assert {**model.fingerprint, "model": ""} == {**tiny.fingerprint, "model": ""}
    assert model.model_name == "tiny"
    assert next(model.embed("moon landing")) == next(tiny.embed("moon landing"))
    names = {member.name for member, _ in members(archive)}
    assert names == {
        "MANIFEST.json",
        "LICENSE.txt",
        "card.json",
        "config.json",
        "model.onnx",
        "tokenizer.json",
    }


def test_the_bundled_model_can_be_archived_by_the_command(
    bundled: SparseTextEmbedding, tmp_path: Path
) -> None:
    path = tmp_path / "model.tar"
    done = CliRunner().invoke(app, ["bundle", bundled.model_name, str(path), "--json"])

    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["fingerprint"] == bundled.fingerprint
    copy = SparseTextEmbedding(path)
    assert copy.fingerprint == bundled.fingerprint
    assert next(copy.query_embed("why do stars explode?")) == next(
        bundled.query_embed("why do stars explode?")
    )


def test_the_same_model_is_the_same_archive(tiny_folder: Path, archive: Path, tmp_path: Path) -> None:
    SparseTextEmbedding(tiny_folder, lazy_load=True).save_archive(tmp_path / "again.tar")

    assert (tmp_path / "again.tar").read_bytes() == archive.read_bytes()


@pytest.mark.usefixtures("catalogue")
def test_an_archive_of_a_published_model_keeps_its_commit_and_its_query_table(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path / "published")
    files = {name: (folder / name).read_bytes() for name in ("model.onnx", "tokenizer.json")}
    files["idf.json"] = b'{"moon": 2.5}'
    SparseTextEmbedding.add_custom_model(
        "me/mine", sources={"hf": "me/repo"}, query_side="idf", license="cc-by-nc-4.0", max_length=32
    )
    with hub_of("me/repo", files, large="model.onnx"):
        online = SparseTextEmbedding("me/mine", cache_dir=tmp_path, accept_license=True, lazy_load=True)
        online.save_archive(tmp_path / "mine.tar")

    with pytest.raises(LicenseError, match=r"cc-by-nc-4\.0"):
        SparseTextEmbedding(tmp_path / "mine.tar")
    offline = SparseTextEmbedding(tmp_path / "mine.tar", accept_license=True)
    assert offline.fingerprint == online.fingerprint
    assert offline.fingerprint["revision"] == COMMIT
    assert next(offline.query_embed("moon")).values.tolist() == [2.5]
    assert next(offline.embed("moon")) == next(online.embed("moon"))
    by_name = SparseTextEmbedding("me/mine", specific_model_path=tmp_path / "mine.tar", accept_license=True)
    assert by_name.fingerprint == online.fingerprint


def test_every_changed_byte_is_refused(archive: Path, tmp_path: Path) -> None:
    content = archive.read_bytes()
    path = tmp_path / "changed.tar"
    with tarfile.open(archive) as opened:
        spans = [(member.offset_data, member.size) for member in opened]
    places = [start + size * part // 7 for start, size in spans for part in range(7) if size]
    places += [start - 512 + offset for start, _ in spans for offset in (0, 100, 124, 148, 156)]
    for place in places:
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(ModelFilesError, match="not an unchanged archive"):
            unpack(path, cache=tmp_path / "cache")
    for length in (0, 100, 600, len(content) // 2):
        path.write_bytes(content[:length])
        with pytest.raises(ModelFilesError, match="not an unchanged archive"):
            unpack(path, cache=tmp_path / "cache")
    assert list((tmp_path / "cache").glob("*")) == []


def renamed(name: str) -> Callable[[Members], None]:
    """Rename a file in the manifest and in the archive."""

    def change(parts: Members) -> None:
        manifest = json.loads(parts[0][1])
        manifest["files"][name] = manifest["files"].pop("config.json")
        body = json.dumps(manifest).encode()
        parts[0][0].size = len(body)
        parts[0] = (parts[0][0], body)
        next(member for member, _ in parts if member.name == "config.json").name = name

    return change


def added(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> Callable[[Members], None]:
    def change(parts: Members) -> None:
        member = tarfile.TarInfo(name)
        member.type, member.linkname = kind, link
        parts.append((member, b""))

    return change


def claimed(size: int) -> Callable[[Members], None]:
    """State another size of a file in the manifest."""

    def change(parts: Members) -> None:
        manifest = json.loads(parts[0][1])
        manifest["files"]["config.json"]["bytes"] = size
        body = json.dumps(manifest).encode()
        parts[0][0].size = len(body)
        parts[0] = (parts[0][0], body)

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (renamed("../config.json"), "names files that an archive"),
        (renamed("/tmp/config.json"), "names files that an archive"),
        (renamed("a/../../b.json"), "names files that an archive"),
        (renamed("a\\..\\b.json"), "names files that an archive"),
        (renamed(".stamps.json"), "names files that an archive"),
        (added("more.json"), "its manifest does not name"),
        (added("link.json", tarfile.SYMTYPE, "/etc/passwd"), "is not a regular file"),
        (added("link.json", tarfile.LNKTYPE, "model.onnx"), "is not a regular file"),
        (added("pipe", tarfile.FIFOTYPE), "is not a regular file"),
        (added("folder", tarfile.DIRTYPE), "is not a regular file"),
        (added("model.onnx"), "its manifest does not name"),
        (lambda parts: parts.pop(), "it ends before"),
        (lambda parts: parts.reverse(), "its first member is not MANIFEST"),
        (claimed(1 << 40), "names files that an archive"),
        (claimed(5), "bytes, expected 5"),
    ],
)
def test_an_archive_that_is_not_as_written_is_refused(
    archive: Path, tmp_path: Path, change: Callable[[Members], None], message: str
) -> None:
    parts = members(archive)
    change(parts)
    path = write(tmp_path / "model.tar", parts)

    with pytest.raises(ModelFilesError, match=message):
        unpack(path, cache=tmp_path / "cache")

    left = {found.name for found in tmp_path.rglob("*") if found.is_file()}
    assert left == {"model.tar"}


def test_extended_headers_are_refused(archive: Path, tmp_path: Path) -> None:
    parts = members(archive)
    parts[1][0].pax_headers = {"path": "../escaped.json"}

    with pytest.raises(ModelFilesError, match="is not a regular file"):
        unpack(write(tmp_path / "model.tar", parts, tarfile.PAX_FORMAT), cache=tmp_path / "cache")


def test_an_unpacked_file_that_changed_is_replaced(archive: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(archive, tmp_path / "model.tar"))
    folder = unpack(path, cache=tmp_path / "cache").folder
    expected = hashlib.sha256((folder / "model.onnx").read_bytes()).digest()
    stamp = (folder / "model.onnx").stat().st_ino
    assert (unpack(path, cache=tmp_path / "cache").folder / "model.onnx").stat().st_ino == stamp

    (folder / "model.onnx").write_bytes(b"changed")
    again = unpack(path, cache=tmp_path / "cache").folder

    assert hashlib.sha256((again / "model.onnx").read_bytes()).digest() == expected


def test_another_extension_is_refused(tiny: SparseTextEmbedding, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"ends in \.tar"):
        tiny.save_archive(tmp_path / "model.zip")


def test_a_card_in_an_archive_keeps_its_place(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path / "mine", name="onnx/model.onnx")
    write_json(folder / "card.json", {"model": "me/mine", "activation": "log1p_log1p"})
    (folder / "LICENSE").write_text("The terms", encoding="utf-8")
    model = SparseTextEmbedding(folder, lazy_load=True)
    model.save_archive(tmp_path / "mine.tar")

    copy = SparseTextEmbedding(tmp_path / "mine.tar", lazy_load=True)

    assert copy.fingerprint == model.fingerprint
    assert (unpack(tmp_path / "mine.tar").folder / "LICENSE").read_text("utf-8") == "The terms"
