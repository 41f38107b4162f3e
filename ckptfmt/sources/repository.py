"""A repository on a hub: its files, which of them are needed, and what each client must offer."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from ckptfmt.errors import HubError, SourceError
from ckptfmt.retrying import Passing, file_of
from ckptfmt.sources.folder import SKIPPED_FOLDERS, is_weights
from ckptfmt.sources.kinds import choose_weights

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterable

    from ckptfmt.hub_address import HubAddress

#: More files than any model has: a listing without end is refused, not kept.
MAX_FILES = 50_000
#: Bytes that are taken from a connection at once.
RECEIVE_NBYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class RepositoryFile:
    """A file as the hub lists it.

    Attributes
    ----------
    name : str
        Its path in the repository.
    nbytes : int
        Its size.
    digest : str
        What the hub publishes of its content, in hexadecimal; empty if nothing.
    algorithm : str
        ``sha256``, or ``git`` for the SHA-1 that git gives a file.
    """

    name: str
    nbytes: int
    digest: str = ""
    algorithm: str = ""

    def described(self) -> dict[str, object]:
        """For provenance."""
        known = {"sha256" if self.algorithm == "sha256" else "git_sha1": self.digest}
        return {"name": self.name, "nbytes": self.nbytes, **(known if self.digest else {})}


class Repository(Protocol):
    """One revision of a repository, through its hub's own client.

    Attributes
    ----------
    address : HubAddress
        What was named.
    commit : str
        What its revision is at the hub now; empty if the hub does not tell.
    files : list of RepositoryFile
        All of them, checked by `checked_files`.
    """

    address: HubAddress
    commit: str
    files: list[RepositoryFile]

    def fetch(self, name: str) -> str:
        """Download a file into the client's cache, unless it is there; return its path."""
        ...

    def read(self, name: str, start: int, nbytes: int, stopped: threading.Event) -> bytes:
        """Read some bytes of a file that is not to be kept; the hub is asked for these alone."""
        ...

    def close(self) -> None:
        """Release connections. Safe to call twice."""
        ...


@dataclass(slots=True)
class Needed:
    """Which files of a repository a conversion needs.

    Attributes
    ----------
    kind : str
        Of the source; empty where only what is in the file tells.
    files : tuple of str
        As in `Weights`; empty if `index` names them.
    weights : list of RepositoryFile
        Files with tensors; empty if `index` names them.
    index : RepositoryFile or None
        The weight index, which lists them.
    sidecars : list of RepositoryFile
        What travels along.
    left_out : list of str
        Other weights.
    """

    kind: str
    files: tuple[str, ...]
    weights: list[RepositoryFile]
    index: RepositoryFile | None
    sidecars: list[RepositoryFile] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


def checked_files(where: str, files: Iterable[RepositoryFile]) -> list[RepositoryFile]:
    """Refuse a listing that no honest hub gives: names that lead elsewhere, doubles, no end."""
    found: dict[str, RepositoryFile] = {}
    for file in files:
        if not is_plain(file.name):
            raise SourceError(f"{where}: lists a file {file.name!r}, which is outside of it")
        if file.name in found:
            raise SourceError(f"{where}: lists {file.name!r} twice")
        if file.nbytes < 0:
            raise SourceError(f"{where}: lists {file.name!r} with {file.nbytes} bytes")
        found[file.name] = file
        if len(found) > MAX_FILES:
            raise SourceError(f"{where}: lists more than {MAX_FILES} files")
    for name in found:
        folder = os.path.dirname(name)
        while folder:
            if folder in found:
                raise SourceError(f"{where}: lists {folder!r} as a file and as a folder")
            folder = os.path.dirname(folder)
    return [found[name] for name in sorted(found)]


def received(
    where: str, status: int, nbytes: int, chunks: Iterable[bytes], stopped: threading.Event
) -> bytes:
    """Take in a range that was asked for, and no more of it.

    Parameters
    ----------
    where : str
        ``ADDRESS: FILE``.
    status : int
        What the hub answered with.
    nbytes : int
        Bytes that were asked for.
    chunks : iterable of bytes
        The body as it comes.
    stopped : Event
        Once it is set, nothing more is taken in.

    Raises
    ------
    HubError
        It is something else than this range.
    Passing
        It ended early.
    """
    file = file_of(where)
    if status != 206:
        raise HubError(
            f"{where}: the hub was asked for a range, and answers with status {status}",
            file=file, status=status, hint="leave --stream out",
        )  # fmt: skip
    found: list[bytes] = []
    left = nbytes
    for chunk in chunks:
        found.append(chunk)
        left -= len(chunk)
        if left < 0:
            raise HubError(f"{where}: more came than the {nbytes} bytes asked for", file=file)
        if stopped.is_set():
            raise HubError(f"{where}: the conversion was stopped", file=file)
    if left:
        raise Passing(f"{nbytes - left} bytes came, expected {nbytes}")
    return b"".join(found)


def is_plain(name: str) -> bool:
    """Whether a name stays below its folder, however it is joined."""
    parts = name.split("/")
    return (
        not any(part in ("", ".", "..") or len(os.fsencode(part)) > 255 for part in parts)
        and len(parts) <= 32
        and "\\" not in name
        and not any(ord(character) < 32 for character in name)
    )


def choose_files(where: str, files: list[RepositoryFile]) -> Needed:
    """Choose as for a folder.

    Raises
    ------
    SourceError
        No weights, or several sets of them.
    """
    by_name = {file.name: file for file in files}
    names = list(by_name)
    try:
        chosen = choose_weights(where, names)
    except SourceError as error:
        raise SourceError(
            error.message, hint="fetch what is meant with the hub's client, and convert that"
        ) from error
    if chosen is None:
        others = [name for name in names if is_weights(os.path.basename(name))]
        found = f"; found {', '.join(others[:6])}" if others else ""
        raise SourceError(f"{where}: no weights in it that can be read{found}")
    needed = Needed(
        chosen.kind, chosen.files, [by_name[name] for name in chosen.parts(names)],
        by_name[chosen.index] if chosen.index else None,
    )  # fmt: skip
    for file in files:
        if file in needed.weights or SKIPPED_FOLDERS & set(file.name.split("/")[:-1]):
            continue
        if is_weights(os.path.basename(file.name)):
            needed.left_out.append(file.name)
        else:
            needed.sidecars.append(file)
    return needed
