"""A folder that appears whole or not at all.

Everything is written to ``DST.partial`` under a lock, made durable, and renamed. Nothing that is
already at ``DST`` is touched before that.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import warnings
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec

from ckptfmt import _core, layout, telemetry
from ckptfmt.errors import FileError, TargetExistsError, failing_as

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

_COPY_NBYTES = 1 << 20


class State(msgspec.Struct):
    """What an unfinished conversion knows of itself.

    Attributes
    ----------
    identity : dict
        Tool, source and options; to resume, all must be the same.
    done : list of int
        Partitions that are complete and durable.
    """

    identity: dict[str, object]
    done: list[int] = []


class Target:
    """The folder being written. Use as a context manager: leaving it releases the lock.

    Parameters
    ----------
    path : str
        Where the finished folder will be.
    force : bool
        Replace what is there; discard an unfinished one unless that is to be resumed.
    may_replace : bool
        Whether `force` is something the person could have asked for.
    """

    def __init__(self, path: str, *, force: bool, may_replace: bool = True) -> None:
        self.path = path.rstrip("/") or "/"
        if os.path.islink(self.path) or os.path.basename(self.path) in (".", ".."):
            # What a link leads to is replaced, not the link; and "." has no name to stand beside.
            self.path = os.path.realpath(self.path)
        self.partial = self.path + ".partial"
        self.old = self.path + ".replaced"  # not .old: people name their own copies so
        self.force = force
        self.may_replace = may_replace
        self.sums: dict[bytes, str] = {}
        self._state = State({})
        self._lock_fds: list[int] = []
        self._refuse_existing()

    def _put_back(self) -> None:
        """Replacing was cut off between two renames: the old one goes back first."""
        if os.path.lexists(self.path):
            return
        if os.path.exists(os.path.join(self.old, layout.INDEX_FILE)):
            with failing_as(self.old, "cannot be put back"):
                os.rename(self.old, self.path)

    def _refuse_existing(self) -> None:
        if not os.path.lexists(self.path):
            return
        if not os.path.isdir(self.path):
            raise TargetExistsError(errno.EEXIST, "the target is a file", self.path)
        if not os.listdir(self.path):
            return
        if not self.force:
            raise TargetExistsError(
                errno.EEXIST, "the target exists", self.path,
                hint="--force replaces it" if self.may_replace else "choose another target",
            )  # fmt: skip
        if not os.path.exists(os.path.join(self.path, layout.INDEX_FILE)):
            raise TargetExistsError(
                errno.EEXIST, "the target is a folder, but not a checkpoint", self.path,
                hint="--force only replaces checkpoints: remove the folder yourself",
            )  # fmt: skip

    def begin(self, identity: Mapping[str, object], *, resume: bool) -> list[int]:
        """Take the lock and lay out, or take up, the unfinished folder.

        Returns
        -------
        list of int
            Partitions that are done already.
        """
        self._lock()
        state = self._read_state()
        if state is not None and resume:
            self._compare(state.identity, identity)
            # A sidecar may have gone since.
            self._clear({layout.STATE_FILE, *map(layout.partition_file, state.done)})
            self._state = state
            return state.done
        if state is not None and state.done and not self.force:
            raise TargetExistsError(
                errno.EEXIST,
                f"an unfinished conversion with {len(state.done)} finished partitions",
                self.partial, hint="--resume goes on with it, --force begins anew",
            )  # fmt: skip
        if state is None:
            self._refuse_foreign()
        # First of all: a state that counts partitions as done must not outlive them.
        self.write_state(State(dict(identity)))
        self._clear({layout.STATE_FILE})
        return []

    def _clear(self, kept: Collection[str] = ()) -> None:
        """Empty the unfinished folder; what tells that it is ours goes last, if this is cut off."""
        marks = (layout.INDEX_FILE, layout.STATE_FILE)
        with failing_as(self.partial, "cannot be cleared"):
            for name in sorted(os.listdir(self.partial), key=lambda name: name in marks):
                if name not in kept:
                    _remove(os.path.join(self.partial, name))

    def _lock(self) -> None:
        """Lock the folder itself: no lock file is left behind, and it moves with the rename."""
        while True:
            try:
                os.mkdir(self.partial)
            except FileExistsError:
                pass
            except OSError as error:
                raise FileError(error.errno or errno.EIO, "cannot be made", self.partial) from error
            try:
                fd = os.open(self.partial, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            except FileNotFoundError:
                continue  # the other one has just finished
            except OSError as error:
                raise FileError(
                    error.errno or errno.EIO, "cannot be opened", self.partial
                ) from error
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                os.close(fd)
                raise TargetExistsError(
                    errno.EAGAIN, "another conversion is writing it", self.partial,
                    hint="wait for it, or choose another target",
                ) from error  # fmt: skip
            except OSError as error:
                # Some network file systems have no locks: the person has to see to it then.
                warnings.warn(
                    f"{self.partial}: cannot be locked ({error.strerror}); "
                    f"see that no other conversion writes here",
                    RuntimeWarning, stacklevel=2,
                )  # fmt: skip
            try:
                same = os.path.samestat(os.fstat(fd), os.stat(self.partial))
            except FileNotFoundError:
                same = False
            if same:
                self._lock_fds.append(fd)
                self._put_back()
                self._refuse_existing()  # it may have come while we waited
                return
            os.close(fd)

    def _read_state(self) -> State | None:
        path = os.path.join(self.partial, layout.STATE_FILE)
        try:
            with failing_as(path, "cannot be read"), open(path, "rb") as stream:
                return msgspec.json.decode(stream.read(), type=State)
        except msgspec.DecodeError:
            return None
        except FileError as error:
            if error.errno == errno.ENOENT:
                return None
            raise

    def _refuse_foreign(self) -> None:
        """Never empty a folder that only happens to have this name."""
        names = set(os.listdir(self.partial))
        only_state = names <= {layout.STATE_FILE, layout.STATE_FILE + "~"}
        if layout.INDEX_FILE not in names and not only_state:
            raise TargetExistsError(
                errno.EEXIST, "is there, and was not left by a conversion", self.partial,
                hint="move it away: the conversion needs this name",
            )  # fmt: skip

    def _compare(self, old: Mapping[str, object], new: Mapping[str, object]) -> None:
        new = msgspec.json.decode(msgspec.json.encode(new))
        for key in sorted({*old, *new}):
            if old.get(key) != new.get(key):
                raise TargetExistsError(
                    errno.EEXIST, f"cannot be resumed: the {key} was {old.get(key)!r} "
                    f"and is {new.get(key)!r}", self.partial,
                    hint="--force without --resume begins anew",
                )  # fmt: skip

    def write_state(self, state: State) -> None:
        """Replace the state file as a whole."""
        self._state = state
        path = os.path.join(self.partial, layout.STATE_FILE)
        with failing_as(path, "cannot be written"):
            with open(path + "~", "wb") as stream:
                stream.write(msgspec.json.encode(state))
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(path + "~", path)

    def write_file(self, name: str, data: bytes) -> None:
        """Write a small file of ours, durable, and remember its sum."""
        path = os.path.join(self.partial, name)
        with failing_as(path, "cannot be written"), open(path, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        self.sums[os.fsencode(name)] = hashlib.sha256(data).hexdigest()

    def copy_file(self, source: str, name: str) -> None:
        """Copy a sidecar, durable, with the modes of a new file, and remember its sum."""
        path = os.path.join(self.partial, name)
        digest = hashlib.sha256()
        with failing_as(path, "cannot be written"):
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "wb") as writer:
                for data in _read_file(source):
                    digest.update(data)
                    writer.write(data)
                writer.flush()
                os.fsync(writer.fileno())
        self.sums[os.fsencode(name)] = digest.hexdigest()

    def write_sums(self) -> None:
        """Write the list of sums of all files written so far but the partitions."""
        sums = b"".join(sums_line(name, digest) for name, digest in sorted(self.sums.items()))
        self.write_file(layout.SUMS_FILE, sums)

    def finish(self) -> None:
        """Make everything durable, and let the folder appear under its name."""
        with failing_as(self.partial, "cannot be made durable"):
            for folder, _, _ in os.walk(self.partial):
                _sync_folder(folder)
        state = os.path.join(self.partial, layout.STATE_FILE)
        with failing_as(state, "cannot be removed"):
            os.remove(state)
        try:
            with failing_as(self.partial, "cannot be made durable"):
                _sync_folder(self.partial)
            self._appear()
        except OSError:
            with suppress(OSError):  # it can be resumed then
                self.write_state(self._state)
            raise
        parent = os.path.dirname(os.path.abspath(self.path))
        with failing_as(self.path, "is complete, but its name could not be made durable"):
            _sync_folder(parent)
        self._remove_replaced()

    def _remove_replaced(self) -> None:
        if os.path.isdir(self.partial):
            self._clear()
            with failing_as(self.partial, "cannot be removed"):
                os.rmdir(self.partial)
        if os.path.isdir(self.old):
            with failing_as(self.old, "cannot be removed"):
                # Without its index it is no checkpoint that might be put back.
                with suppress(FileNotFoundError):
                    os.remove(os.path.join(self.old, layout.INDEX_FILE))
                shutil.rmtree(self.old)

    def _appear(self) -> None:
        """Give the folder its name, at once, or in two steps where folders cannot be exchanged.

        If it fails, everything is as it was.
        """
        if not os.path.isdir(self.path) or not os.listdir(self.path):
            self._rename_new()
            return
        self._refuse_existing()
        # The old folder gets the name that others would lock to write: not before it is gone.
        with failing_as(self.path, "cannot be opened"):
            self._lock_fds.append(os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        with suppress(OSError):
            fcntl.flock(self._lock_fds[-1], fcntl.LOCK_EX | fcntl.LOCK_NB)
        try:
            _core.rename_exchange(self.partial, self.path)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.EPERM, errno.EOPNOTSUPP):
                code = error.errno or errno.EIO
                raise FileError(code, "cannot be replaced", self.path) from error
            telemetry.log.warning(
                "%s: folders cannot be exchanged here (%s), so for a moment there is none of this "
                "name", self.path, error.strerror,
            )  # fmt: skip
        else:
            return
        with failing_as(self.path, "cannot be moved out of the way"):
            if os.path.isdir(self.old):
                shutil.rmtree(self.old)
            os.rename(self.path, self.old)
        try:
            self._rename_new()
        except FileError:
            with failing_as(self.old, "cannot be put back"):
                os.rename(self.old, self.path)
            raise

    def _rename_new(self) -> None:
        try:
            os.rename(self.partial, self.path)  # an empty folder may be there; nothing else may
        except OSError as error:
            code = error.errno or errno.EIO
            if code not in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
                raise FileError(code, "cannot be given its name", self.path) from error
            raise TargetExistsError(
                code, "came into being meanwhile", self.path,
                hint=f"the finished conversion is in {self.partial}",
            ) from error  # fmt: skip

    def close(self) -> None:
        """Release the lock. Safe to call twice."""
        while self._lock_fds:
            os.close(self._lock_fds.pop())

    def discard_if_empty(self) -> None:
        """After a failure: leave nothing unless finished partitions make it worth resuming."""
        if not self._lock_fds:
            return
        state = self._read_state()
        if state is not None and not state.done:
            self._clear()
        with suppress(OSError):
            os.rmdir(self.partial)  # only if there is nothing in it

    def __enter__(self) -> Target:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        try:
            if error is not None:
                with suppress(OSError):
                    self.discard_if_empty()
        finally:
            self.close()


def sums_line(name: bytes, digest: str) -> bytes:
    """One line as ``sha256sum`` writes it, odd names escaped as in the coreutils manual, md5sum."""
    escaped = name.replace(b"\\", b"\\\\").replace(b"\n", b"\\n").replace(b"\r", b"\\r")
    mark = b"\\" if escaped != name else b""
    return mark + digest.encode() + b"  " + escaped + b"\n"


def _remove(path: str) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    else:
        os.remove(path)


def _read_file(path: str) -> Iterator[bytes]:
    with failing_as(path, "cannot be read"):
        stream = open(path, "rb")  # noqa: SIM115 - closed below; its errors are not the reader's
    with stream:
        while True:
            with failing_as(path, "cannot be read"):
                data = stream.read(_COPY_NBYTES)
            if not data:
                return
            yield data


def _sync_folder(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno != errno.EINVAL:  # file systems that cannot sync a folder
            raise
    finally:
        os.close(fd)
