"""Trying again what may work the next time: a few times, each time after a longer wait."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, TypeVar

from ckptfmt.errors import HubError

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

#: Answers that may be others the next time.
PASSING_STATUS = {408, 425, 429, 500, 502, 503, 504}

#: Seconds before each further try; a hub may ask for more.
WAITS_S = (1.0, 2.0, 4.0, 8.0)
#: More than this nobody waits for, whatever a hub asks.
LONGEST_WAIT_S = 300.0


class Passing(Exception):
    """Inside a try: it failed in a way that may pass.

    Parameters
    ----------
    reason : str
        In words of ours.
    retry_after_s : float
        How long the hub asks to wait; 0 if it does not.
    """

    def __init__(self, reason: str, retry_after_s: float = 0.0) -> None:
        super().__init__(reason)
        self.reason = reason
        self.retry_after_s = retry_after_s


def refusal(where: str, status: int, retry_after: str | None, log_in: str) -> Exception:
    """What to raise when a hub answers with a status that is no success.

    Parameters
    ----------
    where : str
        The repository's address, and the file if it is about one.
    status : int
        Of HTTP; 0 if the client does not tell.
    retry_after : str or None
        The header of this name.
    log_in : str
        What to do for more rights, with this hub's client.
    """
    if status in PASSING_STATUS:
        after = (retry_after or "").strip()
        seconds = float(after) if after.isdecimal() else 0.0
        what = "there are too many requests" if status == 429 else "it fails"
        return Passing(f"the hub says that {what} (status {status})", seconds)
    if status == 401:
        return HubError(
            f"{where}: no such repository, or none that may be read without a login (status 401)",
            file=file_of(where), status=status, hint=f"if the name is right, {log_in}",
        )  # fmt: skip
    if status == 403:
        return HubError(
            f"{where}: this login may not read it (status 403)",
            file=file_of(where), status=status, hint=f"ask for access at the hub, then {log_in}",
        )  # fmt: skip
    return HubError(
        f"{where}: the hub answers with status {status}", file=file_of(where), status=status
    )


def is_local(error: OSError) -> bool:
    """Whether the system failed on this side, by its number, rather than the connection."""
    return error.errno is not None and not isinstance(error, (ConnectionError, TimeoutError))


def file_of(where: str) -> str:
    """The file that ``ADDRESS: FILE`` is about; empty if it is about none."""
    return where.partition(": ")[2]


def retried(
    call: Callable[[], T],
    what: str,
    *,
    stopped: threading.Event | None = None,
    waits_s: tuple[float, ...] | None = None,
) -> T:
    """Call until it does not raise `Passing`, or the tries are used up.

    Parameters
    ----------
    call : callable
        One try.
    what : str
        What is fetched, for the message.
    stopped : Event, optional
        Ends the waiting: the last failure is raised then.
    waits_s : tuple of float, optional
        `WAITS_S` if not given; empty for what the callee has tried again itself.

    Raises
    ------
    HubError
        The last try failed as well, or the hub asks to wait for too long.
    """
    stopped = stopped or threading.Event()
    waits_s = WAITS_S if waits_s is None else waits_s
    for number in range(len(waits_s) + 1):
        try:
            return call()
        except Passing as error:
            last = number == len(waits_s)
            wait_s = error.retry_after_s if last else max(waits_s[number], error.retry_after_s)
            if last or wait_s > LONGEST_WAIT_S or stopped.wait(wait_s):
                tries = f" (after {number + 1} tries)" if number else ""
                raise HubError(
                    f"{what}: {error.reason}{tries}", file=file_of(what),
                    hint=f"the hub asks to wait for {error.retry_after_s:.0f} s"
                    if error.retry_after_s > LONGEST_WAIT_S
                    else "a conversion that had finished partitions goes on with --resume",
                ) from error  # fmt: skip
    raise AssertionError("the last try returns or raises")
