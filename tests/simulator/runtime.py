"""A simulator of a test's own, in this process, spoken to in Python."""

from __future__ import annotations

import ctypes
import mmap
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.helpers.simulator import Simulator

H2H, H2D, D2H, D2D, DEFAULT, BUFFERED, INNER_D2D, INTER_D2D = range(8)

# The codes, as ACL names them.
INVALID_PARAM, UNINITIALIZE, REPEAT_INITIALIZE, REPEAT_FINALIZE = 100000, 100001, 100002, 100037
PARAM_INVALID, INVALID_DEVICEID, CONTEXT_NULL, STREAM_CONTEXT = 107000, 107001, 107002, 107003
TIMESTAMP_INVALID, ADDR_UNALIGNED = 107006, 107008
INVALID_MEMORY_TYPE, INVALID_HANDLE = 107016, 107017
API_NOT_SUPPORT, FEATURE_NOT_SUPPORT, MEMORY_ALLOCATION = 200001, 207000, 207001
NO_EVENT_RESOURCE, NO_STREAM_RESOURCE = 207007, 207008
STREAM_SYNC_TIMEOUT, EVENT_SYNC_TIMEOUT, DRV_INTERNAL_ERROR = 507046, 507047, 507899
ALREADY_REGISTERED, NOT_REGISTERED = 507910, 507911

POISON = 0xDB
PAGE = mmap.PAGESIZE
MiB = 1 << 20

_TYPES = {
    "p": ctypes.c_void_p, "z": ctypes.c_size_t, "i": ctypes.c_int32, "u": ctypes.c_uint32,
    "q": ctypes.c_uint64, "s": ctypes.c_char_p,
}  # fmt: skip

#: The arguments of each function; ``p`` is any pointer or handle.
_SIGNATURES = {
    "aclInit": "s", "aclFinalize": "", "aclFinalizeReference": "p", "aclrtGetLastError": "i",
    "aclrtPeekAtLastError": "i", "aclrtGetRunMode": "p", "aclsysGetCANNVersion": "ip",
    "aclsysGetVersionStr": "sp", "aclsysGetVersionNum": "sp", "aclrtGetDeviceCount": "p",
    "aclrtSetDevice": "i", "aclrtResetDevice": "i", "aclrtGetDevice": "p",
    "aclrtCreateContext": "pi", "aclrtDestroyContext": "p", "aclrtSetCurrentContext": "p",
    "aclrtGetCurrentContext": "p", "aclrtDeviceEnablePeerAccess": "iu",
    "aclrtMalloc": "pzi", "aclrtMallocAlign32": "pzi", "aclrtFree": "p", "aclrtMallocHost": "pz",
    "aclrtMallocHostWithCfg": "pqp", "aclrtFreeHost": "p", "aclrtGetMemInfo": "ipp",
    "aclrtPointerGetAttributes": "pp", "aclrtHostRegister": "pqip", "aclrtHostRegisterV2": "pqu",
    "aclrtHostUnregister": "p", "aclrtHostGetDevicePointer": "ppu",
    "aclrtReserveMemAddress": "pzzpq", "aclrtReleaseMemAddress": "p", "aclrtMallocPhysical": "pzpq",
    "aclrtFreePhysical": "p", "aclrtMapMem": "pzzpq", "aclrtUnmapMem": "p",
    "aclrtMemcpy": "pzpzi", "aclrtMemcpyAsync": "pzpzip", "aclrtMemcpyAsyncWithCondition": "pzpzip",
    "aclrtMemset": "pziz", "aclrtMemsetAsync": "pzizp",
    "aclrtMemcpyBatch": "ppppzppzp", "aclrtMemcpyBatchAsync": "ppppzppzpp",
    "aclrtMemcpyBatchV2": "ppppzppz", "aclrtMemcpyBatchAsyncV2": "ppppzppzp",
    "aclrtCreateStream": "p", "aclrtCreateStreamWithConfig": "puu", "aclrtDestroyStream": "p",
    "aclrtDestroyStreamForce": "p", "aclrtSynchronizeStream": "p",
    "aclrtSynchronizeStreamWithTimeout": "pi", "aclrtSynchronizeDevice": "",
    "aclrtSynchronizeDeviceWithTimeout": "i", "aclrtStreamQuery": "pp",
    "aclrtSetStreamFailureMode": "pq", "aclrtCreateEvent": "p", "aclrtCreateEventWithFlag": "pu",
    "aclrtCreateEventExWithFlag": "pu", "aclrtDestroyEvent": "p", "aclrtRecordEvent": "pp",
    "aclrtResetEvent": "pp", "aclrtQueryEvent": "pp", "aclrtQueryEventStatus": "pp",
    "aclrtQueryEventWaitStatus": "pp", "aclrtSynchronizeEvent": "p",
    "aclrtSynchronizeEventWithTimeout": "pi", "aclrtStreamWaitEvent": "pp",
    "aclrtEventElapsedTime": "ppp", "aclrtEventGetTimestamp": "pp", "aclrtLaunchHostFunc": "ppp",
    "aclrtLaunchCallback": "ppip",
}  # fmt: skip


#: Kept, for a stream may still be in one when its test is over.
_CALLBACKS: list[Any] = []


class Runtime(Simulator):
    """The functions of ACL, each under its own name and giving its code; and some steps."""

    def __init__(self, path: str | Path) -> None:
        super().__init__(path)
        self.library.aclGetRecentErrMsg.restype = ctypes.c_char_p
        self.library.aclrtGetSocName.restype = ctypes.c_char_p

    def __getattr__(self, name: str) -> Any:
        if name not in _SIGNATURES:
            raise AttributeError(name)
        function = getattr(self.library, name)
        function.argtypes = [_TYPES[letter] for letter in _SIGNATURES[name]]
        return function

    def has(self, name: str) -> bool:
        """Does this version export a function of that name?"""
        return hasattr(self.library, name)

    def message(self) -> str:
        """The text of the thread's last error, empty if there is none."""
        return (self.library.aclGetRecentErrMsg() or b"").decode()

    # ---- what has to succeed ----

    def ok(self, name: str, *arguments: Any) -> None:
        code = getattr(self, name)(*arguments)
        assert code == 0, f"{name}: {code} {self.message()}"

    def made(self, name: str, *arguments: Any) -> int:
        """What a function writes to its first argument: an address or a handle."""
        found = ctypes.c_void_p()
        self.ok(name, ctypes.byref(found), *arguments)
        assert found.value is not None
        return found.value

    def start(self, device: int = 0) -> Runtime:
        assert self.aclInit(None) in (0, REPEAT_INITIALIZE)
        self.ok("aclrtSetDevice", device)
        return self

    def malloc(self, nbytes: int) -> int:
        return self.made("aclrtMalloc", nbytes, 0)

    def malloc_host(self, nbytes: int) -> int:
        return self.made("aclrtMallocHost", nbytes)

    def stream(self) -> int:
        return self.made("aclrtCreateStream")

    def event(self) -> int:
        return self.made("aclrtCreateEventExWithFlag", 0x1 | 0x8)

    def number(self, name: str, *arguments: Any) -> int:
        """What a function writes to its last argument: a number."""
        found = ctypes.c_int32(-1)
        self.ok(name, *arguments, ctypes.byref(found))
        return found.value

    # ---- streams that do not get on ----

    @contextmanager
    def held(self, *streams: int | None) -> Iterator[threading.Event]:
        """Streams that stand still to the end of the block, or until the event is set."""
        gate = threading.Event()

        def wait(_: int | None) -> None:
            gate.wait()

        callback = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(wait)
        _CALLBACKS.append(callback)
        for stream in streams:
            self.ok("aclrtLaunchHostFunc", stream, callback, None)
        try:
            yield gate
        finally:
            gate.set()

    # ---- copies ----

    def copy(self, dst: int, src: int, nbytes: int, kind: int) -> int:
        return int(self.aclrtMemcpy(dst, nbytes, src, nbytes, kind))

    def copy_async(self, dst: int, src: int, nbytes: int, kind: int, stream: int | None) -> int:
        return int(self.aclrtMemcpyAsync(dst, nbytes, src, nbytes, kind, stream))

    def read(self, address: int, nbytes: int) -> bytes:
        """What device memory holds now, whatever is still on its way to it."""
        found = ctypes.create_string_buffer(nbytes)
        assert self.copy(ctypes.addressof(found), address, nbytes, D2H) == 0, self.message()
        return found.raw

    def write(self, address: int, data: bytes) -> None:
        """Into device memory, at once."""
        buffer = ctypes.create_string_buffer(data, len(data))
        assert self.copy(address, ctypes.addressof(buffer), len(data), H2D) == 0, self.message()


def put(address: int, data: bytes) -> None:
    """Into host memory."""
    ctypes.memmove(address, data, len(data))


class Pages:
    """Page-aligned host memory."""

    def __init__(self, nbytes: int, **arguments: Any) -> None:
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        self.mapping = mmap.mmap(-1, nbytes, **(arguments or {"flags": flags}))
        self.nbytes = nbytes
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self.mapping))
