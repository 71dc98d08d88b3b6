"""Encoding files to Parquet: the same vectors, resumed after a kill, sharded, and loaded into an index."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from splade_retriever import SparseEmbedding, SparseTextEmbedding, SpladeIndex
from splade_retriever.cli.commands import app
from splade_retriever.errors import CollectionMismatchError, InputError, StorageError
from splade_retriever.files.discovery import find_files
from splade_retriever.files.passages import ReadOptions
from splade_retriever.files.splitter import Splitter
from tests.tiny import write_tiny_model

pytest.importorskip("pyarrow", reason="pyarrow is not installed (extra `bulk`)")

PER_PART = 8
SIZE = ("--passage-tokens", "30")


def encode(corpus: Path, out: Path, encoder: Any, **options: Any) -> Any:
    from splade_retriever.bulk import encode_files

    read = ReadOptions(base=corpus.parent)
    return encode_files(
        list(find_files([corpus], read)),
        out,
        encoder=encoder,
        splitter=Splitter(encoder.tokenizer, max_tokens=30),
        options=read,
        passages_per_part=PER_PART,
        **options,
    )


def rows(path: Path) -> dict[str, Any]:
    from splade_retriever.bulk.vectors_file import read_rows

    return {row.passage.id: row for row in read_rows(path)}


class Stopping:
    """An encoder that fails after some texts, as a run does that is stopped."""

    def __init__(self, encoder: SparseTextEmbedding, texts: int) -> None:
        self.tokenizer, self.fingerprint = encoder.tokenizer, encoder.fingerprint
        self._encoder, self._left = encoder, texts

    def passage_embed(self, texts: Iterable[str]) -> Iterator[SparseEmbedding]:
        for vector in self._encoder.passage_embed(texts):
            self._left -= 1
            if self._left < 0:
                raise KeyboardInterrupt
            yield vector


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_the_progress_is_that_of_the_bytes_of_the_files(
    tmp_path: Path, tiny: SparseTextEmbedding, kind: str
) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    records = [{"id": n, "text": "Ein Häuschen.", "link": "x" * 4000} for n in range(40)]
    file = tmp_path / f"corpus.{kind}"
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(records), file, row_group_size=8)
    elif kind == "csv":
        lines = [f"{r['id']},{r['text']},{r['link']}" for r in records]
        file.write_text("\n".join(["id,text,link", *lines, ""]), encoding="utf-8")
    else:
        file.write_text("".join(json.dumps(r) + "\n" for r in records), encoding="utf-8")
    shares: list[float] = []

    encode(file, tmp_path / "v.parquet", tiny, on_progress=lambda _, read, __: shares.append(read))

    size = file.stat().st_size
    assert [share / size for share in shares] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0], abs=0.06)
    assert shares[-1] == size


def test_a_file_holds_each_passage_with_the_vector_of_its_text_and_title(
    corpus: Path, tmp_path: Path, tiny: SparseTextEmbedding
) -> None:
    done = []
    report = encode(corpus, tmp_path / "v.parquet", tiny, on_progress=lambda *at: done.append(at[0]))

    found = rows(tmp_path / "v.parquet")
    assert (report.passages, report.encoded, done) == (30, 30, [8, 16, 24, 30])
    row = found["corpus.jsonl#d3"]
    assert row.passage.metadata["year"] == 3
    alone = next(tiny.passage_embed(f"moon\n{row.passage.text}"))
    assert row.vector.indices.tolist() == alone.indices.tolist()
    np.testing.assert_allclose(row.vector.values, alone.values, atol=1e-5)
    assert not (tmp_path / "v.parquet.parts").exists()


@pytest.mark.parametrize("texts", [0, 8, 13, 29])
def test_a_stopped_run_continues_and_writes_the_same_bytes(
    corpus: Path, tmp_path: Path, tiny: SparseTextEmbedding, texts: int
) -> None:
    encode(corpus, tmp_path / "whole.parquet", tiny)
    with pytest.raises(KeyboardInterrupt):
        encode(corpus, tmp_path / "v.parquet", Stopping(tiny, texts))
    assert not (tmp_path / "v.parquet").exists()

    report = encode(corpus, tmp_path / "v.parquet", tiny)

    assert report.encoded == 30 - texts // PER_PART * PER_PART
    assert (tmp_path / "v.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()


@pytest.mark.slow
@pytest.mark.faults
def test_a_killed_run_continues_and_writes_the_same_bytes(corpus: Path, tmp_path: Path) -> None:
    lines = [json.dumps({"id": n, "text": f"star {n} moon"}) for n in range(2500)]
    corpus.write_text("\n".join(lines), encoding="utf-8")
    start = [sys.executable, "-m", "splade_retriever"]
    command = [*start, "encode", str(corpus), *SIZE, "--base", str(tmp_path), "--out"]
    model = str(write_tiny_model(tmp_path / "tiny", max_length=64))
    running = subprocess.Popen([*command, str(tmp_path / "v.parquet"), "--model", model])
    parts = tmp_path / "v.parquet.parts"
    deadline = time.monotonic() + 60
    while not list(parts.glob("part-*")) and running.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    os.kill(running.pid, signal.SIGKILL)
    running.wait()
    assert list(parts.glob("part-*"))
    assert not (tmp_path / "v.parquet").exists()

    again, whole = (
        json.loads(
            CliRunner().invoke(app, [*command[3:], str(tmp_path / name), "--model", model, "--json"]).stdout
        )
        for name in ("v.parquet", "whole.parquet")
    )

    assert again["encoded"] < again["passages"] == whole["encoded"]
    assert (tmp_path / "v.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()


def test_a_changed_passage_is_encoded_again(corpus: Path, tmp_path: Path, tiny: SparseTextEmbedding) -> None:
    with pytest.raises(KeyboardInterrupt):
        encode(corpus, tmp_path / "v.parquet", Stopping(tiny, 20))
    corpus.write_text(corpus.read_text("utf-8").replace('"year": 9,', '"year": 99,'), encoding="utf-8")

    report = encode(corpus, tmp_path / "v.parquet", tiny)

    assert report.encoded == 30 - PER_PART  # the first of the two parts is kept
    assert rows(tmp_path / "v.parquet")["corpus.jsonl#d9"].passage.metadata["year"] == 99


def test_parts_of_another_model_or_shard_are_not_continued(
    corpus: Path, tmp_path: Path, tiny: SparseTextEmbedding
) -> None:
    from splade_retriever.bulk import Shard

    with pytest.raises(KeyboardInterrupt):
        encode(corpus, tmp_path / "v.parquet", Stopping(tiny, 20))

    with pytest.raises(InputError, match="parts of a run with another model or another --shard"):
        encode(corpus, tmp_path / "v.parquet", tiny, shard=Shard(1, 2))


def test_shards_are_disjoint_and_complete(corpus: Path, tmp_path: Path, tiny: SparseTextEmbedding) -> None:
    from splade_retriever.bulk import Shard

    encode(corpus, tmp_path / "whole.parquet", tiny)
    shares = []
    for number in (1, 2, 3):
        encode(corpus, tmp_path / f"{number}.parquet", tiny, shard=Shard.parse(f"{number}/3"))
        shares.append(rows(tmp_path / f"{number}.parquet"))

    whole = rows(tmp_path / "whole.parquet")
    assert [len(share) for share in shares] == [10, 10, 10]
    assert {id: row for share in shares for id, row in share.items()}.keys() == whole.keys()
    for text in ("0/3", "4/3", "3", "a/b", "1/0"):
        with pytest.raises(InputError, match="expected i/n"):
            Shard.parse(text)


def test_the_commands_encode_and_load_without_encoding_again(
    corpus: Path, tmp_path: Path, tiny: SparseTextEmbedding
) -> None:
    model = str(tiny._files.folder.path)
    vectors, index = str(tmp_path / "v.parquet"), str(tmp_path / "index")
    run = CliRunner().invoke
    encoded = run(app, ["encode", str(corpus), *SIZE, "--out", vectors, "--model", model, "--json"])
    assert encoded.exit_code == 0, encoded.output
    assert json.loads(encoded.stdout)["passages"] == 30

    loaded = run(app, ["index", "--vectors", vectors, "--to", index, "--model", model, "--json"])
    assert loaded.exit_code == 0, loaded.output
    assert json.loads(loaded.stdout) == {"location": index, "added": 30, "total": 30}
    synced = run(app, ["index", str(corpus), *SIZE, "--to", index, "--model", model, "--json"])
    assert json.loads(synced.stdout)["unchanged"] == 30, synced.output
    with SpladeIndex(index, model=model) as opened:
        (hit,) = opened.search("moon rover", k=1)
        assert hit.metadata["source"].endswith("corpus.jsonl")

    neither = run(app, ["index", "--to", index])
    assert neither.exit_code == 2


def test_another_model_than_the_file_s_is_refused(
    corpus: Path, tmp_path: Path, tiny: SparseTextEmbedding
) -> None:
    from splade_retriever.bulk import load_vectors

    encode(corpus, tmp_path / "v.parquet", tiny)
    with (
        SpladeIndex(tmp_path / "index") as index,
        pytest.raises(CollectionMismatchError, match="made by model 'tiny'"),
    ):
        load_vectors(index, tmp_path / "v.parquet")
    (tmp_path / "other.parquet").write_bytes(b"PAR1")
    with (
        SpladeIndex(tmp_path / "index") as index,
        pytest.raises(InputError, match="is not a file of vectors"),
    ):
        load_vectors(index, tmp_path / "other.parquet")


def test_rows_of_a_parquet_file_are_records(tmp_path: Path, tiny: SparseTextEmbedding) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = {"id": ["a", "b", "c"], "text": ["the moon", None, "a rover"], "year": [1, 2, None]}
    pq.write_table(pa.table(table), tmp_path / "corpus.parquet")

    report = encode(tmp_path / "corpus.parquet", tmp_path / "v.parquet", tiny)

    found = rows(tmp_path / "v.parquet")
    assert sorted(found) == ["corpus.parquet#a", "corpus.parquet#c"]
    assert found["corpus.parquet#a"].passage.metadata["year"] == 1
    assert [issue.reason for issue in report.issues] == ["has no text: field 'text' is null"]


def test_dates_of_a_parquet_file_become_text(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from splade_retriever.bulk.parquet_records import parquet_records

    nanoseconds = 1_704_164_645_123_456_789  # date -u -d @1704164645: 2024-01-02 03:04:05
    seconds = nanoseconds // 10**9
    columns = {
        "day": pa.array([date(2024, 1, 2)]),
        "time": pa.array([5_000_003], pa.time64("us")),
        "seconds": pa.array([seconds], pa.timestamp("s")),
        "zone": pa.array([nanoseconds], pa.timestamp("ns", "UTC")),
        "list": pa.array([[nanoseconds, None]], pa.list_(pa.timestamp("ns"))),
        "struct": pa.array(
            [{"at": nanoseconds, "n": 1}], pa.struct([("at", pa.timestamp("ns")), ("n", "i8")])
        ),
        "none": pa.array([None], pa.timestamp("ns")),
        "bytes": pa.array([b"x"]),
    }
    pq.write_table(pa.table(columns), tmp_path / "dates.parquet")

    (record,) = parquet_records(tmp_path / "dates.parquet")

    assert record.fields == {
        "day": "2024-01-02",
        "time": "00:00:05.000003",
        "seconds": "2024-01-02T03:04:05",
        "zone": "2024-01-02T03:04:05.123456+00:00",
        "list": ["2024-01-02T03:04:05.123456", None],
        "struct": {"at": "2024-01-02T03:04:05.123456", "n": 1},
        "none": None,
    }


def test_a_date_that_python_does_not_have_is_a_fault_of_the_file(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from splade_retriever.bulk.parquet_records import parquet_records

    pq.write_table(pa.table({"day": pa.array([10**7], pa.date32())}), tmp_path / "dates.parquet")

    (record,) = parquet_records(tmp_path / "dates.parquet")

    assert record.fields is None
    assert "cannot be read as Parquet: date value out of range" in record.fault


def test_a_file_that_cannot_be_written_is_an_error_that_names_it(
    corpus: Path, tmp_path: Path, tiny: SparseTextEmbedding
) -> None:
    from splade_retriever.bulk.vectors_file import join_parts, write_part

    with pytest.raises(StorageError, match=r"v\.parquet\.parts cannot be written: .*Make room, or choose"):
        encode(corpus, corpus / "v.parquet", tiny)  # in a file, which is no folder
    with pytest.raises(InputError, match=r"is a folder, expected a file to write"):
        encode(corpus, tmp_path, tiny)
    missing = tmp_path / "missing" / "v.parquet"
    with pytest.raises(StorageError, match=r"missing/v\.parquet cannot be written: .*Make room, or choose"):
        write_part(missing, [], fingerprint={}, note="")
    with pytest.raises(StorageError, match=r"missing/v\.parquet cannot be written: .*Make room, or choose"):
        join_parts([], missing, fingerprint={})
    result = CliRunner().invoke(app, ["encode", str(corpus), *SIZE, "--out", str(corpus / "v.parquet")])
    assert isinstance(result.exception, SystemExit)
    assert "cannot be written" in result.output


def test_a_damaged_part_is_an_error_that_names_the_part(tmp_path: Path) -> None:
    from splade_retriever.bulk.vectors_file import join_parts

    (tmp_path / "part").write_bytes(b"PAR1")

    with pytest.raises(StorageError, match=r"The part .*/part cannot be read: .*Remove it and run it again"):
        join_parts([tmp_path / "part"], tmp_path / "v.parquet", fingerprint={})

    assert [path.name for path in tmp_path.iterdir()] == ["part"]


def test_a_source_without_passages_writes_nothing(tmp_path: Path, tiny: SparseTextEmbedding) -> None:
    (tmp_path / "corpus.jsonl").write_text('{"id": 1}\n', encoding="utf-8")

    with pytest.raises(InputError, match="No passage was found to encode, and 1 files or lines"):
        encode(tmp_path / "corpus.jsonl", tmp_path / "v.parquet", tiny)

    assert [path.name for path in tmp_path.iterdir()] == ["corpus.jsonl"]


def test_the_progress_of_a_resumed_run_counts_only_what_this_run_encodes(
    corpus: Path, tmp_path: Path, tiny: SparseTextEmbedding
) -> None:
    out = tmp_path / "vectors.parquet"
    with pytest.raises(KeyboardInterrupt):
        encode(corpus, out, encoder=Stopping(tiny, 2 * PER_PART))
    seen: list[tuple[int, int]] = []
    encode(
        corpus,
        out,
        encoder=tiny,
        on_progress=lambda passages, characters, encoded: seen.append((passages, encoded)),
    )
    assert seen == [(8, 0), (16, 0), (24, 8), (30, 14)]
