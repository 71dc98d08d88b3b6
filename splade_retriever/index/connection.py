"""Sends requests to a store: repeats those that may succeed later, and translates the store's errors."""

import contextlib
import logging
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from splade_retriever.errors import ServerError, SpladeError, StorageError
from splade_retriever.index.server_errors import Failure, classify

__all__ = [
    "LOAD_RETRY_FOR_S",
    "RETRY_FOR_S",
    "Connection",
    "RequestTimedOutError",
    "RequestTooLargeError",
]

logger = logging.getLogger(__name__)
T = TypeVar("T")

RETRY_FOR_S: Final = 10.0
"""How long a request is repeated unless `retry_for` is set."""
LOAD_RETRY_FOR_S: Final = 300.0
"""How long requests of a load (`add`, migrate, reindex) are repeated: a server may restart meanwhile."""
_WAITS_S: Final = (0.2, 0.5, 1.0, 2.0, 4.0)
"""Pauses between tries, of which the last one repeats. A request has the same result when sent twice."""
_MAX_CONCURRENT: Final = 4


class RequestTooLargeError(StorageError):
    """The server takes this request only in parts."""

    def __init__(self, message: str, max_bytes: int | None) -> None:
        super().__init__(message)
        self.max_bytes = max_bytes
        """The largest request that it takes; None where it does not say."""


class RequestTimedOutError(ServerError):
    """The server did not answer in time; a smaller request may be answered."""


class Connection:
    """The requests that are sent to one store; safe to use from several threads."""

    def __init__(
        self,
        location: str,
        *,
        retry_for: float | None = None,
        advise: Callable[[Failure], str] = lambda _: "",
    ) -> None:
        """Keep how to send; nothing is sent.

        Args:
            location: Where the store is, for messages.
            retry_for: Seconds for which a request is repeated; None for 10, and 300 during a load.
            advise: Says what is wrong where no server ever answered; "" if it is not known.
        """
        self._location = location
        self._retry_for = retry_for
        self._advise = advise
        self._answered = False
        self._outage = _Outage(location)
        self._of_thread = threading.local()
        self.only_loads = False
        """Whether all requests are those of a load."""

    @contextlib.contextmanager
    def loading(self) -> Iterator[None]:
        """Repeat the requests that this thread sends inside for as long as those of a load."""
        self._of_thread.loads = getattr(self._of_thread, "loads", 0) + 1
        try:
            yield
        finally:
            self._of_thread.loads -= 1

    @property
    def retry_for_s(self) -> float:
        """Seconds for which a request of this thread is repeated."""
        if self._retry_for is not None:
            return self._retry_for
        return LOAD_RETRY_FOR_S if self._is_loading else RETRY_FOR_S

    @property
    def _is_loading(self) -> bool:
        return self.only_loads or getattr(self._of_thread, "loads", 0) > 0

    def run_concurrently(self, calls: Sequence[Callable[[], object]]) -> None:
        """Run calls at the same time, at most four, and return when all have ended.

        The requests of all calls are those of a load if this thread's are.

        Raises:
            SpladeError: What the first call that failed raised; the others are run nevertheless.
        """
        if len(calls) == 1:
            calls[0]()
            return
        run = self._run_as_load if self._is_loading else _run
        with ThreadPoolExecutor(_MAX_CONCURRENT, thread_name_prefix="splade-call") as pool:
            futures = [pool.submit(run, call) for call in calls]
        for future in futures:
            future.result()

    def _run_as_load(self, call: Callable[[], object]) -> None:
        with self.loading():
            call()

    def send(
        self,
        call: Callable[[], T],
        *,
        doing: str,
        retry_for_s: float | None = None,
        can_be_cut: bool = False,
    ) -> T:
        """Send one request; send it again where that can help.

        Args:
            call: Safe to repeat.
            doing: What is being done, for messages: "search collection 'splade'".
            retry_for_s: Seconds for which it is repeated; None for `self.retry_for_s`.
            can_be_cut: Raise at once where a smaller request may succeed.

        Raises:
            ServerError: The server cannot be reached, or is still busy after that time.
            StorageError: The store refused or failed.
            FilterError: The store refuses the filter.
            RequestTooLargeError: The server takes it only in parts.
            RequestTimedOutError: With `can_be_cut`, the server did not answer in time.
        """
        limit_s = self.retry_for_s if retry_for_s is None else retry_for_s
        started = time.monotonic()
        tries = 0
        while True:
            tries += 1
            try:
                answer = call()
            except SpladeError:
                raise
            except Exception as error:
                failure = classify(error)
                self._raise_if_permanent(failure, error, doing, can_be_cut=can_be_cut)
                elapsed_s = time.monotonic() - started
                pause_s = _pause(failure, tries, limit_s - elapsed_s)
                if pause_s is None:
                    advice = failure.advice or ("" if self._answered else self._advise(failure))
                    raise ServerError(_given_up(failure, doing, tries, elapsed_s, advice)) from error
                self._outage.note(failure, doing, limit_s)
                time.sleep(pause_s)
            else:
                self._answered = True
                self._outage.end()
                return answer

    def _raise_if_permanent(
        self, failure: Failure, error: Exception, doing: str, *, can_be_cut: bool
    ) -> None:
        """Raise for what the next try cannot change."""
        if failure.too_large:
            message = f"Could not {doing}: {failure.message}."
            raise RequestTooLargeError(message, failure.max_bytes) from error
        if failure.timed_out and can_be_cut:
            self._outage.note(failure, doing, self.retry_for_s)
            raise RequestTimedOutError(f"Could not {doing}: {failure.message}.") from error
        if failure.no_connection and not self._answered:
            # A server that never answered is more likely elsewhere than on its way.
            advice = self._advise(failure)
            if not failure.transient or self._retry_for is None:
                raise ServerError(_sentences(f"Could not {doing}: {failure.message}", advice)) from error
        elif not failure.no_connection:
            self._answered = True
        if not failure.transient:
            advice = failure.advice or (self._advise(failure) if failure.no_connection else "")
            raise failure.kind(_sentences(f"Could not {doing}: {failure.message}", advice)) from error


def _run(call: Callable[[], object]) -> None:
    call()


class _Outage:
    """Logs once when a server stops answering, and once when it answers again."""

    def __init__(self, location: str) -> None:
        self._location = location
        self._lock = threading.Lock()
        self._since: float | None = None

    def note(self, failure: Failure, doing: str, limit_s: float) -> None:
        with self._lock:
            if self._since is not None:
                return
            self._since = time.monotonic()
        logger.warning(
            "The server at %s does not answer as expected (%s), waiting since %s to %s; trying again for %s.",
            self._location,
            failure.message,
            time.strftime("%H:%M:%S"),
            doing,
            _duration(limit_s),
        )

    def end(self) -> None:
        if self._since is None:
            return
        with self._lock:
            since, self._since = self._since, None
        if since is not None:
            logger.warning(
                "The server at %s answers again after %s.",
                self._location,
                _duration(time.monotonic() - since),
            )


def _pause(failure: Failure, tries: int, remaining_s: float) -> float | None:
    """Return the seconds to wait before the next try; None where the time is over."""
    if failure.retry_after_s > remaining_s or remaining_s <= 0.0:
        return None
    wait_s = _WAITS_S[min(tries, len(_WAITS_S)) - 1]
    return min(max(wait_s, failure.retry_after_s), remaining_s)


def _given_up(failure: Failure, doing: str, tries: int, elapsed_s: float, advice: str) -> str:
    number = "one try" if tries == 1 else f"{tries} tries"
    asked = (
        f" It asks for a pause of {_duration(failure.retry_after_s)}." if failure.retry_after_s > 0.0 else ""
    )
    advice = advice or "Check the URL and that the server runs; retry_for= sets how long to try"
    return (
        f"Could not {doing}: the server did not answer as expected ({failure.message}) in {number} within "
        f"{_duration(elapsed_s)}.{asked} {advice}. Acknowledged writes are kept."
    )


def _sentences(*parts: str) -> str:
    return " ".join(f"{part.rstrip('.')}." for part in parts if part)


def _duration(seconds: float) -> str:
    if seconds < 10.0:
        return f"{seconds:.1f}".removesuffix(".0") + " s"
    return f"{math.ceil(seconds)} s"
