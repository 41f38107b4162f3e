"""ACL's codes: the table has no holes where there should be none, and each hint can be reached."""

from __future__ import annotations

import re

import pytest

from ckptfmt.acl_codes import HINTS, NAMES, code_in, hint_for, name_of


@pytest.mark.parametrize(
    ("code", "name"),
    [
        (0, "ACL_SUCCESS"),
        (100000, "ACL_ERROR_INVALID_PARAM"), (100002, "ACL_ERROR_REPEAT_INITIALIZE"),
        (100037, "ACL_ERROR_REPEAT_FINALIZE"), (100039, "ACL_ERROR_COMPILING_STUB_MODE"),
        (100045, "ACL_ERROR_DUMP_NOT_RUN"), (107000, "ACL_ERROR_RT_PARAM_INVALID"),
        (107002, "ACL_ERROR_RT_CONTEXT_NULL"), (107008, "ACL_ERROR_RT_ADDR_UNALIGNED"),
        (107016, "ACL_ERROR_RT_INVALID_MEMORY_TYPE"), (107020, "ACL_ERROR_RT_TASK_TIMEOUT"),
        (107031, "ACL_ERROR_RT_STREAM_CAPTURE_IMPLICIT"),
        (107032, "ACL_ERROR_STREAM_CAPTURE_CONFLICT"), (107035, "ACL_ERROR_RT_TASK_ABORT_STOP"),
        (107045, "ACL_ERROR_RT_SUB_ACLGRAPH_IS_CAPTURING"), (148049, "ACL_ERROR_INVALID_OPP_PATH"),
        (148053, "ACL_ERROR_INVALID_BUNDLE_MODEL_ID"), (200000, "ACL_ERROR_BAD_ALLOC"),
        (200007, "ACL_ERROR_PROF_MODULES_UNSUPPORTED"),
        (207000, "ACL_ERROR_RT_FEATURE_NOT_SUPPORT"),
        (207001, "ACL_ERROR_RT_MEMORY_ALLOCATION"), (207006, "ACL_ERROR_RT_NO_PERMISSION"),
        (207018, "ACL_ERROR_RT_DEVICE_OOM"), (207021, "ACL_ERROR_RT_LINK_TYPE_NOT_SUPPORTED"),
        (300000, "ACL_ERROR_STORAGE_OVER_LIMIT"), (500004, "ACL_ERROR_DRV_FAILURE"),
        (500005, "ACL_ERROR_PROFILING_FAILURE"), (507010, "ACL_ERROR_RT_LOST_HEARTBEAT"),
        (507033, "ACL_ERROR_RT_DEV_SETUP_ERROR"), (507046, "ACL_ERROR_RT_STREAM_SYNC_TIMEOUT"),
        (507053, "ACL_ERROR_RT_DEVICE_MEM_ERROR"), (507057, "ACL_ERROR_RT_SUSPECT_REMOTE_ERROR"),
        (507899, "ACL_ERROR_RT_DRV_INTERNAL_ERROR"), (507901, "ACL_ERROR_RT_SOCKET_CLOSE"),
        (507910, "ACL_ERROR_HOST_MEMORY_ALREADY_REGISTERED"),
        (507916, "ACL_ERROR_RT_CCU_EXCEPTION"),
    ],
)  # fmt: skip
def test_a_code_has_the_name_of_the_headers(code: int, name: str) -> None:
    assert name_of(code) == name


@pytest.mark.parametrize(
    "code", [-1, 1, 99999, 100046, 107046, 148045, 207022, 507058, 507898, 1 << 40]
)
def test_other_codes_are_unknown(code: int) -> None:
    assert name_of(code) == "unknown"
    assert hint_for(code, "aclrtMemcpyAsync") is None


def test_the_table_has_each_name_once() -> None:
    assert len(NAMES) == 1 + 213
    assert len(set(NAMES.values())) == len(NAMES)
    assert all(re.fullmatch(r"ACL_ERROR_[A-Z0-9_]+", name) for code, name in NAMES.items() if code)


def test_the_groups_are_those_of_the_headers() -> None:
    counts: dict[int, int] = {}
    for code in NAMES:
        counts[code // 1000] = counts.get(code // 1000, 0) + 1
    assert counts == {
        0: 1, 100: 46, 107: 46, 148: 8, 200: 8, 207: 22, 300: 1, 500: 6, 507: 58 + 18,
    }  # fmt: skip


@pytest.mark.parametrize("row", HINTS, ids=lambda row: str(row[0][0]))
def test_every_hint_is_one_that_somebody_gets(row: tuple[tuple[int, ...], str, str]) -> None:
    codes, calls, hint = row
    call = calls.partition("|")[0]
    for code in codes:
        assert code in NAMES
        assert hint_for(code, call) == hint
    assert 20 < len(hint) < 250
    assert not hint.endswith(".")
    assert hint == " ".join(hint.split())


@pytest.mark.parametrize(
    ("code", "call", "part"),
    [
        (107001, "aclrtSetDevice", "ASCEND_RT_VISIBLE_DEVICES"),
        (207004, "aclrtSetDevice", "npu-smi info"),
        (107002, "aclrtMemcpyAsync", "spawn"),
        (100039, "aclInit", "LD_LIBRARY_PATH"),
        (107008, "aclrtMemcpyAsync", "CKPTFMT_SYNC_COPY=1"),
        (148049, "aclInit", "ASCEND_OPP_PATH"),
        (207000, "aclrtHostRegister", "CKPTFMT_NPU_STAGING=C"),
        (207001, "aclrtMallocHost", "CKPTFMT_POOL_NBYTES"),
        (207001, "aclrtHostRegisterV2", "CKPTFMT_POOL_NBYTES"),
        (207001, "aclrtMalloc", "npu-smi info"),
        (207018, "aclrtCreateStream", "npu-smi info"),
        (207006, "aclrtSetDevice", "HwHiAiUser"),
        (507010, "aclrtSynchronizeStream", "reset the device"),
        (507013, "aclrtSynchronizeStream", "dmesg"),
        (507054, "aclrtSynchronizeEvent", "reset the device"),
        (507033, "aclrtSetDevice", "another process"),
        (507046, "aclrtSynchronizeStreamWithTimeout", "in time"),
        (507899, "aclrtHostRegisterV2", "CKPTFMT_NPU_STAGING=C"),
        (507899, "aclrtMemcpyAsync", "ASCEND_SLOG_PRINT_TO_STDOUT=1"),
        (107031, "aclrtRecordEvent", "graph"),
    ],
)
def test_the_next_step_goes_by_code_and_call(code: int, call: str, part: str) -> None:
    hint = hint_for(code, call)
    assert hint is not None
    assert part in hint


@pytest.mark.parametrize(
    ("code", "call"), [(0, "aclInit"), (100003, "aclrtMalloc"), (107000, "aclrtMemcpyAsync")]
)
def test_where_nothing_can_be_advised_nothing_is(code: int, call: str) -> None:
    assert hint_for(code, call) is None


@pytest.mark.parametrize(
    ("text", "code"),
    [("NPU function error: SetDevice(to_device), error code is 507033 [ERROR] 2026", 507033),
     ("error code is 1", 1), ("error code 107002", 0), ("", 0)],
)  # fmt: skip
def test_the_code_in_what_torch_says(text: str, code: int) -> None:
    assert code_in(text) == code
