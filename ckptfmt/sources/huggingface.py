"""A repository on Hugging Face, through huggingface_hub: its log-in, its cache, its requests."""

from __future__ import annotations

import os
import re
import threading
from typing import TYPE_CHECKING, Any, TypeVar

from ckptfmt.errors import CkptError, HubError, MissingDependencyError, OptionError
from ckptfmt.retrying import Passing, file_of, is_local, refusal, retried
from ckptfmt.sources.repository import RECEIVE_NBYTES, RepositoryFile, checked_files, received

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ckptfmt.hub_address import HubAddress

T = TypeVar("T")

DEFAULT_REVISION = "main"
#: Without a byte for so long, a connection is given up.
TIMEOUT_S = 30.0
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
            from huggingface_hub import constants, errors, hf_api, utils  # noqa: PLC0415
        except ImportError as error:
            raise MissingDependencyError(
                f"{address}: no such path here, and huggingface_hub, which would ask "
                f"Hugging Face, cannot be imported: {error}",
                hint="pip install 'ckptfmt[hub]'",
            ) from error
        self.address = address
        self.commit = ""
        self.files: list[RepositoryFile] = []
        self._hub, self._errors, self._calls = huggingface_hub, errors, utils
        self._entry = hf_api.RepoFile
        # Of the transport, which is another package from version to version, and of Xet.
        transport = next(b for b in errors.HfHubHTTPError.__mro__ if b.__name__ == "HTTPError")
        xet = getattr(errors, "XetDownloadError", RuntimeError)
        self._failures = (OSError, transport, xet, RuntimeError)
        self._token = token
        self._cached: str | None = None
        self._noted = False
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
        if not _HEX.fullmatch(self.commit):
            raise HubError(f"{where}: the hub says that its commit is {self.commit!r}")

        def listed() -> Iterator[RepositoryFile]:
            for entry in api.list_repo_tree(name, recursive=True, revision=info.sha):
                if isinstance(entry, self._entry):
                    yield _file(entry)

        self.files = self._guarded(lambda: checked_files(where, listed()), where)

    def _look_into_cache(self) -> None:
        """What earlier downloads left: files there are links to what their digests name."""
        wanted = self.address.revision or DEFAULT_REVISION
        found = None
        try:
            for repository in self._hub.scan_cache_dir().repos:
                if (repository.repo_type, repository.repo_id) == ("model", self.address.repository):
                    for revision in repository.revisions:
                        if wanted == revision.commit_hash or wanted in revision.refs:
                            found = revision
        except self._errors.CacheNotFound:
            pass
        if found is None:
            raise HubError(
                f"{self.address}: its revision {wanted!r} is not in the cache of huggingface_hub, "
                f"and HF_HUB_OFFLINE forbids to ask the hub",
                hint="unset HF_HUB_OFFLINE, or set HF_HOME to where the cache is",
            )
        self._cached = str(found.snapshot_path)
        self.commit = found.commit_hash
        listed = []
        for file in found.files:
            digest = file.blob_path.name if _HEX.fullmatch(file.blob_path.name) else ""
            listed.append(RepositoryFile(
                str(file.file_path.relative_to(found.snapshot_path)), file.size_on_disk,
                digest, _DIGESTS.get(len(digest), ""),
            ))  # fmt: skip
        self.files = checked_files(str(self.address), listed)

    # ---- bytes ----

    def fetch(self, name: str) -> str:
        """Download a file into the client's cache, unless it is there; return its path."""
        if self._cached is not None:
            return os.path.join(self._cached, name)
        # Asked by its name once, the client notes for later what the revision means.
        revision = self.commit if self._noted else self.address.revision or DEFAULT_REVISION
        self._noted = True
        where = f"{self.address}: {name}"
        path: str = self._guarded(
            lambda: self._hub.hf_hub_download(
                self.address.repository, name, revision=revision, token=self._token
            ),
            where,
        )
        if f"/{self.commit}/" not in path:
            raise HubError(
                f"{where}: the revision {revision!r} was {self.commit} a moment ago, and is not "
                f"any more", file=name, hint="try again, or name a commit with --revision",
            )  # fmt: skip
        return path

    def read(self, name: str, start: int, nbytes: int, stopped: threading.Event) -> bytes:
        """Read some bytes of a file; the hub is asked for these alone."""
        if self._cached is not None:
            with open(os.path.join(self._cached, name), "rb") as stream:
                stream.seek(start)
                return stream.read(nbytes)
        url = self._hub.hf_hub_url(self.address.repository, name, revision=self.commit)
        where = f"{self.address}: {name}"

        def once() -> bytes:
            headers = self._calls.build_hf_headers(token=self._token)
            headers |= {"Range": f"bytes={start}-{start + nbytes - 1}"}
            # The client's own way to ask, but for its retries: these are ours, below.
            with self._calls.http_stream_backoff(
                "GET", url, headers=headers, max_retries=0, timeout=TIMEOUT_S
            ) as response:
                self._calls.hf_raise_for_status(response)
                chunks = response.iter_bytes(RECEIVE_NBYTES)
                return received(where, response.status_code, nbytes, chunks, stopped)

        return self._guarded(once, where, stopped) if nbytes else b""

    def close(self) -> None:
        """Nothing is kept open but what the client keeps."""

    # ---- failures ----

    def _guarded(
        self, call: Callable[[], T], where: str, stopped: threading.Event | None = None
    ) -> T:
        errors = self._errors

        def once() -> T:
            try:
                return call()
            except CkptError:
                raise
            except errors.GatedRepoError as error:
                raise HubError(
                    f"{where}: this login may not read it (status 403)",
                    file=file_of(where), status=403, hint=f"ask for it at the hub, then {LOG_IN}",
                ) from error  # fmt: skip
            except errors.RepositoryNotFoundError as error:
                raise HubError(
                    f"{where}: no such repository, or none that may be read without a login",
                    file=file_of(where), status=_status(error),
                    hint=f"if the name is right, {LOG_IN}",
                ) from error
            except errors.RevisionNotFoundError as error:
                raise HubError(
                    f"{where}: the repository has no revision {self.address.revision!r}",
                    status=404, hint="--revision takes a branch, a tag or a commit",
                ) from error  # fmt: skip
            except errors.HfHubHTTPError as error:
                after = error.response.headers.get("Retry-After")
                raise refusal(where, _status(error), after, LOG_IN) from error
            except errors.HFValidationError as error:
                raise OptionError(f"{where}: the client refuses this name: {error}") from error
            except self._failures as error:
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
