"""The `splade` command on real files, with the bundled model."""

import contextlib
import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from splade_retriever import SpladeIndex, __version__
from splade_retriever.cli.commands import app
from tests.cli.conftest import MOON, SPLADE, Desk
from tests.command import run_command

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "cli.md").read_text("utf-8")


# -- index ---------------------------------------------------------------------------------------------------


def test_indexing_prints_what_it_did_and_a_second_run_what_changed(desk_of_processes: Desk) -> None:
    desk = desk_of_processes
    desk.write("docs/moon.md", MOON)
    desk.write("docs/sub/gone.txt", "A text that will be deleted.")
    first = desk.run("index", "docs", "--to", "index")
    desk.write("docs/moon.md", MOON.replace("yeast", "patience"))
    (desk.folder / "docs/sub/gone.txt").unlink()

    second = desk.run("index", "docs", "--to", "index")

    assert first.stdout.startswith("3 passages from 2 files: 3 new\n3 encoded in ")
    assert "index now holds 3 passages\n" in first.stdout
    assert second.stdout.startswith(
        "2 passages from 1 file: 0 new, 1 changed, 1 unchanged, 1 removed\n1 encoded"
    )


def test_indexing_reports_the_files_and_lines_that_it_skips(desk: Desk) -> None:
    desk.write("docs/good.txt", "A good text.")
    desk.write("docs/empty.txt", "")
    desk.write("docs/picture.txt", b"\x89PNG\0\0")
    desk.write("docs/latin.txt", "Königsberg".encode("latin-1"))
    desk.write("docs/lines.jsonl", '{"text": "fine"}\n{broken\n')
    desk.write("docs/code.cfg", "x = 1")

    found = desk.json("index", "docs", "--to", "index")

    assert found["passages"] == found["new"] == found["total"] == 3
    assert {item["place"] for item in found["skipped"]} == {
        f"docs/{name}" for name in ("empty.txt", "picture.txt", "lines.jsonl:2", "code.cfg")
    }
    assert found["warnings"] == [
        {"place": "docs/latin.txt", "reason": "is not UTF-8; it was read as Windows-1252"}
    ]
    stopped = desk.run("index", "docs/lines.jsonl", "--to", "index", "--strict", status=1)
    assert "docs/lines.jsonl:2 is not JSON" in stopped.stderr


def test_passages_are_the_same_from_any_working_folder(desk: Desk) -> None:
    desk.write("docs/a.txt", "moon")
    desk.run("index", "docs", "--to", "index")

    again = Desk(desk.folder / "docs").json("index", "a.txt", "--to", "../index")

    assert (again["unchanged"], again["total"]) == (1, 1)


def test_an_interrupted_run_shows_its_progress_and_keeps_what_was_stored(desk: Desk) -> None:
    many = "many other words " * 40
    rows = (json.dumps({"id": str(n), "text": f"The number {n} and {many}"}) for n in range(1000))
    desk.write("many.jsonl", "\n".join(rows))
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*SPLADE, "index", "many.jsonl", "--to", "index"],
        cwd=desk.folder,
        env=desk.environment({"TERM": "xterm"}),
        stderr=theirs,
        # Where the tests run in the background, the signal is ignored, and a child would inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 - no threads here
    )
    os.close(theirs)
    shown = ""
    while not re.search(r"[1-9]\d* passages,", shown):
        shown += os.read(ours, 4096).decode()
    process.send_signal(signal.SIGINT)
    with contextlib.suppress(OSError):  # what a terminal's reader gets at the end
        while more := os.read(ours, 4096):
            shown += more.decode()
    os.close(ours)

    assert process.wait(timeout=60) == 130, shown
    kept = re.search(r"(\d+) passages are stored", shown)
    assert kept, shown
    with SpladeIndex(desk.folder / "index", create=False) as index:
        assert 64 <= index.count() == int(kept[1]) < 1000


def test_hidden_ignored_and_excluded_files_are_reported(desk: Desk) -> None:
    for name in ("a.md", "b.md", ".hidden.md", "drafts/c.md", "node_modules/d.md"):
        desk.write(f"docs/{name}", "text")
    desk.write("docs/.gitignore", "b.md\n")

    shown = desk.run("index", "docs", "--to", "index", "--exclude", "drafts", "--strict").stdout
    everything = desk.json("index", "docs", "--to", "other", "--hidden", "--no-ignore")

    assert shown.startswith("1 passage from 1 file")
    for line in (
        "docs/b.md is ignored by .gitignore; --no-ignore reads it",
        "docs/drafts is excluded by --exclude 'drafts'",
        "docs/.hidden.md is hidden; --hidden reads it",
        "docs/node_modules is a folder of installed packages; --no-ignore reads it",
    ):
        assert f"  {line}\n" in shown
    assert everything["passages"] == 5


def test_stdin_is_read_like_a_file_of_its_name(desk: Desk) -> None:
    def index(stdin: str) -> Any:
        arguments = ("index", "-", "--to", "index", "--stdin-name", "records.jsonl", "--json")
        return json.loads(desk.run(*arguments, stdin=stdin).stdout)

    first = index('{"id": "a", "text": "moon"}\n{broken\n{"id": "b", "text": "sun"}\n')
    second = index('{"id": "a", "text": "moon"}\n')

    assert (first["new"], first["skipped"][0]["place"]) == (2, "records.jsonl:2")
    assert (second["unchanged"], second["removed"]) == (1, 1)
    assert desk.json("search", "moon", "-i", "index")["hits"][0]["id"] == "records.jsonl#a"


def test_a_run_that_indexes_nothing_fails_and_says_why(desk: Desk) -> None:
    desk.write("a.jsonl", '{"body": "moon"}\n')

    done = desk.run("index", "a.jsonl", "--to", "index", status=1)

    assert "field 'text' is missing (found: 'body'). Pass --text-field" in " ".join(done.stdout.split())
    assert "no passage was indexed" in done.stderr


# -- list, delete, optimize ----------------------------------------------------------------------------------


def test_files_are_listed_and_deleted_by_source_filter_or_id(desk: Desk) -> None:
    desk.write("docs/moon.md", MOON)
    desk.write(
        "docs/old.jsonl", '{"id": "a", "text": "A rover.", "year": 2019}\n{"id": "b", "text": "Dust."}\n'
    )
    desk.write("more/sun.txt", "The sun.")
    desk.run("index", "docs", "more", "--to", "index")

    listed = desk.run("list", "--index", "index").stdout
    shutil.rmtree(desk.folder / "docs")
    planned = desk.json("delete", "-i", "index", "--source", "docs", "--dry-run")
    by_filter = desk.json("delete", "-i", "index", "--filter", '{"year": 2019}')
    by_id = desk.json("delete", f"{desk.folder}/docs/old.jsonl#b", "unknown", "-i", "index")
    by_folder = desk.run("delete", "-i", "index", "--source", "docs").stdout

    assert [line.rstrip() for line in listed.splitlines()] == [
        "2  docs/moon.md",
        "2  docs/old.jsonl",
        "1  more/sun.txt",
        "5 passages from 3 files",
    ]
    assert (planned["deleted"], planned["total"]) == (4, 5)
    assert (by_filter["deleted"], by_id["deleted"]) == (1, 1)
    assert by_folder == "2 documents deleted, 1 document left\n"
    assert [item["source"] for item in desk.json("list", "-i", "index")["files"]] == [
        f"{desk.folder}/more/sun.txt"
    ]


def test_a_folder_is_optimized(indexed: Desk) -> None:
    assert indexed.json("optimize", "-i", "index")["changed"] is False


@pytest.mark.parametrize("command", ["search", "list", "delete", "optimize", "info"])
def test_commands_that_read_never_create_a_folder(desk: Desk, command: str) -> None:
    arguments = {"search": ["x"], "delete": ["x"]}.get(command, [])

    shown = desk.run(command, *arguments, "--index", "~/nowhere", status=1).stderr

    assert f"There is no index folder at '{desk.folder}/nowhere'. Check the path, or make an index" in shown
    assert list(desk.folder.iterdir()) == []


# -- search --------------------------------------------------------------------------------------------------


def test_a_search_shows_the_source_the_marked_words_and_the_tokens(indexed: Desk) -> None:
    shown = indexed.run("search", "lunar lander", "--index", "index", "-k", "1").stdout

    first, *rest = shown.splitlines()
    assert re.match(r" 1\. docs/moon\.md:3  Moon +\d+\.\d\d$", first)
    assert "[lander] touched down near the [lunar] south pole." in rest[0]
    assert re.search(r"lunar \d+\.\d\d", shown)
    assert max(map(len, shown.splitlines())) <= 80


def test_a_search_as_json_has_hits_whose_contributions_sum_to_the_score(indexed: Desk) -> None:
    found = indexed.json("search", "rover", "-i", "index", "--filter", '{"year": {"$gte": 2020}}')

    (hit,) = found["hits"]
    assert (hit["rank"], hit["metadata"]["id"], hit["metadata"]["year"]) == (1, "b", 2023)
    assert hit["source"] == str(indexed.folder / "docs/new.csv")
    assert hit["id"] == f"{hit['source']}#b"
    assert sum(c["score"] for c in hit["contributions"]) == pytest.approx(hit["score"], abs=1e-3)
    assert [hit["text"][start:end] for start, end in hit["spans"]].count("rover") == 1


def test_the_syntax_of_a_query_decides_and_its_effects_are_shown(indexed: Desk) -> None:
    shown = indexed.run("search", "rover^2 -dust", "--syntax", "-i", "index").stdout
    nothing = indexed.run("search", "rover +zebra", "--syntax", "-i", "index").stdout
    id = f"{indexed.folder / 'docs/old.jsonl'}#a"
    missing = indexed.json("why-not", "rover -dust", id, "--syntax", "-i", "index")

    assert "docs/new.csv" in shown
    assert "docs/old.jsonl" not in shown
    assert "controls: boost rover x2; exclude dust" in shown
    assert nothing.splitlines() == [
        "Nothing found for 'rover zebra' among 4 passages.",
        "controls: require zebra",
    ]
    assert missing["reasons"][0]["kind"] == "filter"
    assert "{'$not': {'$text': 'dust'}}" in missing["reasons"][0]["message"]


def test_a_search_without_hits_succeeds(indexed: Desk) -> None:
    none_matches = indexed.run("search", "rover", "-i", "index", "--filter", '{"yaer": 2023}').stdout
    no_word = indexed.run("search", "zebra", "-i", "index").stdout

    assert none_matches.startswith(
        "Nothing found for 'rover': none of 4 passages matches the filter. Check its"
    )
    assert no_word == "Nothing found for 'zebra' among 4 passages.\n"


def test_texts_and_queries_without_a_known_token_are_reported(desk: Desk) -> None:
    desk.write("docs/party.txt", "\U0001f389 \U0001f388")
    desk.write("docs/moon.md", MOON)

    report = desk.run("index", "docs", "--to", "index").stdout
    shown = desk.run("search", "\U0001f680", "-i", "index")

    assert "1 passage without a token that the model knows: stored, and found by no query" in report
    assert shown.stdout == "Nothing found: '\U0001f680' has no token that the model knows.\n"
    assert desk.json("index", "docs", "--to", "index")["unreadable"] == 0  # nothing was encoded again
    assert desk.json("search", "moon", "-i", "index")["unreadable"] is False


def test_colours_are_used_on_a_terminal_without_no_color(indexed: Desk) -> None:
    search = ("search", "lander", "-i", "index")

    assert "\x1b[" not in indexed.run(*search).stdout
    assert (
        "\x1b[1;30;43mlander"
        in indexed.run(*search, environment={"FORCE_COLOR": "1", "TERM": "xterm"}).stdout
    )
    without = indexed.run(*search, environment={"FORCE_COLOR": "1", "TERM": "xterm", "NO_COLOR": "1"}).stdout
    assert not re.search(r"\x1b\[[\d;]*[34]\d", without)
    assert "[lander]" in re.sub(r"\x1b\[[\d;]*m", "", without)


def test_control_characters_of_documents_and_names_are_made_visible(desk: Desk) -> None:
    desk.write("docs/a\x1b[31m.txt", "The \x1b]0;owned\x07 \x9b2J lander.")
    desk.write("docs/b\x1b[2J.bin", b"\0")

    shown = [
        desk.run("index", "docs", "--to", "index").stdout,
        desk.run("search", "lander", "-i", "index", environment={"FORCE_COLOR": "1", "TERM": "xterm"}).stdout,
        desk.run("search", "lander", "-i", "index", "--json").stdout,
        desk.run("info", "-i", "a\x1b[31m", status=1).stderr,
        desk.run("explain", "lander", "The \x1b]0;owned\x07 \x9b2J lander.").stdout,
    ]

    for output in shown:
        without_colours = re.sub(r"\x1b\[[\d;]*m", "", output)
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", without_colours)
    assert r"b\x1b[2J.bin" in shown[0]
    assert r"\x1b]0;owned" in shown[1]
    assert json.loads(shown[2])["hits"][0]["text"] == "The \x1b]0;owned\x07 \x9b2J lander."


def test_piped_output_is_not_wrapped(desk: Desk) -> None:
    name = "docs/" + "long folder name/" * 12 + "a.txt"
    desk.write(name, "The lander reached the lunar surface. " * 8)
    desk.write("docs/" + "x" * 90 + ".bin", b"\0")

    def lines(*arguments: str) -> list[str]:
        environment = {key: value for key, value in desk.environment().items() if key != "COLUMNS"}
        done = run_command(arguments, desk.folder, environment=environment)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    assert any(
        f"{'x' * 90}.bin .bin files are not text" in line for line in lines("index", "docs", "--to", "i")
    )
    found = lines("search", "lunar lander", "-i", "i")
    assert any(f"{name}:1" in line for line in found)
    assert max(map(len, found)) < 1000, "no line is padded"


# -- the other commands --------------------------------------------------------------------------------------


def test_encoding_shows_bars_and_marks_expansion(desk: Desk) -> None:
    shown = desk.run("encode", "The lunar lander", "--tokens", "40").stdout
    piped = json.loads(desk.run("encode", "-", "--json", stdin="The lunar lander\n").stdout)

    assert re.search(r"^lunar +\d\.\d{3}  █+", shown, re.M)
    assert piped["text"] == "The lunar lander"
    assert {t["token"] for t in piped["tokens"] if t["in_text"]} <= {"the", "lunar", "land", "##er", "lander"}
    assert len(piped["indices"]) == len(piped["values"]) == len(piped["tokens"])


def test_explaining_sums_to_the_score(desk: Desk) -> None:
    found = desk.json("explain", "moon landing", "The lander touched the moon.")

    assert found["score"] == pytest.approx(sum(c["score"] for c in found["contributions"]))
    assert [found["text"][start:end] for start, end in found["spans"] if end - start == 4][-1:] == ["moon"]


def test_models_are_listed_with_licences(desk: Desk) -> None:
    assert "prithivida/Splade_PP_en_v1  apache-2.0  0.53 GB" in desk.run("models").stdout
    assert "prithivida/Splade_PP_en_v1" in {card["model"] for card in desk.json("models")}


def test_info_and_doctor_print_facts(indexed: Desk) -> None:
    facts = indexed.json("info", "--index", "index")
    health = indexed.json("doctor")

    assert (facts["documents"], facts["settings"]["windows"]) == (4, "truncate")
    assert facts["size_bytes"] > 0
    assert facts["encoder"]["model"] == facts["model"]
    assert health["ok"] is True
    assert {"packages", "processor", "model", "engine"} <= {check["name"] for check in health["checks"]}


# -- errors --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (["search", "x", "--index", "nowhere"], "no index folder at 'nowhere'"),
        (["index", "nowhere", "--to", "index"], "no file or folder 'nowhere'"),
        (["info", "--index", "localhost:6333"], "Write http://localhost:6333"),
        (["index", "a.txt", "--to", "a.txt"], "a.txt"),
        (["index", "code", "--to", "index"], "No file that can be read was found in code"),
        (["encode", "x", "--model", "no/such-model"], "no/such-model"),
        (["info", "--index", "nowhere"], "'nowhere'"),
        (["index", "a.txt", "--to", "index", "--passage-tokens", "9999"], "expected 16..512"),
    ],
)
def test_an_error_is_one_message_and_status_1(desk: Desk, arguments: list[str], shown: str) -> None:
    desk.write("a.txt", "text")
    desk.write("code/a.cfg", "x = 1")

    done = desk.run(*arguments, status=1)

    assert done.stdout == ""
    assert done.stderr.startswith("splade: ")
    assert shown in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["search", "x"],
        ["serch", "x"],
        ["search", "x", "-i", ".", "-k", "0"],
        ["search", "x", "-i", ".", "-f", "{"],
        ["delete", "-i", "."],
        ["delete", "x", "-i", ".", "--source", "y"],
    ],
)
def test_wrong_usage_has_status_2(desk: Desk, arguments: list[str]) -> None:
    assert desk.run(*arguments, status=2).stdout == ""


def test_an_index_that_another_process_has_open_is_reported(desk_of_processes: Desk) -> None:
    desk = desk_of_processes
    desk.write("a.txt", "text")
    with SpladeIndex(desk.folder / "index"):
        shown = desk.run("index", "a.txt", "--to", "index", status=1).stderr

    assert "another process" in shown.lower()


def test_another_model_than_the_one_of_the_index_is_refused_by_name(indexed: Desk, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    bundled = ROOT / "splade_retriever" / "bundled"
    for file in bundled.iterdir():
        if file.name != "card.json":
            shutil.copyfile(file, other / file.name)
    card = json.loads((bundled / "card.json").read_text("utf-8"))
    (other / "card.json").write_text(json.dumps(card | {"model": "someone/other"}), "utf-8")

    shown = indexed.run("search", "x", "-i", "index", "--model", str(other), status=1).stderr

    assert "someone/other" in shown
    assert card["model"] in shown


def test_a_server_that_does_not_answer_is_reported(desk: Desk) -> None:
    shown = desk.run("info", "--index", "http://127.0.0.1:9", status=1).stderr

    assert "Nothing listens at 127.0.0.1:9. Start the server, or check the URL." in shown


# -- the application -----------------------------------------------------------------------------------------


def test_help_is_quick_and_loads_nothing_heavy() -> None:
    script = (
        "import sys\nfrom splade_retriever.cli.commands import app\n"
        "try:\n    app(['--help'])\nexcept SystemExit:\n    pass\n"
        "print('LOADED', *sys.modules)"
    )
    shown = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout

    loaded = shown.split("LOADED")[1].split()
    assert not {"onnxruntime", "qdrant_client", "qdrant_edge", "numpy", "tokenizers"} & set(loaded)


def test_the_version_is_printed(desk_of_processes: Desk) -> None:
    assert desk_of_processes.run("--version").stdout == f"splade-retriever {__version__}\n"


def commands_of(group: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each command with its complete name, such as "config init"."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands_of(command, f"{prefix}{name} ")
        else:
            yield prefix + name, command


def test_every_command_and_option_is_documented() -> None:
    for name, command in commands_of(typer.main.get_command(app)):
        section = re.search(rf"^## `splade {name.split()[0]}\b.*?(?=^## |\Z)", PAGE, re.M | re.S)
        assert section, f"docs/cli.md has no section on splade {name}"
        assert f"`splade {name}" in section[0]
        for parameter in command.params:
            for option in getattr(parameter, "opts", []):
                if option.startswith("-") and option not in ("--help", "-h"):
                    assert f"`{option}" in section[0], (
                        f"docs/cli.md does not explain {option} of splade {name}"
                    )


def test_every_option_of_the_page_exists() -> None:
    known = {"--version", "--help", "--install-completion", "--show-completion"}
    for _, command in commands_of(typer.main.get_command(app)):
        for parameter in command.params:
            known.update(parameter.opts, parameter.secondary_opts)

    assert set(re.findall(r"(?<![\w-])--?[a-z][\w-]*", re.sub(r"```.*?```", "", PAGE, flags=re.S))) <= known


def test_doctor_checks_an_index_and_names_its_damaged_files(desk: Desk) -> None:
    desk.write("docs/moon.md", MOON)
    desk.run("index", "docs", "--to", "index")
    healthy = desk.json("doctor", "--index", "index")
    assert healthy["ok"]
    found = {check["name"]: check["found"] for check in healthy["checks"]}
    assert (found["files"], found["documents"]) == ("undamaged", "2 can be read; texts verified")

    (page,) = desk.folder.glob("index/collections/*/shard/segments/*/payload_storage/page_0.dat")
    page.write_bytes(page.read_bytes().replace(b"Flour, water", b"Flour, sugar"))

    report = json.loads(desk.run("doctor", "--index", "index", "--json", status=1).stdout)
    checks = {check["name"]: check for check in report["checks"]}
    assert not report["ok"]
    assert not checks["files"]["ok"]
    assert "payload_storage/page_0.dat" in checks["files"]["found"]
    assert len(checks["documents"]["documents"]) == 1
    assert "is damaged" in desk.run("search", "moon", "--index", "index", status=1).stderr
    assert "1 damaged document" in desk.run("reindex", "--index", "index", "--repair", "sound").stdout
    assert desk.json("info", "--index", "sound")["documents"] == 1
    refused = desk.run("reindex", "--index", "index", "--repair", "other", "--model", "x", status=2).stderr
    assert "--repair" in refused


def test_doctor_says_that_no_server_answers(desk: Desk) -> None:
    shown = desk.run("doctor", "--index", "http://127.0.0.1:9", "--retry-for", "0", status=1).stdout
    assert "Nothing listens at 127.0.0.1:9" in " ".join(shown.split())
    assert shown.splitlines()[-1] == "1 fault, 0 warnings."


def test_doctor_exits_with_0_after_warnings(indexed: Desk) -> None:
    shown = indexed.run("doctor", "--index", "index", "--field", "yaer").stdout
    assert "WARNING" in shown
    assert "none of 4 documents has the field" in " ".join(shown.split())
    assert shown.splitlines()[-1] == "0 faults, 1 warning."


def test_doctor_names_both_models_and_exits_with_1(indexed: Desk) -> None:
    shown = indexed.run("doctor", "--index", "index", "--model", "Qdrant/bm25", status=1).stdout
    shown = " ".join(shown.split())
    assert "made by 'splade-retriever/minilm-l6-v4', but 'Qdrant/bm25' would be used" in shown
    assert "splade reindex --model" in shown


def test_doctor_checks_the_retrievers_of_a_configuration(indexed: Desk) -> None:
    indexed.write("retrievers.yaml", "retrievers:\n  a: {location: index, filter: {year: 2023}}\n")
    report = indexed.json("doctor", "--config", "retrievers.yaml")
    checks = {check["name"]: check for check in report["retrievers"]["a"]["checks"]}
    assert checks["payload index of 'year'"]["found"] == "none, which 4 documents do not need"
    assert "a: " in indexed.run("doctor", "--config", "retrievers.yaml").stdout


def test_doctor_refuses_options_that_need_an_index(desk: Desk) -> None:
    assert "--index" in desk.run("doctor", "--collection", "splade", status=2).stderr
    both = desk.run("doctor", "--index", "index", "--config", "retriever.yaml", status=2)
    assert "not both" in both.stderr


def test_an_index_of_bm25_is_filled_and_searched(desk: Desk) -> None:
    pytest.importorskip("py_rust_stemmers", reason="needs the extra `bm25`")
    desk.write("docs/moon.md", MOON)
    desk.run("index", "docs", "--to", "index", "--model", "Qdrant/bm25")

    (hit,) = desk.json("search", "lunar landers", "--index", "index", "-k", "1")["hits"]

    assert hit["text"] == "The lander touched down near the lunar south pole."
    assert {part["token"] for part in hit["contributions"]} == {"lunar", "lander"}
    assert sum(part["score"] for part in hit["contributions"]) == pytest.approx(hit["score"], rel=1e-4)
    assert "lunar south pole" in desk.run("search", "lander", "--index", "index").stdout
