"""Checkpoints of every format that is read, each written and read by code that is not ours.

Where there is no library to do it, the writer and the reader here are made from the format's
description alone, and share nothing with the package.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

Tensors = dict[str, torch.Tensor]

FLOATS = (torch.float16, torch.float32, torch.float64)
INTEGERS = (torch.int8, torch.int16, torch.int32, torch.int64)
UNSIGNED = (torch.uint16, torch.uint32, torch.uint64)
SLLM = (*FLOATS, torch.bfloat16, *INTEGERS, torch.uint8)
NUMPY = (
    *FLOATS, *INTEGERS, torch.uint8, *UNSIGNED, torch.bool, torch.complex64, torch.complex128
)  # fmt: skip
GGUF = (*FLOATS, torch.bfloat16, *INTEGERS)
TORCH = (*NUMPY, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2)
SAFETENSORS = tuple(dtype for dtype in TORCH if dtype != torch.complex128)
MINDSPORE = {
    torch.bool: "Bool", torch.int8: "Int8", torch.uint8: "UInt8", torch.int16: "Int16",
    torch.uint16: "UInt16", torch.int32: "Int32", torch.uint32: "UInt32", torch.int64: "Int64",
    torch.uint64: "UInt64", torch.float16: "Float16", torch.bfloat16: "BFloat16",
    torch.float32: "Float32", torch.float64: "Float64", torch.complex64: "Complex64",
    torch.complex128: "Complex128",
}  # fmt: skip


@dataclass(frozen=True)
class Format:
    """A kind of source.

    Attributes
    ----------
    write : callable
        Writes tensors below a folder, and returns what is to be converted.
    read : callable
        Reads that back.
    dtypes : tuple of torch.dtype
        What it can hold.
    ties, empty : bool
        Whether it stores tied tensors once, and tensors without bytes at all.
    """

    write: Callable[[Path, Tensors], Path]
    read: Callable[[Path], Tensors]
    dtypes: tuple[torch.dtype, ...]
    ties: bool = False
    empty: bool = True


def raw(tensor: torch.Tensor) -> bytes:
    """The bytes of a storage, from the tensor's begin on."""
    flat = tensor.detach().contiguous().view(-1)
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""


# ---- safetensors, torch: their own libraries ----


def write_safetensors(folder: Path, tensors: Tensors) -> Path:
    save_file({n: t.contiguous() for n, t in tensors.items()}, folder / "model.safetensors")
    return folder


def read_safetensors(path: Path) -> Tensors:
    return load_file(path / "model.safetensors")


def write_torch(folder: Path, tensors: Tensors) -> Path:
    torch.save(tensors, folder / "pytorch_model.bin")
    return folder


def read_torch(path: Path) -> Tensors:
    return torch.load(path / "pytorch_model.bin", weights_only=True)


# ---- ServerlessLLM Store: needs a GPU and its server, so made from its layout ----


def write_sllm(folder: Path, tensors: Tensors, *, limit: int = 10 << 30, rank: str = "") -> Path:
    """As its ``save_dict``: whole storages, each once, padded to 8 bytes; offsets go on over files.

    A storage that does not fit begins a new file.
    """
    where = folder / rank
    where.mkdir(exist_ok=True)
    offsets: dict[int, int] = {}
    index = {}
    parts = [bytearray()]
    for name, tensor in tensors.items():
        storage = tensor.untyped_storage()
        data = raw(torch.empty(0, dtype=torch.uint8).set_(storage)) if storage.nbytes() else b""
        key = storage.data_ptr()
        if key not in offsets:
            if len(parts[-1]) + len(data) > limit:
                parts.append(bytearray())
            offsets[key] = sum(map(len, parts))
            parts[-1] += data + bytes(-len(data) % 8)
        index[name] = (
            offsets[key], len(data), tuple(tensor.shape), tuple(tensor.stride()), str(tensor.dtype)
        )  # fmt: skip
    for number, part in enumerate(parts):
        (where / f"tensor.data_{number}").write_bytes(part)
    (where / "tensor_index.json").write_text(json.dumps(index))
    return folder


def read_sllm(path: Path) -> Tensors:
    """As its loader: the files one behind the other, a tensor over its bytes with its strides."""
    where = path if (path / "tensor_index.json").exists() else path / "rank_0"
    data, number = b"", 0
    while (where / f"tensor.data_{number}").exists():
        data += (where / f"tensor.data_{number}").read_bytes()
        number += 1
    found = {}
    index = json.loads((where / "tensor_index.json").read_text())
    for name, (offset, nbytes, shape, strides, dtype) in index.items():
        assert offset % 8 == 0
        kind = getattr(torch, dtype.removeprefix("torch."))
        block = bytearray(data[offset : offset + nbytes])
        flat = torch.frombuffer(block, dtype=kind) if block else torch.empty(0, dtype=kind)
        found[name] = flat.as_strided(shape, strides).contiguous()
    return found


# ---- NumPy ----


def write_npz(folder: Path, tensors: Tensors, *, compressed: bool = False) -> Path:
    save = np.savez_compressed if compressed else np.savez
    save(folder / "model.npz", **{n: t.numpy() for n, t in tensors.items()})
    return folder / "model.npz"


def write_npz_compressed(folder: Path, tensors: Tensors) -> Path:
    return write_npz(folder, tensors, compressed=True)


def read_npz(path: Path) -> Tensors:
    with np.load(path, allow_pickle=False) as arrays:
        return {name: torch.from_numpy(arrays[name].copy()) for name in arrays.files}


# ---- GGUF ----


def write_gguf(folder: Path, tensors: Tensors, keys: Callable[[Any], None] | None = None) -> Path:
    import gguf

    writer = gguf.GGUFWriter(folder / "model.gguf", "llama")
    writer.add_name("a model")
    if keys is not None:
        keys(writer)
    for name, tensor in tensors.items():
        if tensor.dtype == torch.bfloat16:
            data = tensor.contiguous().view(torch.int16).numpy()[..., None].view(np.uint8)
            data = data.reshape(*tensor.shape[:-1], 2 * tensor.shape[-1]) if tensor.shape else data
            writer.add_tensor(name, data, raw_dtype=gguf.GGMLQuantizationType.BF16)
        else:
            writer.add_tensor(name, tensor.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return folder / "model.gguf"


def read_gguf(path: Path) -> Tensors:
    import gguf

    found = {}
    for tensor in gguf.GGUFReader(path).tensors:
        data = np.array(tensor.data)
        flat = torch.from_numpy(data.reshape(-1))
        if tensor.tensor_type == gguf.GGMLQuantizationType.BF16:
            flat = torch.from_numpy(data.reshape(-1).view(np.int16)).view(torch.bfloat16)
        found[tensor.name] = flat.reshape([int(n) for n in reversed(tensor.shape)])
    return found


# ---- torch's distributed checkpoints ----


def write_dcp(folder: Path, tensors: dict[str, Any]) -> Path:
    import torch.distributed.checkpoint as dcp

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.save(tensors, checkpoint_id=folder / "step-1", no_dist=True)
    return folder / "step-1"


def read_dcp(path: Path) -> Tensors:
    import torch.distributed.checkpoint as dcp

    reader = dcp.FileSystemReader(path)
    entries = reader.read_metadata().state_dict_metadata
    found = {n: torch.empty(e.size, dtype=e.properties.dtype) for n, e in entries.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.load(found, storage_reader=reader, no_dist=True)
    return found


# ---- MindSpore: its package is an environment of its own, so made from its .proto ----


def varint(value: int) -> bytes:
    digits = []
    value &= (1 << 64) - 1
    while value > 127:
        digits.append(value & 127 | 128)
        value >>= 7
    return bytes([*digits, value])


def field(number: int, data: bytes | int) -> bytes:
    if isinstance(data, int):
        return varint(number << 3) + varint(data)
    return varint(number << 3 | 2) + varint(len(data)) + data


def ms_entry(name: str, kind: str, shape: tuple[int, ...], data: bytes) -> bytes:
    """One entry of a checkpoint."""
    dims = b"".join(field(1, n) for n in shape)
    tensor = dims + field(2, kind.encode()) + field(3, data)
    return field(1, field(1, name.encode()) + field(2, tensor))


def write_mindspore(folder: Path, tensors: Tensors, *, slice_nbytes: int = 1 << 29) -> Path:
    path = folder / "model.ckpt"
    with path.open("wb") as stream:
        for name, tensor in tensors.items():
            data = raw(tensor)
            for start in range(0, len(data), slice_nbytes):
                piece = data[start : start + slice_nbytes]
                stream.write(ms_entry(name, MINDSPORE[tensor.dtype], tuple(tensor.shape), piece))
    return path


def write_mindspore_sliced(folder: Path, tensors: Tensors) -> Path:
    nbytes = max(t.nbytes for t in tensors.values())
    return write_mindspore(folder, tensors, slice_nbytes=nbytes // 7 + 1)


def read_mindspore(path: Path) -> Tensors:
    """By the protobuf library, with a descriptor of what the .proto says."""
    message = checkpoint_message().FromString(path.read_bytes())
    pieces: dict[str, list[Any]] = {}
    for value in message.value:
        pieces.setdefault(value.tag, []).append(value.tensor)
    kinds = {name: dtype for dtype, name in MINDSPORE.items()}
    found = {}
    for name, tensors in pieces.items():
        data = bytearray(b"".join(t.tensor_content for t in tensors))
        flat = torch.frombuffer(data, dtype=kinds[tensors[0].tensor_type])
        found[name] = flat.reshape(list(tensors[0].dims))
    return found


def checkpoint_message() -> Any:
    """The class of a whole checkpoint."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="checkpoint.proto", syntax="proto2")

    def message(name: str, *rows: tuple[str, int, int, int, str]) -> None:
        entry = file.message_type.add(name=name)
        for title, number, label, kind, type_name in rows:
            entry.field.add(
                name=title, number=number, label=label, type=kind, type_name=type_name or None
            )

    message(
        "Tensor",
        ("dims", 1, kinds.LABEL_REPEATED, kinds.TYPE_INT64, ""),
        ("tensor_type", 2, kinds.LABEL_REQUIRED, kinds.TYPE_STRING, ""),
        ("tensor_content", 3, kinds.LABEL_REQUIRED, kinds.TYPE_BYTES, ""),
    )
    message(
        "Value",
        ("tag", 1, kinds.LABEL_REQUIRED, kinds.TYPE_STRING, ""),
        ("tensor", 2, kinds.LABEL_OPTIONAL, kinds.TYPE_MESSAGE, ".Tensor"),
    )
    message("Checkpoint", ("value", 1, kinds.LABEL_REPEATED, kinds.TYPE_MESSAGE, ".Value"))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("Checkpoint"))


FORMATS = {
    "safetensors": Format(write_safetensors, read_safetensors, SAFETENSORS),
    "torch": Format(write_torch, read_torch, TORCH, ties=True),
    "sllm": Format(write_sllm, read_sllm, SLLM, ties=True),
    "npz": Format(write_npz, read_npz, NUMPY),
    "npz, compressed": Format(write_npz_compressed, read_npz, NUMPY),
    "gguf": Format(write_gguf, read_gguf, GGUF),
    "dcp": Format(write_dcp, read_dcp, TORCH),
    "mindspore": Format(write_mindspore, read_mindspore, tuple(MINDSPORE), empty=False),
    "mindspore, sliced": Format(
        write_mindspore_sliced, read_mindspore, tuple(MINDSPORE), empty=False
    ),
}
