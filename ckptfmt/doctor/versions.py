"""Which versions belong together: data only, in one place, with its date and its sources.

To bring it up to date, copy the rows of the sources, and change the date.
"""

from __future__ import annotations

#: When the sources were read.
DATE = "2026-08-22"
SOURCES = (
    "torch_npu and CANN, Python: Ascend/pytorch, COMPATIBILITY.en.md",
    "vllm-ascend: vllm-project/vllm-ascend, docs/source/community/versioning_policy.md",
    "what each CANN has: headers and documents of the CANN runtime (hicann/runtime)",
    "CUDA: NVIDIA, CUDA Toolkit release notes, table of driver versions (Linux x86-64, aarch64)",
)

#: CANN, and the torch_npu versions made for it; torch is of the same three numbers.
CANN_TORCH_NPU: tuple[tuple[str, str], ...] = (
    ("9.1.0", "2.12.0 2.11.0 2.10.0.post4 2.9.0.post6 2.7.1.post8"),
    ("9.0.0", "2.10.0.post2 2.9.0.post2 2.8.0.post4 2.7.1.post4"),
    ("8.5.0", "2.9.0 2.8.0.post2 2.7.1.post2 2.6.0.post5"),
    ("8.3.RC1", "2.8.0 2.7.1 2.6.0.post3 2.1.0.post17"),
    ("8.2.RC1", "2.6.0 2.5.1.post1 2.1.0.post13"),
    ("8.1.RC1", "2.5.1 2.4.0.post4 2.3.1.post6 2.1.0.post12"),
    ("8.0.0", "2.4.0.post2 2.3.1.post4 2.1.0.post10"),
    ("8.0.RC3", "2.4.0 2.3.1.post2 2.1.0.post8"),
    ("8.0.RC2", "2.3.1 2.2.0.post2 2.1.0.post6 1.11.0.post14"),
    ("8.0.RC1", "2.2.0 2.1.0.post4 1.11.0.post11"),
    ("7.0.0", "2.1.0 2.0.1.post1 1.11.0.post8"),
    ("7.0.RC1", "2.1.0.rc1 2.0.1 1.11.0.post4"),
)
#: torch_npu with a CANN that it is not made for, as far as it went when somebody tried.
TRIED = {
    ("2.7.1", "8.0.0"): "copies work, operators may be missing",
}
#: First and last Python that torch_npu of these releases has wheels for.
TORCH_NPU_PYTHON: tuple[tuple[str, str, str], ...] = (
    ("2.13 2.12 2.11", "3.10", "3.14"),
    ("2.10 2.9", "3.10", "3.13"),
    ("2.8 2.7", "3.9", "3.13"),
    ("2.6 2.5", "3.9", "3.11"),
    ("2.4 2.3 2.1", "3.8", "3.11"),
    ("2.2", "3.8", "3.10"),
    ("1.11", "3.7", "3.10"),
)
#: Inner version numbers of CANN packages, where nothing else tells the release.
CANN_INNER = {"7.5": "8.0.RC3", "7.6": "8.0.0", "7.7": "8.1.RC1"}

#: vllm-ascend, Python from and below, CANN, torch, torch_npu.
VLLM_ASCEND: tuple[tuple[str, str, str, str, str, str], ...] = (
    ("0.23.0", "3.10", "3.13", "9.1.0", "2.10.0", "2.10.0.post4"),
    ("0.23.0rc1", "3.10", "3.13", "9.0.1", "2.10.0", "2.10.0.post2"),
    ("0.22.1rc1", "3.10", "3.13", "9.0.0", "2.10.0", "2.10.0"),
    ("0.21.0rc1", "3.10", "3.13", "9.0.0", "2.10.0", "2.10.0"),
    ("0.20.2rc1", "3.10", "3.12", "9.0.0", "2.10.0", "2.10.0"),
    ("0.19.1rc1", "3.10", "3.12", "8.5.1", "2.9.0", "2.9.0"),
    ("0.18.0", "3.10", "3.12", "8.5.1", "2.9.0", "2.9.0.post1+git4c901a4"),
    ("0.18.0rc1", "3.10", "3.12", "8.5.1", "2.9.0", "2.9.0"),
    ("0.17.0rc1", "3.10", "3.12", "8.5.1", "2.9.0", "2.9.0"),
    ("0.16.0rc1", "3.10", "3.12", "8.5.1", "2.9.0", "2.9.0"),
    ("0.15.0rc1", "3.10", "3.12", "8.5.0", "2.9.0", "2.9.0"),
    ("0.14.0rc1", "3.10", "3.12", "8.5.0", "2.9.0", "2.9.0"),
    ("0.13.0", "3.10", "3.12", "8.5.0", "2.8.0", "2.8.0.post2"),
    ("0.13.0rc3", "3.10", "3.12", "8.5.1", "2.8.0", "2.8.0.post2"),
    ("0.13.0rc2", "3.10", "3.12", "8.5.0", "2.8.0", "2.8.0.post1"),
    ("0.13.0rc1", "3.10", "3.12", "8.3.RC2", "2.8.0", "2.8.0"),
    ("0.12.0rc1", "3.10", "3.12", "8.3.RC2", "2.8.0", "2.8.0"),
    ("0.11.0", "3.9", "3.12", "8.3.RC2", "2.7.1", "2.7.1.post1"),
    ("0.11.0rc3", "3.9", "3.12", "8.3.RC2", "2.7.1", "2.7.1.post1"),
    ("0.11.0rc2", "3.9", "3.12", "8.3.RC2", "2.7.1", "2.7.1"),
    ("0.11.0rc1", "3.9", "3.12", "8.3.RC1", "2.7.1", "2.7.1"),
    ("0.11.0rc0", "3.9", "3.12", "8.2.RC1", "2.7.1", "2.7.1.dev20250724"),
    ("0.10.2rc1", "3.9", "3.12", "8.2.RC1", "2.7.1", "2.7.1.dev20250724"),
    ("0.10.1rc1", "3.9", "3.12", "8.2.RC1", "2.7.1", "2.7.1.dev20250724"),
    ("0.10.0rc1", "3.9", "3.12", "8.2.RC1", "2.7.1", "2.7.1.dev20250724"),
    ("0.9.2rc1", "3.9", "3.12", "8.1.RC1", "2.5.1", "2.5.1.post1.dev20250619"),
    ("0.9.1", "3.9", "3.12", "8.2.RC1", "2.5.1", "2.5.1.post1"),
    ("0.9.1rc3", "3.9", "3.12", "8.2.RC1", "2.5.1", "2.5.1.post1"),
    ("0.9.1rc2", "3.9", "3.12", "8.2.RC1", "2.5.1", "2.5.1.post1"),
    ("0.9.1rc1", "3.9", "3.12", "8.1.RC1", "2.5.1", "2.5.1.post1.dev20250528"),
    ("0.9.0rc2", "3.9", "3.12", "8.1.RC1", "2.5.1", "2.5.1"),
    ("0.9.0rc1", "3.9", "3.12", "8.1.RC1", "2.5.1", "2.5.1"),
    ("0.8.5rc1", "3.9", "3.12", "8.1.RC1", "2.5.1", "2.5.1"),
    ("0.8.4rc2", "3.9", "3.12", "8.0.0", "2.5.1", "2.5.1"),
    ("0.7.3.post1", "3.9", "3.12", "8.1.RC1", "2.5.1", "2.5.1"),
    ("0.7.3", "3.9", "3.12", "8.1.RC1", "2.5.1", "2.5.1"),
)
#: The first vLLM that a loader of another package can register with.
VLLM_REGISTERS = "0.10.0"

#: The oldest CANN that ckptfmt takes; the first with each way to register host memory.
CANN_OLDEST, CANN_REGISTERS, CANN_REGISTERS_V2 = "7.0", "8.1", "8.5"
#: The first driver that registers host memory.
DRIVER_REGISTERS = "25.0"
#: The last kernel on which drivers do not register a process's own memory.
KERNEL_REFUSES_REGISTERING = "5.10"

#: CUDA's major versions, and the first driver that serves each.
CUDA_DRIVER = {"13": "580", "12": "525", "11": "450"}
#: torch before this was built for numpy 1; so, by reports, was torch_npu before this.
NUMPY2_TORCH = "2.3"
NUMPY2_TORCH_NPU = "2.5"
