import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pytest

from splade_retriever import server
from splade_retriever.errors import InputError, ServerError, StorageError
from splade_retriever.index import SpladeIndex
from splade_retriever.server import connect, guarded
from tests.words import WordEncoder


class Answers(BaseHTTPRequestHandler):
    """Gives the statuses in `script`, one a request, then 200 and a collection that exists."""

    url: ClassVar[str]
    script: ClassVar[list[int]]
    seen: ClassVar[list[tuple[str, str | None]]]

    def do_GET(self) -> None:
        self.seen.append((self.path, self.headers.get("api-key")))
        status = self.script.pop(0) if self.script else 200
        body = json.dumps({"result": {"exists": True}, "status": "ok", "time": 0.0}).encode()
        if status == 0:  # hang up in the middle of the answer
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(body[:5])
            self.close_connection = True
            return
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def answers() -> Iterator[type[Answers]]:
    class Handler(Answers):
        script: ClassVar[list[int]] = []
        seen: ClassVar[list[tuple[str, str | None]]] = []

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        Handler.url = f"http://127.0.0.1:{listening.server_address[1]}"
        yield Handler
        listening.shutdown()
        thread.join()


def ask(url: str, waits_s: tuple[float, ...] = (0.01, 0.01)) -> bool:
    client = connect(url, api_key="secret", prefer_grpc=False, timeout_s=2)
    try:
        return guarded(lambda: client.collection_exists("docs"), doing="look for 'docs'", waits_s=waits_s)
    finally:
        client.close()


@pytest.mark.filterwarnings("ignore:Api key is used with an insecure connection")
@pytest.mark.parametrize("script", [[], [503], [429, 502], [0], [0, 504]])
def test_what_passes_is_tried_again(answers: type[Answers], script: list[int]) -> None:
    tries = len(script) + 1
    answers.script[:] = script

    assert ask(answers.url)
    assert answers.seen == [("/collections/docs/exists", "secret")] * tries


@pytest.mark.filterwarnings("ignore:Api key is used with an insecure connection")
@pytest.mark.parametrize(("status", "error"), [(401, ServerError), (403, ServerError), (400, StorageError)])
def test_what_does_not_pass_is_told_at_once(
    answers: type[Answers], status: int, error: type[Exception]
) -> None:
    answers.script[:] = [status]

    with pytest.raises(error, match=f"could not look for 'docs'.*{status}"):
        ask(answers.url)
    assert len(answers.seen) == 1


@pytest.mark.filterwarnings("ignore:Api key is used with an insecure connection")
def test_a_server_that_stays_busy_is_given_up(answers: type[Answers]) -> None:
    answers.script[:] = [503] * 10

    with pytest.raises(ServerError, match=r"does not answer.*tried 3 times"):
        ask(answers.url)


def test_a_server_that_is_not_there_is_told_in_plain_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_WAITS_S", (0.01,))
    with socket.socket() as taken:  # a port that is bound and does not listen refuses
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"

        with pytest.raises(
            ServerError, match=r"could not look for collection .*Check the URL and that it runs"
        ):
            SpladeIndex(url, model=WordEncoder())


def test_errors_of_this_package_pass_through() -> None:
    def refuse() -> None:
        raise InputError("no")

    with pytest.raises(InputError, match="no"):
        guarded(refuse, doing="x", waits_s=())
