"""The package's layers, by its source: who may import whom, and what only where it is used."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

from tests.helpers.children import run_child
from tests.helpers.imports import MODULES, PACKAGE, imports, top_level, tree

#: Each module imports only modules that stand before it.
ORDER = """
    version errors problems stats workers code_hints acl_codes cuda_codes device_errors
    acl_places cann_files bench doctor transformers hub_address retrying
    _native _core
    sources.strided sources.protobuf page_cache trace
    units telemetry selection dtypes layout topology index write_plan export_plan extents
    read_plan rows gathering pieces cutting options
    rendering placement device_plan chips selftest_report budget manifest
    sources.base sources.limits sources.folder sources.kinds sources.safetensors_header
    input_file strategy partitions checkpoint_files stored_bytes regrouped plain_files reading
    engine tensors loading
    runtime_library acl_library cuda_library gds accelerator npu cuda devices pool staging machine
    device_loading streaming fill checkpoint opening trial
    selftest_steps
    bench.pipeline bench.candidates bench.timeline bench.cache_state bench.contenders
    bench.raw_reads bench.in_turn bench.rates bench.subject bench.judgement bench.tuning
    sources.pickles sources.zips
    sources.ranges sources.torch_tensors sources.live sources.safetensors sources.torch_zip
    sources.sllm sources.npz sources.gguf sources.dcp_metadata sources.dcp sources.mindspore
    sources.stored truth sources.rank_states
    sources.repository sources.huggingface sources.modelscope sources.blocks sources.streamed
    sources.hub sources.choose sources cutting_rules sources.cut
    target writer chosen confirming conversion selftest_model comparison verification exporting
    selftest saving
    transformers.library transformers.quantized transformers.precision transformers.storage
    transformers.places transformers.reader transformers.pending transformers.mismatch
    transformers.model transformers.adapters
    bench.page_style bench.page_timeline bench.page_words bench.page_bars bench.page_tracks
    bench.page_tables bench.page
    bench.forms bench.run
    batch_report batch_job batch_process batch batch_ray
    terminal batch_table
    doctor.versions doctor.findings doctor.system doctor.numbers doctor.linker doctor.smi
    doctor.ascend doctor.attempt doctor.attempt_child doctor.case
    doctor.machine doctor.memory doctor.python doctor.torch doctor.cann doctor.driver doctor.cuda
    doctor.vllm doctor.probe doctor.examination
    vllm.settings vllm.partial vllm.shares vllm.report vllm.by_name
    vllm.rank_state_layout vllm.rank_group vllm.rank_state_reload vllm.rank_state
    vllm.rank_state_saving vllm.loader vllm.worker_extension vllm
    cli_batch cli_bench cli_devices cli_doctor cli __main__
""".split()  # noqa: SIM905 - a list of words, read as the layers it shows
POSITION = {f"ckptfmt.{name}": i for i, name in enumerate(ORDER)}

#: They open no file and touch no device: what they decide can be tested by values.
PURE = [
    "errors", "problems", "stats", "units", "selection", "dtypes", "layout", "index", "write_plan",
    "extents", "read_plan", "rows", "options", "rendering", "acl_codes", "cuda_codes",
    "code_hints", "placement", "device_plan", "device_errors",
    "topology", "gathering", "pieces", "cutting",
    "chips", "selftest_report", "export_plan", "bench.pipeline", "bench.candidates",
    "bench.page_style", "bench.page_timeline", "bench.page_words", "bench.page_bars",
    "bench.page_tracks", "bench.page_tables", "bench.page",
    "cann_files", "doctor.versions", "doctor.numbers", "doctor.smi",
    "hub_address", "budget", "manifest", "vllm.rank_state_layout",
]  # fmt: skip
#: Modules of the standard library that reach outside the process.
OUTSIDE = {
    "io", "pathlib", "shutil", "mmap", "tempfile", "subprocess", "socket", "fcntl", "glob",
    "ctypes", "signal", "multiprocessing", "urllib", "http",
}  # fmt: skip
#: What of ``os`` is no access to files.
OF_OS = {"environ", "strerror", "fspath", "PathLike"}

#: Packages that may be missing or are slow to import, and the modules that may name them.
PLACES = {
    "click": {"cli", "cli_batch", "cli_bench", "cli_devices", "cli_doctor", "terminal"},
    "rich": {"terminal", "batch_table"},
    "yaml": {"manifest"},
    "ray": {"batch_ray"},
    "peft": {"saving", "transformers.adapters"},
    "accelerate": {"transformers.library"},
    "torch": {"dtypes", "sources.dcp", "transformers.library", "vllm.partial"},
    "vllm": {
        "vllm", "vllm.shares", "vllm.loader", "vllm.rank_group", "vllm.rank_state_reload",
        "vllm.worker_extension",
    },
    "gguf": {"sources.gguf"},
    "torch_npu": {"npu"},
    "safetensors": {"sources.safetensors_header", "bench.contenders"},
    "huggingface_hub": {"sources.huggingface"},
    "modelscope_hub": {"sources.modelscope"},
    "transformers": {"cutting_rules", "transformers.library"},
    "opentelemetry": {"telemetry"},
}
#: Loaded by vLLM's processes only, which have these packages and have imported them.
IN_VLLM = {"vllm.partial": {"torch"}, "vllm.shares": {"vllm"}, "vllm.loader": {"vllm"}}
MAX_LINES = 400


def short(name: str) -> str:
    return name.removeprefix("ckptfmt.")


def test_the_order_names_every_module() -> None:
    assert set(POSITION) == (set(MODULES) | {"ckptfmt._core"}) - {"ckptfmt"}


@pytest.mark.parametrize("name", MODULES, ids=short)
def test_imports_go_one_way(name: str) -> None:
    for found in imports(name):
        if top_level(found.module) != "ckptfmt" or found.when == "types":
            continue
        if name == "ckptfmt":
            assert found.module == "ckptfmt.version"
            continue
        assert POSITION[found.module] < POSITION[name], f"line {found.line}: {found.module}"


def test_the_package_itself_only_promises_names() -> None:
    """Each name of the public interface is where the table of homes says."""
    result = run_child(
        "import ckptfmt, json\n"
        "homes = {n: getattr(ckptfmt, n) for n in ckptfmt.__all__}\n"
        "assert set(ckptfmt.__all__) <= set(dir(ckptfmt))\n"
        "print(json.dumps({n: getattr(v, '__module__', '') for n, v in homes.items()}))"
    )
    assert result.returncode == 0, result.stderr
    homes = json.loads(result.stdout)
    assert {"load", "open", "convert", "verify", "export", "Checkpoint", "CkptError"} <= set(homes)
    assert all(home.startswith("ckptfmt.") for n, home in homes.items() if n != "__version__")


@pytest.mark.parametrize("name", PURE)
def test_pure_modules_reach_nothing_outside(name: str) -> None:
    full = f"ckptfmt.{name}"
    found = {top_level(i.module) for i in imports(full)}
    assert not found & OUTSIDE
    for node in ast.walk(tree(full)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in ("open", "exec", "eval", "input", "print", "__import__")
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "os":
            assert node.attr in OF_OS


@pytest.mark.parametrize("name", PURE)
def test_pure_modules_import_only_pure_ones(name: str) -> None:
    used = {i.module for i in imports(f"ckptfmt.{name}") if i.when != "types"}
    ours = {short(m) for m in used if top_level(m) == "ckptfmt"}
    # Of the native module they use the checksum alone.
    assert ours <= {*PURE, "_core"}
    if "_core" in ours:
        assert "from ckptfmt._core import crc32c\n" in MODULES[f"ckptfmt.{name}"].read_text()


@pytest.mark.parametrize("package", PLACES)
def test_a_package_is_named_in_one_place(package: str) -> None:
    places = {
        short(name)
        for name in MODULES
        if any(top_level(i.module) == package and i.when != "types" for i in imports(name))
    }
    assert places <= PLACES[package]


@pytest.mark.parametrize("name", MODULES, ids=short)
def test_heavy_packages_are_imported_where_they_are_used(name: str) -> None:
    loaded = {top_level(i.module) for i in imports(name) if i.when == "load"}
    assert not loaded & (set(PLACES) - {"click"} - IN_VLLM.get(short(name), set()))


@pytest.mark.parametrize("name", MODULES, ids=short)
def test_a_module_can_be_read_in_one_sitting(name: str) -> None:
    assert len(MODULES[name].read_text().splitlines()) < MAX_LINES


@pytest.mark.parametrize(
    "path", sorted(p for s in ("pyx", "pxd", "c", "h") for p in PACKAGE.rglob(f"*.{s}")),
    ids=lambda path: path.name,
)  # fmt: skip
def test_a_native_file_can_be_read_in_one_sitting(path: Path) -> None:
    assert len(path.read_text().splitlines()) < MAX_LINES


@pytest.mark.parametrize("name", MODULES, ids=short)
def test_modules_have_nouns_for_names_and_say_what_they_are(name: str) -> None:
    vague = {"utils", "util", "common", "helpers", "helper", "misc", "core", "base_utils", "tools"}
    assert not set(name.split(".")) & vague
    if MODULES[name].stat().st_size:
        assert ast.get_docstring(tree(name))


LISTED = (
    "import json, sys\n"
    "before = set(sys.modules)\n"
    "{code}\n"
    "sys.stdout.write('\\n' + json.dumps(sorted(set(sys.modules) - before)))"
)
HELP = "from ckptfmt.cli import main\nmain([{arguments}], standalone_mode=False)"


def imported_by(code: str) -> set[str]:
    result = run_child(LISTED.format(code=code))
    assert result.returncode == 0, result.stderr
    return set(json.loads(result.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    "code",
    [
        "import ckptfmt",
        "import ckptfmt; ckptfmt.FormatError, ckptfmt.LoadOptions",
        HELP.format(arguments="'--help'"),
        HELP.format(arguments="'--version'"),
        HELP.format(arguments="'convert', '--help'"),
        HELP.format(arguments="'load', '--help'"),
        HELP.format(arguments="'selftest', '--help'"),
        HELP.format(arguments="'doctor', '--help'"),
        HELP.format(arguments="'batch', '--help'"),
    ],
)
def test_starting_imports_neither_torch_nor_numpy(code: str) -> None:
    found = imported_by(code)
    assert "ckptfmt" in found
    slow = {"torch", "numpy", "safetensors", "rich", "huggingface_hub", "modelscope_hub"}
    assert not found & slow


def test_importing_the_package_alone_imports_nothing_but_itself() -> None:
    found = imported_by("import ckptfmt")
    assert {m for m in found if top_level(m) == "ckptfmt"} == {"ckptfmt", "ckptfmt.version"}
    assert not found & {"msgspec", "click"}
