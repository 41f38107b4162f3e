"""The result codes of Ascend's runtime (ACL): their names, and what a person can do about them.

Names as in CANN's headers; older releases have fewer. The codes that matter to a loader have a next
step, which may depend on the call that returned them.
"""

from __future__ import annotations

import re

from ckptfmt import code_hints

#: First code of each run of successive ones, and their names without ``ACL_ERROR_``.
_RUNS: tuple[tuple[int, str], ...] = (
    (100000, """
        INVALID_PARAM UNINITIALIZE REPEAT_INITIALIZE INVALID_FILE WRITE_FILE INVALID_FILE_SIZE
        PARSE_FILE FILE_MISSING_ATTR FILE_ATTR_INVALID INVALID_DUMP_CONFIG INVALID_PROFILING_CONFIG
        INVALID_MODEL_ID DESERIALIZE_MODEL PARSE_MODEL READ_MODEL_FAILURE MODEL_SIZE_INVALID
        MODEL_MISSING_ATTR MODEL_INPUT_NOT_MATCH MODEL_OUTPUT_NOT_MATCH MODEL_NOT_DYNAMIC
        OP_TYPE_NOT_MATCH OP_INPUT_NOT_MATCH OP_OUTPUT_NOT_MATCH OP_ATTR_NOT_MATCH OP_NOT_FOUND
        OP_LOAD_FAILED UNSUPPORTED_DATA_TYPE FORMAT_NOT_MATCH BIN_SELECTOR_NOT_REGISTERED
        KERNEL_NOT_FOUND BIN_SELECTOR_ALREADY_REGISTERED KERNEL_ALREADY_REGISTERED INVALID_QUEUE_ID
        REPEAT_SUBSCRIBE STREAM_NOT_SUBSCRIBE THREAD_NOT_SUBSCRIBE WAIT_CALLBACK_TIMEOUT
        REPEAT_FINALIZE NOT_STATIC_AIPP COMPILING_STUB_MODE GROUP_NOT_SET GROUP_NOT_CREATE
        PROF_ALREADY_RUN PROF_NOT_RUN DUMP_ALREADY_RUN DUMP_NOT_RUN"""),
    (107000, """
        RT_PARAM_INVALID RT_INVALID_DEVICEID RT_CONTEXT_NULL RT_STREAM_CONTEXT RT_MODEL_CONTEXT
        RT_STREAM_MODEL RT_EVENT_TIMESTAMP_INVALID RT_EVENT_TIMESTAMP_REVERSAL RT_ADDR_UNALIGNED
        RT_FILE_OPEN RT_FILE_WRITE RT_STREAM_SUBSCRIBE RT_THREAD_SUBSCRIBE RT_GROUP_NOT_SET
        RT_GROUP_NOT_CREATE RT_STREAM_NO_CB_REG RT_INVALID_MEMORY_TYPE RT_INVALID_HANDLE
        RT_INVALID_MALLOC_TYPE RT_WAIT_TIMEOUT RT_TASK_TIMEOUT RT_SYSPARAMOPT_NOT_SET
        RT_DEVICE_TASK_ABORT RT_STREAM_ABORT RT_CAPTURE_DEPENDENCY RT_STREAM_UNJOINED
        RT_MODEL_CAPTURED RT_STREAM_CAPTURED RT_EVENT_CAPTURED RT_STREAM_NOT_CAPTURED
        RT_CAPTURE_MODE_NOT_SUPPORT RT_STREAM_CAPTURE_IMPLICIT STREAM_CAPTURE_CONFLICT
        STREAM_TASK_GROUP_STATUS STREAM_TASK_GROUP_INTR RT_TASK_ABORT_STOP
        RT_STREAM_CAPTURE_UNMATCHED RT_MODEL_RUNNING RT_STREAM_CAPTURE_WRONG_THREAD
        RT_INSUFFICIENT_INPUT_ARRAY RT_MODEL_UPDATE_FAILED RT_CAPTURE_MODE_BLOCK_ASYNC
        RT_SYMBOL_NOT_FOUND RT_INVALID_SYMBOL RT_INVALID_DEVICE_FUNCTION
        RT_SUB_ACLGRAPH_IS_CAPTURING"""),
    (148046, """
        PROF_REPEAT_SUBSCRIBE PROF_API_CONFLICT INVALID_MAX_OPQUEUE_NUM_CONFIG INVALID_OPP_PATH
        OP_UNSUPPORTED_DYNAMIC RELATIVE_RESOURCE_NOT_CLEARED UNSUPPORTED_JPEG
        INVALID_BUNDLE_MODEL_ID"""),
    (200000, """
        BAD_ALLOC API_NOT_SUPPORT INVALID_DEVICE MEMORY_ADDRESS_UNALIGNED RESOURCE_NOT_MATCH
        INVALID_RESOURCE_HANDLE FEATURE_UNSUPPORTED PROF_MODULES_UNSUPPORTED"""),
    (207000, """
        RT_FEATURE_NOT_SUPPORT RT_MEMORY_ALLOCATION RT_MEMORY_FREE RT_AICORE_OVER_FLOW RT_NO_DEVICE
        RT_RESOURCE_ALLOC_FAIL RT_NO_PERMISSION RT_NO_EVENT_RESOURCE RT_NO_STREAM_RESOURCE
        RT_NO_NOTIFY_RESOURCE RT_NO_MODEL_RESOURCE RT_NO_CDQ_RESOURCE RT_OVER_LIMIT RT_QUEUE_EMPTY
        RT_QUEUE_FULL RT_REPEATED_INIT RT_AIVEC_OVER_FLOW RT_OVER_FLOW RT_DEVICE_OOM
        RT_FEATURE_NOT_SUPPORT_UPDATE_OP RT_TIMEOUT RT_LINK_TYPE_NOT_SUPPORTED"""),
    (300000, "STORAGE_OVER_LIMIT"),
    (500000, "INTERNAL_ERROR FAILURE GE_FAILURE RT_FAILURE DRV_FAILURE PROFILING_FAILURE"),
    (507000, """
        RT_INTERNAL_ERROR RT_TS_ERROR RT_STREAM_TASK_FULL RT_STREAM_TASK_EMPTY
        RT_STREAM_NOT_COMPLETE RT_END_OF_SEQUENCE RT_EVENT_NOT_COMPLETE RT_CONTEXT_RELEASE_ERROR
        RT_SOC_VERSION RT_TASK_TYPE_NOT_SUPPORT RT_LOST_HEARTBEAT RT_MODEL_EXECUTE
        RT_REPORT_TIMEOUT RT_SYS_DMA RT_AICORE_TIMEOUT RT_AICORE_EXCEPTION
        RT_AICORE_TRAP_EXCEPTION RT_AICPU_TIMEOUT RT_AICPU_EXCEPTION RT_AICPU_DATADUMP_RSP_ERR
        RT_AICPU_MODEL_RSP_ERR RT_PROFILING_ERROR RT_IPC_ERROR RT_MODEL_ABORT_NORMAL
        RT_KERNEL_UNREGISTERING RT_RINGBUFFER_NOT_INIT RT_RINGBUFFER_NO_DATA RT_KERNEL_LOOKUP
        RT_KERNEL_DUPLICATE RT_DEBUG_REGISTER_FAIL RT_DEBUG_UNREGISTER_FAIL RT_LABEL_CONTEXT
        RT_PROGRAM_USE_OUT RT_DEV_SETUP_ERROR RT_VECTOR_CORE_TIMEOUT RT_VECTOR_CORE_EXCEPTION
        RT_VECTOR_CORE_TRAP_EXCEPTION RT_CDQ_BATCH_ABNORMAL RT_DIE_MODE_CHANGE_ERROR
        RT_DIE_SET_ERROR RT_INVALID_DIEID RT_DIE_MODE_NOT_SET RT_AICORE_TRAP_READ_OVERFLOW
        RT_AICORE_TRAP_WRITE_OVERFLOW RT_VECTOR_CORE_TRAP_READ_OVERFLOW
        RT_VECTOR_CORE_TRAP_WRITE_OVERFLOW RT_STREAM_SYNC_TIMEOUT RT_EVENT_SYNC_TIMEOUT
        RT_FFTS_PLUS_TIMEOUT RT_FFTS_PLUS_EXCEPTION RT_FFTS_PLUS_TRAP_EXCEPTION RT_SEND_MSG
        RT_COPY_DATA RT_DEVICE_MEM_ERROR RT_HBM_MULTI_BIT_ECC_ERROR RT_SUSPECT_DEVICE_MEM_ERROR
        RT_LINK_ERROR RT_SUSPECT_REMOTE_ERROR"""),
    (507899, """
        RT_DRV_INTERNAL_ERROR RT_AICPU_INTERNAL_ERROR RT_SOCKET_CLOSE RT_AICPU_INFO_LOAD_RSP_ERR
        RT_STREAM_CAPTURE_INVALIDATED RT_COMM_OP_RETRY_FAIL SNAPSHOT_LOCK_TIMEOUT
        SNAPSHOT_LOCK_FAILED SNAPSHOT_UNLOCK_FAILED SNAPSHOT_BACKUP_FAILED SNAPSHOT_RESTORE_FAILED
        HOST_MEMORY_ALREADY_REGISTERED HOST_MEMORY_NOT_REGISTERED SNAPSHOT_CALLBACK_FAILED
        SNAPSHOT_REGISTER_CALLBACK_FAILED RT_L3_PORT_ERROR RT_CCU_TIMEOUT RT_CCU_EXCEPTION"""),
)  # fmt: skip

NAMES: dict[int, str] = {
    0: "ACL_SUCCESS",
    **{
        first + i: f"ACL_ERROR_{name}"
        for first, names in _RUNS
        for i, name in enumerate(names.split())
    },
}

_ANY = ""
_HOST_MEMORY = "MallocHost|HostRegister"
_DEVICES = (
    "npu-smi info lists the devices; ASCEND_RT_VISIBLE_DEVICES may hide some and renumbers the "
    "rest; in a container, /dev/davinci* and the driver's folder must be passed in"
)
_UNSUPPORTED = (
    "this chip, driver or CANN cannot do it: upgrade CANN and the driver, or set "
    "CKPTFMT_NPU_STAGING=C, which needs least of them"
)
_BROKEN = (
    "the device, its memory or its link failed: see npu-smi info and dmesg, reset the device when "
    "nobody uses it, start a new process"
)
_ALIGNMENT = (
    "CANN before 8.5 copies only between addresses that are multiples of 64: give load_into "
    "tensors that start on one, or set CKPTFMT_SYNC_COPY=1"
)
_CAPTURE = "a graph is being captured on this device: load before the capture begins or after it"
_SLOW = (
    "the device did not answer in time: see npu-smi info for its health and who else uses it; "
    "CKPTFMT_SYNC_COPY=1 avoids asynchronous copies"
)
_DEVICE_MEMORY = (
    "npu-smi info tells who uses the device's memory: load by names, spread over several devices, "
    "or convert with --dtype bf16 or fp16"
)
_LOG = (
    "ASCEND_GLOBAL_LOG_LEVEL=1 ASCEND_SLOG_PRINT_TO_STDOUT=1 prints the runtime's own log; "
    "dmesg has the driver's"
)

#: Codes, an expression for the calls meant (the first row that fits counts), and the next step.
HINTS: code_hints.Hints = (
    ((100001,), _ANY,
     "the runtime is not initialised, or has been shut down: use it from the process that "
     "imported torch_npu, never from a forked one (spawn instead)"),
    ((100003, 100004, 100006, 100009, 100010), "aclInit",
     "the runtime's configuration cannot be read: look at TORCH_ACL_INIT_CONFIG_PATH"),
    ((100039,), _ANY,
     "the libascendcl.so that was found is a stub to compile against: take devlib and stub "
     "folders out of LD_LIBRARY_PATH, run CANN's set_env.sh"),
    ((107001, 200002, 207004), _ANY, _DEVICES),
    ((107002,), _ANY,
     "a thread used the device without choosing it first; after a fork that is always so: start "
     "workers by spawn"),
    ((107003,), _ANY,
     "the device was reset while it was in use: do not call aclrtResetDevice in a process that "
     "loads"),
    ((107008, 200003), _ANY, _ALIGNMENT),
    ((107019, 107020, 207020, 507012, 507046, 507047), _ANY, _SLOW),
    ((107022, 107023, 107035), _ANY,
     "something else in this process aborted the device's work: load again"),
    ((107024, 107025, *range(107027, 107033), 107036, 107038, 107041, 107045, 507903), _ANY,
     _CAPTURE),
    ((148049,), _ANY,
     "ASCEND_OPP_PATH names a folder that is no operator package: run the set_env.sh of the CANN "
     "in use"),
    ((200001, 200006, 207000), _ANY, _UNSUPPORTED),
    ((200000, 207001, 207018), _HOST_MEMORY,
     "the host gives no such memory: set a smaller CKPTFMT_POOL_NBYTES, or raise ulimit -l"),
    ((200000,), _ANY, "the host is out of memory: end other processes, or load by names"),
    ((207001, 207018, 300000), _ANY, _DEVICE_MEMORY),
    ((207005, 207007, 207008), _ANY,
     "the device has no more streams or events: set a smaller CKPTFMT_THREADS, or end other "
     "processes that use it"),
    ((207006,), _ANY,
     "this user may not use the device: join the group HwHiAiUser and log in again; in a "
     "container, see who owns /dev/davinci*"),
    ((507002,), _ANY,
     "more copies are queued than a stream holds: set a smaller CKPTFMT_POOL_NBYTES"),
    ((507008,), _ANY, "this CANN is not made for this chip: install the one for it"),
    ((507010, 507013, *range(507053, 507058)), _ANY, _BROKEN),
    ((507033,), _ANY,
     "the device cannot be set up, mostly because another process holds it or one has just died: "
     "see npu-smi info, end that process, try again"),
    ((507051, 507052), _ANY,
     "a copy failed on its way: CKPTFMT_SYNC_COPY=1 tells which; see dmesg for the link's state"),
    ((507899,), "HostRegister",
     "the driver does not register this memory (it wants whole pages of anonymous memory, driver "
     "25 and a kernel after 5.10): CKPTFMT_NPU_STAGING=C does without"),
    ((507910, 507911), _ANY,
     "something else in this process registers or releases the same memory: "
     "CKPTFMT_NPU_STAGING=C does without"),
    ((507901,), _ANY, "the device's own process has ended: see dmesg, start a new process"),
    ((500000, 500001, 500003, 500004, 507000, 507001, 507899), _ANY, _LOG),
)  # fmt: skip


def name_of(code: int) -> str:
    """The name of a result code as CANN's headers spell it, or ``unknown``."""
    return NAMES.get(code, "unknown")


def hint_for(code: int, call: str) -> str | None:
    """The next step after a call, such as ``aclrtMemcpyAsync``; None if none is known."""
    return code_hints.find(HINTS, code, call)


def code_in(text: str) -> int:
    """The result code that torch has put into an error's text, 0 if there is none."""
    found = re.search(r"error code is ([0-9]+)", text)
    return int(found[1]) if found else 0
