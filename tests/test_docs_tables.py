"""The documents agree with the code: formats, settings, errors and layers, row by row."""

from __future__ import annotations

import ast
import hashlib
import inspect
import json
import re
import struct
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

import ckptfmt
from ckptfmt import batch_report, cli, dtypes, errors, index, layout, manifest, options
from ckptfmt._core import crc32c
from ckptfmt.layout import Header
from ckptfmt.units import parse_nbytes
from ckptfmt.write_plan import TensorSpec, plan_write
from tests.helpers.documents import ROOT, blocks, codes, hexdump, rows, section

FORMAT = ROOT / "docs" / "format.md"
SETTINGS = ROOT / "docs" / "settings.md"
ERRORS = ROOT / "docs" / "errors.md"
DESIGN = ROOT / "docs" / "design.md"
GOLDENS = ROOT / "tests" / "golden" / "v1"
COMMANDS = cli.main.commands


# ---- format.md ----

CHARACTERS = {"u16": "H", "u32": "I", "u64": "Q"}


def header_rows() -> list[dict[str, str]]:
    return rows(section(FORMAT, "3. Partition header"))


def test_the_offset_table_is_the_struct() -> None:
    code, at = "<", 0
    for row in header_rows():
        nbytes = int(row["Size"])
        assert int(row["Offset"]) == at, row["Name"]
        code += CHARACTERS.get(row["Type"], f"{nbytes}s")
        at += nbytes
        assert struct.calcsize(code) == at, row["Name"]
    assert code == layout._HEADER.format + layout._CRC.format.lstrip("<")
    assert at == layout.HEADER_NBYTES


def test_the_offset_table_finds_the_fields_of_a_packed_header() -> None:
    header = Header(8192, bytes(range(16)), 3, 7, 5 * 8192, 24)
    data, found = header.pack(), {}
    for row in header_rows():
        start, nbytes = int(row["Offset"]), int(row["Size"])
        field = data[start : start + nbytes]
        name = codes(row["Name"])[0]
        found[name] = field if row["Type"] == "bytes" else int.from_bytes(field, "little")
    magic = bytes.fromhex(codes(header_rows()[0]["Meaning"])[0])
    assert found == {
        "magic": magic, "major": layout.MAJOR, "minor": layout.MINOR, "alignment": 8192,
        "checkpoint_id": bytes(range(16)), "number": 3, "count": 7, "payload_nbytes": 5 * 8192,
        "table_nbytes": 24, "block_nbytes": layout.BLOCK_NBYTES, "crc": crc32c(data[:60]),
    }  # fmt: skip
    assert not any(data[layout.HEADER_NBYTES :])


def test_the_drawing_has_the_true_numbers() -> None:
    drawing = blocks(FORMAT)[0].text
    specs = [
        TensorSpec(tuple(re.findall(r'"(\w+)"', line)), dtype, tuple(json.loads(shape)))
        for line, dtype, shape in re.findall(r'(│ "\w+"\s+)(\w+) (\[[\d, ]*\])', drawing)
    ]
    plan = plan_write(specs, alignment=4096, partition_nbytes=4 << 20)
    (partition,) = plan.partitions
    expected = [0, 4096]
    for tensor in plan.tensors:
        (extent,) = tensor.extents
        assert f"{extent.nbytes} bytes" in drawing
        end = extent.offset + extent.nbytes
        expected += [end, layout.align_up(end, 4096)]
    expected.append(plan.file_nbytes[0])
    assert [int(n) for n in re.findall(r"^ *(\d+) [┌│├└]", drawing, re.MULTILINE)] == expected
    assert f"and its own, {partition.table_nbytes} bytes" in drawing
    sizes = re.findall(r"\b\d: (\d+)", drawing)
    assert len(sizes) == partition.table_nbytes // 4 - 1
    assert sum(map(int, sizes)) == sum(t.nbytes for t in plan.tensors)


def test_the_keys_of_the_index_are_listed() -> None:
    found = [codes(row["Key"])[0] for row in rows(section(FORMAT, "4. Index")) if "Key" in row]
    fields = (*index.Index.__struct_fields__, *index.TensorEntry.__struct_fields__)
    assert tuple(found) == fields


def test_the_limits_are_those_of_the_code() -> None:
    found = [int(r["At most"]) for r in rows(section(FORMAT, "4. Index")) if "At most" in r]
    code = [index.MAX_INDEX_NBYTES, index.MAX_TENSORS, index.MAX_DIMS, index.MAX_BYTES]
    assert found == code
    for number in (layout.MIN_ALIGNMENT, layout.MAX_ALIGNMENT, layout.BLOCK_NBYTES):
        assert str(number) in section(FORMAT, "4. Index")


def expanded(cell: str) -> list[str | None]:
    """``INT1`` … ``INT7`` stands for seven names."""
    found: list[str | None] = list(codes(cell)) or [None]
    if "…" in cell:
        stem = str(found[0])[:-1]
        return [f"{stem}{n}" for n in range(1, 8)]
    return found


def test_the_dtype_table_is_the_code_s() -> None:
    found = {}
    for row in rows(section(FORMAT, "7. Dtypes")):
        names, torch_names = expanded(row["Name"]), expanded(row["torch"])
        for name, torch_name in zip(names, torch_names, strict=True):
            is_cast = row["Note"] == "cast by `--dtype`"
            found[name] = (int(row["Bits"]), torch_name, expanded(row["numpy"])[0], is_cast)
    expected = {
        row.name: (row.bits, row.torch_name, row.numpy_name, row.is_float)
        for row in dtypes.DTYPES.values()
    }
    assert found == expected


def test_the_check_value_of_crc32c_is_the_one_given() -> None:
    assert f"0x{crc32c(b'123456789'):08X}" in section(FORMAT, "5. Alignment, padding and checksums")


def golden() -> Path:
    """The checkpoint that the worked example shows."""
    (name,) = re.findall(r"`tests/golden/v1/([\w.-]+)`", section(FORMAT, "10. Worked example"))
    return GOLDENS / name


def test_the_worked_example_is_the_golden_checkpoint() -> None:
    shown = [b.text for b in blocks(FORMAT) if b.text in section(FORMAT, "10. Worked example")]
    folder = golden()
    assert shown == [
        (folder / "ckptfmt.json").read_text(),
        hexdump((folder / "part-00000.ckptfmt").read_bytes()),
        (folder / "SHA256SUMS").read_text(),
    ]


@pytest.mark.parametrize("folder", sorted(GOLDENS.glob("*.ckpt")), ids=lambda path: path.name)
def test_the_plain_reader_reads_the_golden_checkpoints(folder: Path) -> None:
    (block,) = [b for b in blocks(FORMAT) if b.language == "python"]
    imported = [line for line in block.text.splitlines() if "import" in line]
    assert imported == ["import json"]
    assert len([line for line in block.text.splitlines() if line]) <= 15
    namespace: dict[str, Any] = {}
    exec(block.text, namespace)
    for tensor in json.loads((GOLDENS / f"{folder.name}.json").read_text()):
        once = bytes.fromhex(tensor["hex"])  # of a long tensor, what it repeats
        data = (once * (tensor["nbytes"] // max(len(once), 1) + 1))[: tensor["nbytes"]]
        for name in tensor["names"]:
            expected = (tensor["dtype"], tensor["shape"], data)
            assert namespace["read_tensor"](str(folder), name) == expected


@pytest.mark.parametrize("folder", sorted(GOLDENS.glob("*.ckpt")), ids=lambda path: path.name)
def test_the_id_is_what_section_6_says(folder: Path) -> None:
    found = json.loads((folder / "ckptfmt.json").read_text())
    fields = [found[key] for key in ("alignment", "partitions", "tensors")]
    provenance = json.dumps(found["provenance"], sort_keys=True)
    text = json.dumps([*fields, json.loads(provenance)], separators=(",", ":"), ensure_ascii=False)
    digest = hashlib.sha256(text.encode())
    for partition in found["partitions"]:
        data = (folder / partition["file"]).read_bytes()
        digest.update(data[-partition["table_nbytes"] : -4])
    assert digest.hexdigest()[:32] == found["id"]


# ---- settings.md ----


def setting(heading: str, text: str) -> dict[str, str]:
    """The one row of a section that has `text` between backticks."""
    table = rows(section(SETTINGS, heading))
    found = [row for row in table if text in codes(" ".join(row.values()))]
    assert len(found) == 1, f"{heading}: {text} is in {len(found)} rows"
    return found[0]


def test_every_command_and_option_is_in_the_settings() -> None:
    for name, command in COMMANDS.items():
        listed = {c for row in rows(section(SETTINGS, name)) for c in codes(row["CLI"])}
        taken = {
            text for p in command.params if isinstance(p, click.Option) for text in p.opts
        }
        assert listed == taken, name


@pytest.mark.parametrize("name", COMMANDS)
def test_defaults_of_the_command_line_are_those_listed(name: str) -> None:
    for option in COMMANDS[name].params:
        if isinstance(option, click.Option) and isinstance(option.default, (str, int)):
            if isinstance(option.default, bool):
                assert setting(name, option.opts[0])["Default"] in ("off", "on; off with `mmap`")
            else:
                assert str(option.default) in codes(setting(name, option.opts[0])["Default"])


PYTHON = {
    "convert": ckptfmt.convert, "load": ckptfmt.load, "verify": ckptfmt.verify,
    "export": ckptfmt.export,
}  # fmt: skip
BYTES = ("alignment", "partition_size", "shard_size")


@pytest.mark.parametrize("name", PYTHON)
def test_every_argument_of_a_function_is_in_the_settings(name: str) -> None:
    taken = {
        parameter.name: parameter.default
        for parameter in inspect.signature(PYTHON[name]).parameters.values()
        if parameter.default is not inspect.Parameter.empty and parameter.name != "options"
    }
    for argument, default in taken.items():
        row = setting(name, f"{argument}=")
        if argument in BYTES:
            assert parse_nbytes(codes(row["Default"])[0]) == default
        elif isinstance(default, str):
            assert codes(row["Default"]) == [default]
        elif isinstance(default, bool):
            assert row["Default"] == "off"
    listed = {c for row in rows(section(SETTINGS, name)) for c in codes(row["Python"])}
    assert {c[:-1] for c in listed if c.endswith("=")} == set(taken)


def test_every_keyword_of_saving_is_in_the_settings() -> None:
    text = section(SETTINGS, "save_model, save_dict, save_lora")
    listed = {c for row in rows(text) for c in codes(row["Python"])}
    convert = inspect.signature(ckptfmt.convert).parameters
    taken = set(ckptfmt.SaveOptions.__annotations__)
    assert listed == {f"{name}=" for name in (*taken, "adapter_name", "beside")}
    assert taken < set(convert)


def test_every_key_of_a_manifest_is_in_its_table() -> None:
    text = section(ROOT / "docs" / "batch.md", "The manifest")
    listed = {c for row in rows(text) for c in codes(row["Key"])}
    assert listed == {"source", "target", *manifest.AllOptions.__struct_encode_fields__}
    parameters = inspect.signature(ckptfmt.convert).parameters
    assert set(manifest.AllOptions.__struct_fields__) <= set(parameters)


def test_every_field_of_a_report_is_in_its_table() -> None:
    text = section(ROOT / "docs" / "batch.md", "The report")
    listed = [c for row in rows(text) for c in codes(row["Field"])]
    assert set(listed) == set(batch_report.Result.__struct_fields__)


def test_every_way_to_read_is_in_the_settings() -> None:
    for name, field in options.LoadOptions.__dataclass_fields__.items():
        row = setting("How to read", f"LoadOptions({name}=)")
        assert codes(row["Environment"]) == [f"CKPTFMT_{name.upper()}"]
        listed = codes(row["Default"])[0]
        is_text = isinstance(field.default, str)
        assert (listed if is_text else parse_nbytes(listed)) == field.default
    for name in codes(setting("How to read", "CKPTFMT_IO")["Values"]):
        assert options.LoadOptions(io=name).io == name
    for name in codes(setting("How to read", "CKPTFMT_READS")["Values"]):
        assert options.LoadOptions(reads=name).reads == name


def test_every_way_to_convert_is_in_the_settings() -> None:
    text = section(SETTINGS, "convert")
    for name in options.ConvertOptions.__dataclass_fields__:
        assert {name, f"{name}="} & set(codes(text)), name


@pytest.mark.parametrize(
    ("function", "argument"),
    [(ckptfmt.Checkpoint.stream, "max_nbytes"), (ckptfmt.Checkpoint.load_into, "strict")],
)
def test_streaming_and_filling_are_in_the_settings(function: Any, argument: str) -> None:
    row = setting("Streaming and filling", f"Checkpoint.{function.__name__}({argument}=)")
    default = inspect.signature(function).parameters[argument].default
    listed = row["Default"]
    assert (default is True and listed == "on") or parse_nbytes(codes(listed)[0]) == default


# ---- errors.md ----


def test_every_exception_is_listed_with_its_bases() -> None:
    listed = {
        codes(row["Exception"])[0]: tuple(codes(row["Bases"]))
        for row in rows(ERRORS.read_text())
        if "Exception" in row
    }
    defined = {
        name: tuple(base.__name__ for base in value.__bases__)
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, (Exception, Warning))
    }
    assert listed == defined
    assert set(listed) <= set(ckptfmt.__all__)


def test_the_exit_codes_are_those_listed(checkpoint: Path) -> None:
    listed = {int(row["Exit code"]) for row in rows(ERRORS.read_text()) if "Exit code" in row}
    arguments = {
        0: ["inspect", str(checkpoint)],
        1: ["inspect", str(checkpoint / "nowhere")],
        2: ["convert", str(checkpoint), str(checkpoint) + ".new", "--alignment", "3"],
    }
    assert listed == set(arguments)
    for code, argument in arguments.items():
        assert CliRunner().invoke(cli.main, argument).exit_code == code
    assert CliRunner().invoke(cli.main, ["inspect", "--nonsense"]).exit_code == 2


# ---- design.md ----


def imports_of(path: Path) -> set[str]:
    """Our modules that a file imports anywhere but for its types."""
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            return
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("ckptfmt"):
            inside = node.module.removeprefix("ckptfmt").removeprefix(".")
            found.update([inside] if inside else [alias.name for alias in node.names])
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text()))
    return found


def test_modules_import_only_from_rows_above_their_own() -> None:
    layers = [codes(row["Modules"]) for row in rows(section(DESIGN, "Modules and layers"))]
    row_of = {module: number for number, layer in enumerate(layers) for module in layer}
    package = ROOT / "ckptfmt"
    files = {
        ".".join(path.relative_to(package).with_suffix("").parts).removesuffix(".__init__"): path
        for path in package.rglob("*.py")
    }
    for name in ("__init__", "_native"):  # the public face, and the package below the engine
        del files[name]
    assert set(row_of) == {*files, "_core"}
    for module, path in files.items():
        for imported in imports_of(path):
            assert row_of[imported] < row_of[module], f"{module} imports {imported}"
