"""A repository on Hugging Face, through huggingface_hub: its log-in, its cache, its requests."""

from __future__ import annotations

import os
import re
import threading
from typing import TYPE_CHECKING, Any, TypeVar

from ckptfmt.errors import HubError, MissingDependencyError
from ckptfmt.retrying import Passing, is_local, refusal, retried
from ckptfmt.sources.repository import RepositoryFile, checked_files

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ckptfmt.hub_address import HubAddress

T = TypeVar("T")

LOG_IN = "log in (hf auth login), set HF_TOKEN or give --token"
_DIGESTS = {40: "git", 64: "sha256"}
_HEX = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


class HuggingFaceRepository:
    """One revision of a model's repository.

    Parameters
    ----------
    address : HubAddress
        Which one.
    token : str or None
        None leaves it to the client.
    """

    def __init__(self, address: HubAddress, token: str | None) -> None:
        try:
            import huggingface_hub  # noqa: PLC0415
            from huggingface_hub import constants, errors, hf_api  # noqa: PLC0415
        except ImportError as error:
            raise MissingDependencyError(
                f"{address}: no such path here, and huggingface_hub, which would ask "
                f"Hugging Face, cannot be imported: {error}",
                hint="pip install 'ckptfmt[hub]'",
            ) from error
        self.address = address
        self.commit = ""
        self.files: list[RepositoryFile] = []
        self._hub, self._errors, self._entry = huggingface_hub, errors, hf_api.RepoFile
        #: Of the client's transport, which is another package from version to version.
        self._failure = next(
            base for base in errors.HfHubHTTPError.__mro__
            if base.__name__ == "HTTPError"
        )  # fmt: skip
        self._token = token
        self._cached: str | None = None
        self._open = threading.local()
        self._handles: list[Any] = []
        if constants.HF_HUB_OFFLINE:
            self._look_into_cache()
        else:
            self._ask()

    # ---- what is there ----

    def _ask(self) -> None:
        api = self._hub.HfApi(token=self._token)
        name = self.address.repository
        where = str(self.address)
        info = self._guarded(lambda: api.model_info(name, revision=self.address.revision), where)
        self.commit = info.sha or ""

        def listed() -> Iterator[RepositoryFile]:
            for entry in api.list_repo_tree(name, recursive=True, revision=info.sha):
                if isinstance(entry, self._entry):
                    yield _file(entry)

        self.files = self._guarded(lambda: checked_files(where, listed()), where)

    def _look_into_cache(self) -> None:
        """What an earlier download left: files are links to what their digest names."""
        try:
            self._cached = self._hub.snapshot_download(
                self.address.repository, revision=self.address.revision, local_files_only=True
            )
        except self._errors.LocalEntryNotFoundError as error:
            raise HubError(
                f"{self.address}: is not in the cache of huggingface_hub, "
                f"and HF_HUB_OFFLINE forbids to ask the hub",
                hint="unset HF_HUB_OFFLINE, or set HF_HOME to where the cache is",
            ) from error
        folder = self._cached
        self.commit = os.path.basename(folder)
        found = []
        for path, _, names in os.walk(folder):
            for name in names:
                full = os.path.join(path, name)
                digest = os.path.basename(os.path.realpath(full))
                known = digest if _HEX.fullmatch(digest) else ""
                found.append(RepositoryFile(
                    os.path.relpath(full, folder), os.path.getsize(full),
                    known, _DIGESTS.get(len(known), ""),
                ))  # fmt: skip
        self.files = checked_files(str(self.address), found)

    # ---- bytes ----

    def fetch(self, name: str) -> str:
        """Download a file into the client's cache, unless it is there; return its path."""
        if self._cached is not None:
            return os.path.join(self._cached, name)
        path: str = self._guarded(
            lambda: self._hub.hf_hub_download(
                self.address.repository, name, revision=self.commit, token=self._token
            ),
            f"{self.address}: {name}",
        )
        return path

    def read(self, name: str, start: int, nbytes: int, stopped: threading.Event) -> bytes:
        """Read some bytes of a file; the hub is asked for these alone."""

        def once() -> bytes:
            handle = self._handle(name)
            handle.seek(start)
            data: bytes = handle.read(nbytes)
            if len(data) != nbytes:
                raise Passing(f"{len(data)} bytes came, expected {nbytes}")
            return data

        return self._guarded(once, f"{self.address}: {name}", stopped)

    def _handle(self, name: str) -> Any:
        """A file opened by this thread: a handle has a position, and each read is a request."""
        handles = self._open.__dict__.setdefault("handles", {})
        if name not in handles:
            if self._cached is not None:
                handles[name] = open(os.path.join(self._cached, name), "rb")  # noqa: SIM115
            else:
                system = self._hub.HfFileSystem(token=self._token, skip_instance_cache=True)
                handles[name] = system.open(
                    f"{self.address.repository}@{self.commit}/{name}", "rb", cache_type="none"
                )
            self._handles.append(handles[name])
        return handles[name]

    def close(self) -> None:
        """Close what is open."""
        while self._handles:
            self._handles.pop().close()

    # ---- failures ----

    def _guarded(
        self, call: Callable[[], T], where: str, stopped: threading.Event | None = None
    ) -> T:
        errors = self._errors

        def once() -> T:
            try:
                return call()
            except errors.GatedRepoError as error:
                raise HubError(
                    f"{where}: its owner has not granted access", status=403,
                    hint=f"ask for it at the hub, then {LOG_IN}",
                ) from error  # fmt: skip
            except errors.RepositoryNotFoundError as error:
                raise HubError(
                    f"{where}: no such repository, or none that may be read without a login",
                    status=_status(error),
                    hint=f"if the name is right, {LOG_IN}; a local path has to exist",
                ) from error
            except errors.RevisionNotFoundError as error:
                raise HubError(
                    f"{where}: the repository has no revision {self.address.revision!r}",
                    status=404, hint="--revision takes a branch, a tag or a commit",
                ) from error  # fmt: skip
            except errors.HfHubHTTPError as error:
                after = error.response.headers.get("Retry-After")
                raise refusal(where, _status(error), after, LOG_IN) from error
            except (OSError, self._failure) as error:
                if isinstance(error.__cause__, errors.HfHubHTTPError):
                    cause = error.__cause__
                    raise refusal(where, _status(cause), None, LOG_IN) from error
                if isinstance(error, OSError) and is_local(error):
                    raise  # a full disk, a cache that may not be written
                raise Passing(f"the connection failed ({type(error).__name__})") from error

        return retried(once, where, stopped=stopped)


def _status(error: Any) -> int:
    return int(error.response.status_code) if error.response is not None else 0


def _file(entry: Any) -> RepositoryFile:
    if entry.lfs is not None:
        return RepositoryFile(entry.path, entry.lfs.size, entry.lfs.sha256, "sha256")
    return RepositoryFile(entry.path, entry.size, entry.blob_id or "", "git")
