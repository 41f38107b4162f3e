"""Small file systems in user space: as poor as a FAT card's, with reads that fail when told to.

Run as a program it serves one mount; tests use `mounted`. It needs /dev/fuse, Debian's ``fuse`` and
``libfuse2``, and fusepy.
"""

from __future__ import annotations

import ctypes.util
import errno
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a mounted file system does worse than others.

    Attributes
    ----------
    file_nbytes : int
        Larger files are refused (EFBIG), as FAT does from 4 GiB on; 0 for no limit.
    direct : bool
        Whether files may be opened with O_DIRECT.
    short_nbytes : int
        Reads bring at most this, each request of the kernel; 0 for no limit. There is no page
        cache then, which would take a short read for the file's end and go on with zeros.
    failing : str
        Reads of files whose path contains this fail (EIO), if they touch byte `failing_offset`.
    gate : str
        Reads of partitions wait while this file does not exist, once ``GATE.closed`` does.
    """

    file_nbytes: int = 0
    direct: bool = True
    short_nbytes: int = 0
    failing: str = ""
    failing_offset: int = 0
    gate: str = ""


def missing() -> str:
    """Why no such file system can be mounted here; empty if it can."""
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        return "/dev/fuse cannot be opened"
    if ctypes.util.find_library("fuse") is None or shutil.which("fusermount") is None:
        return "libfuse2 and fusermount are missing (apt-get install fuse libfuse2)"
    if importlib.util.find_spec("fuse") is None:
        return "fusepy is missing (pip install fusepy)"
    return ""


@contextmanager
def mounted(folder: Path, limits: Limits) -> Iterator[Path]:
    """Mount below `folder`; what is stored lies in ``folder/backing``."""
    mount, backing = folder / "mount", folder / "backing"
    mount.mkdir(parents=True)
    backing.mkdir()
    server = subprocess.Popen(
        [sys.executable, "-m", __name__, mount, backing, json.dumps(asdict(limits))],
        cwd=Path(__file__).parents[2],
    )
    try:
        deadline = time.monotonic() + 30
        while not mount.is_mount():
            assert server.poll() is None, "the file system's server has ended"
            assert time.monotonic() < deadline, "nothing was mounted"
            time.sleep(0.01)
        yield mount
    finally:
        subprocess.run(["fusermount", "-u", "-z", mount], check=False, capture_output=True)
        try:
            server.wait(timeout=10)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def serve(mount: str, backing: str, limits: Limits) -> None:
    """Serve until unmounted."""
    import fuse

    def refuse(code: int) -> OSError:
        return fuse.FuseOSError(code)

    class Passthrough(fuse.Operations):  # type: ignore[misc]
        """The operations of one mount, over a folder; what is not here gives ENOSYS."""

        def __call__(self, op: str, path: str, *args: Any) -> Any:
            if op in ("init", "destroy"):
                return None
            if op == "rename":
                args = (backing + args[0],)
            return super().__call__(op, backing + path, *args)

        def getattr(self, path: str, fh: int | None = None) -> dict[str, float]:
            status = os.lstat(path)
            names = ("st_atime", "st_ctime", "st_gid", "st_mode", "st_mtime", "st_nlink", "st_size",
                     "st_uid", "st_blocks")  # fmt: skip
            return {name: getattr(status, name) for name in names}

        def readdir(self, path: str, fh: int) -> list[str]:
            return [".", "..", *os.listdir(path)]

        def statfs(self, path: str) -> dict[str, int]:
            found = os.statvfs(path)
            names = ("f_bavail", "f_bfree", "f_blocks", "f_bsize", "f_favail", "f_ffree", "f_files",
                     "f_flag", "f_frsize", "f_namemax")  # fmt: skip
            return {name: getattr(found, name) for name in names}

        def _open(self, path: str, flags: int, mode: int) -> int:
            if flags & os.O_DIRECT and not limits.direct:
                raise refuse(errno.EINVAL)
            return os.open(path, flags & ~os.O_DIRECT, mode)

        def open(self, path: str, flags: int) -> int:
            return self._open(path, flags, 0)

        def create(self, path: str, mode: int, fi: object = None) -> int:
            return self._open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, mode)

        def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
            if limits.gate and ".ckptfmt" in path and os.path.exists(limits.gate + ".closed"):
                while not os.path.exists(limits.gate):
                    time.sleep(0.01)
            touched = offset <= limits.failing_offset < offset + size
            if limits.failing and limits.failing in path and touched:
                raise refuse(errno.EIO)
            return os.pread(fh, min(size, limits.short_nbytes or size), offset)

        def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
            if limits.file_nbytes and offset + len(data) > limits.file_nbytes:
                raise refuse(errno.EFBIG)
            return os.pwrite(fh, data, offset)

        def truncate(self, path: str, length: int, fh: int | None = None) -> None:
            if limits.file_nbytes and length > limits.file_nbytes:
                raise refuse(errno.EFBIG)
            os.truncate(path, length)

        def release(self, path: str, fh: int) -> None:
            os.close(fh)

        def fsync(self, path: str, datasync: int, fh: int) -> None:
            os.fsync(fh)

        def fsyncdir(self, path: str, datasync: int, fh: int) -> None:
            return None

        def mkdir(self, path: str, mode: int) -> None:
            os.mkdir(path, mode)

        def rmdir(self, path: str) -> None:
            os.rmdir(path)

        def unlink(self, path: str) -> None:
            os.unlink(path)

        def rename(self, old: str, new: str) -> None:
            os.rename(old, new)

        def access(self, path: str, mode: int) -> None:
            return None

        flush = None

    fuse.FUSE(
        Passthrough(), mount, foreground=True, big_writes=True, fsname="ckptfmt-test",
        attr_timeout=0, entry_timeout=0, direct_io=bool(limits.short_nbytes),
    )  # fmt: skip


if __name__ == "__main__":
    serve(sys.argv[1], sys.argv[2], Limits(**json.loads(sys.argv[3])))
