"""A repository on ModelScope, through modelscope_hub: its log-in, its cache, its requests."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, TypeVar

from ckptfmt.errors import HubError, MissingDependencyError
from ckptfmt.retrying import Passing, file_of, refusal, retried
from ckptfmt.sources.repository import RECEIVE_NBYTES, RepositoryFile, checked_files, received

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckptfmt.hub_address import HubAddress

T = TypeVar("T")

LOG_IN = "log in (modelscope login), set MODELSCOPE_API_TOKEN or give --token"
DEFAULT_REVISION = "master"
_MODEL = "model"


class ModelScopeRepository:
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
            import modelscope_hub  # noqa: PLC0415
            import requests  # noqa: PLC0415
            from modelscope_hub import errors  # noqa: PLC0415
        except ImportError as error:
            raise MissingDependencyError(
                f"{address}: modelscope_hub, which would ask ModelScope, "
                f"cannot be imported: {error}",
                hint="pip install 'ckptfmt[hub]'",
            ) from error
        self.address = address
        self._errors = errors
        self._requests = requests
        self._api = modelscope_hub.HubApi(token=token)
        self._revision = address.revision or DEFAULT_REVISION
        where = str(address)
        listed = self._guarded(
            lambda: self._api.legacy.list_repo_files(
                address.repository, _MODEL, revision=self._revision, recursive=True
            ),
            where,
        )
        entries = [entry for entry in listed if entry.get("Type") != "tree"]
        self.files = checked_files(where, map(_file, entries))
        self._digests = {file.name: file.digest for file in self.files}
        # The hub tells for each file in which commit it came: the latest one is the revision's.
        entries.sort(key=lambda entry: int(entry.get("CommittedDate") or 0))
        self.commit = str(entries[-1].get("Revision") or "") if entries else ""

    def fetch(self, name: str) -> str:
        """Download a file into the client's cache, unless it is there; return its path."""
        path = self._guarded(
            lambda: self._api.download_file(
                self.address.repository, _MODEL, name, revision=self._revision,
                expected_sha256=self._digests[name] or None,
            ),
            f"{self.address}: {name}", waits_s=(),  # the client has tries of its own
        )  # fmt: skip
        return str(path)

    def read(self, name: str, start: int, nbytes: int, stopped: threading.Event) -> bytes:
        """Read some bytes of a file; the hub is asked for these alone."""

        where = f"{self.address}: {name}"

        def once() -> bytes:
            response = self._api.legacy.download_stream(
                self.address.repository, _MODEL, name, self._revision,
                {"Range": f"bytes={start}-{start + nbytes - 1}"},
            )  # fmt: skip
            with response:
                chunks = response.iter_content(RECEIVE_NBYTES)
                return received(where, response.status_code, nbytes, chunks, stopped)

        return self._guarded(once, where, stopped) if nbytes else b""

    def close(self) -> None:
        """Nothing is kept open but what the client keeps."""

    def _guarded(
        self,
        call: Callable[[], T],
        where: str,
        stopped: threading.Event | None = None,
        waits_s: tuple[float, ...] | None = None,
    ) -> T:
        """Call the client; its errors become ours, and what may pass is tried again."""
        errors = self._errors

        def once() -> T:
            try:
                return call()
            except errors.NotExistError as error:
                raise HubError(
                    f"{where}: no such repository, or no revision {self._revision!r} of it, "
                    f"or none that may be read without a login",
                    file=file_of(where), status=404, hint=f"if the name is right, {LOG_IN}",
                ) from error  # fmt: skip
            except errors.APIError as error:
                after = getattr(error, "retry_after", None)
                seconds = None if after is None else str(int(after))
                raise refusal(where, error.status_code or 0, seconds, LOG_IN) from error
            except errors.FileIntegrityError as error:
                raise HubError(
                    f"{where}: came several times with another SHA-256 than the hub says",
                    file=file_of(where), hint="the file is damaged at the hub, or on its way",
                ) from error  # fmt: skip
            except self._requests.RequestException as error:
                raise Passing(f"the connection failed ({type(error).__name__})") from error
            except errors.NetworkError as error:
                raise Passing("the hub cannot be reached") from error
            except errors.HubError as error:
                raise HubError(
                    f"{where}: its client failed ({type(error).__name__})", file=file_of(where)
                ) from error

        return retried(once, where, stopped=stopped, waits_s=waits_s)


def _file(entry: dict[str, Any]) -> RepositoryFile:
    digest = str(entry.get("Sha256") or "").lower()
    return RepositoryFile(
        str(entry.get("Path") or entry.get("Name") or ""), int(entry.get("Size") or 0),
        digest, "sha256" if digest else "",
    )  # fmt: skip
