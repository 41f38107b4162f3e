"""``load_model``, ``from_pretrained``, ``save_model``: models of transformers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ckptfmt import dtypes, saving, telemetry
from ckptfmt.errors import OptionError, SourceError
from ckptfmt.opening import open_checkpoint
from ckptfmt.transformers import library, mismatch, places, precision, quantized, storage
from ckptfmt.transformers.pending import Pending
from ckptfmt.transformers.reader import Portion, Reader

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    from typing_extensions import Unpack

    from ckptfmt.checkpoint import Checkpoint
    from ckptfmt.conversion import ConvertReport
    from ckptfmt.engine import Progress
    from ckptfmt.options import LoadOptions
    from ckptfmt.saving import SaveOptions

    DeviceMap = str | int | Mapping[str, str | int] | None

#: What is said of the weights and their places by this package, not by such keywords.
OURS = (
    "state_dict", "output_loading_info", "ignore_mismatched_sizes", "gguf_file", "subfolder",
    "variant", "max_memory", "offload_folder", "offload_state_dict", "offload_buffers",
)  # fmt: skip


def load_model(
    model_path: str | os.PathLike[str],
    device_map: DeviceMap = "auto",
    torch_dtype: Any = None,
    storage_path: str | os.PathLike[str] | None = None,
    fully_parallel: bool = False,
    hf_model_class: Any = "AutoModelForCausalLM",
    **keywords: Any,
) -> Any:
    """Load a model of transformers, ready to be used.

    The model is made, without memory for its weights, while they are being read; then they become
    its parameters, without a copy. A checkpoint, or a folder that still holds safetensors files.

    Parameters
    ----------
    model_path : path-like
        The folder, with its ``config.json``; or its name below `storage_path`.
    device_map : str, torch.device, int, mapping or None
        ``"cpu"``, ``"npu:0"``, ``"cuda:0"``; devices by names of modules; or ``"auto"``: the NPU or
        GPU that there is, all of them if there are several (with accelerate), else the CPU.
    torch_dtype : str or torch.dtype, optional
        ``"bf16"``, ``"fp16"``, ``"fp32"``, cast while it is read. If not given, or ``"auto"``: the
        one that most bytes are stored in, whatever the configuration says. In both cases modules
        that their class keeps in fp32 are.
    storage_path : path-like, optional
        Root of `model_path`. If not given, ``STORAGE_PATH`` in the environment is one.
    fully_parallel : bool
        Accepted for the sake of callers that give it: all devices are always filled at the same
        time.
    hf_model_class : str or type
        ``"AutoModel"``, ``"T5ForConditionalGeneration"``, a class: any of transformers' models, or
        what chooses one by the configuration.
    **keywords
        See `from_pretrained`.

    Returns
    -------
    transformers.PreTrainedModel
        In evaluation mode, with its generation config.

    Raises
    ------
    NotFoundError, FormatError, ChecksumError, FileError
        As :func:`ckptfmt.load`.
    LoadMismatchError
        Names or shapes differ between checkpoint and model; they are listed.
    MissingDependencyError
        transformers, or what this model needs beside it, is not installed.
    SourceError
        No configuration, or one whose code was not trusted.
    """
    del fully_parallel
    path = storage.find(model_path, storage_path)
    return from_pretrained(
        path, device_map=device_map, torch_dtype=torch_dtype, hf_model_class=hf_model_class,
        **keywords,
    )  # fmt: skip


def from_pretrained(
    path: str | os.PathLike[str],
    *,
    device_map: DeviceMap = None,
    torch_dtype: Any = None,
    dtype: Any = None,
    hf_model_class: Any = "AutoModelForCausalLM",
    trust_remote_code: bool = False,
    strict: bool = True,
    verify: bool | None = None,
    options: LoadOptions | None = None,
    progress: Progress | None = None,
    **keywords: Any,
) -> Any:
    """As `load_model`, with the defaults of transformers: to the CPU.

    Parameters
    ----------
    path : path-like
        The folder.
    device_map, torch_dtype, hf_model_class
        As for `load_model`.
    dtype : str or torch.dtype, optional
        What newer versions of transformers call `torch_dtype`.
    trust_remote_code : bool
        Whether Python code that is in the folder may run.
    strict : bool
        Whether names that are missing in the checkpoint, or not in the model, are errors. If not,
        the library initializes what is missing.
    verify, options
        As for :func:`ckptfmt.load`.
    progress : callable, optional
        Called with bytes done and bytes in all, from the thread that reads.
    **keywords
        What the library's ``from_pretrained`` takes: ``attn_implementation``, ``config``,
        ``generation_config``, ``quantization_config``, values of the configuration …
    """
    for name in OURS:
        if name in keywords:
            raise OptionError(
                f"{name}= has no meaning here: the weights are those of {path}, "
                "device_map says where they go"
            )
    row = precision.wanted(torch_dtype if dtype is None else dtype)
    where = places.given(device_map)
    with (
        telemetry.span("load_model", path=str(path)),
        open_checkpoint(path, options=options) as checkpoint,
        Reader(checkpoint, verify=verify, progress=progress) as reader,
    ):
        one = where.only if where is not None else None
        if row is None and one is not None and not quantized.may_be(checkpoint.path):
            reader.start([Portion(device=one)])  # before transformers is even imported
        return _made(
            reader, where, device_map, row, class_named=hf_model_class, keywords=keywords,
            trust_remote_code=trust_remote_code, strict=strict,
        )  # fmt: skip


def _made(
    reader: Reader,
    where: places.Places | None,
    device_map: Any,
    row: Any,
    *,
    class_named: Any,
    keywords: dict[str, Any],
    trust_remote_code: bool,
    strict: bool,
) -> Any:
    """The model, around what is being read."""
    checkpoint = reader.checkpoint
    path = checkpoint.path
    wanted = library.class_named(class_named)
    own_generation = "generation_config" in keywords
    config, keywords = library.config_of(
        path, wanted, keywords, trust_remote_code=trust_remote_code
    )
    cls, config = library.resolve(wanted, config, path, trust_remote_code=trust_remote_code)
    main = dtypes.to_torch(row or precision.stored(checkpoint.index) or precision.FALLBACK)
    if where is None:
        with library.MAKING:
            where = places.spread(str(device_map), cls, config, main)
    reader.placed = not quantized.is_quantized(config, keywords)
    if not reader.started:
        cast = row if reader.placed else None
        # Told of devices, the library takes and frees memory there before it asks for a tensor.
        later = not reader.placed and where.only != "cpu"
        reader.start(_portions(checkpoint, where, cast, cls), when_asked=later)
        if later:
            keywords["device_map"] = dict(where.modules)
    pending = {name: Pending(reader, name, checkpoint.info(name)) for name in checkpoint.names}
    keywords[library.dtype_keyword()] = main
    try:
        with library.MAKING, telemetry.span("make"), quantized.explained(path, config):
            model, told = cls.from_pretrained(
                None, config=config, state_dict=pending, output_loading_info=True,
                ignore_mismatched_sizes=True, **keywords,
            )  # fmt: skip
    except BaseException as error:
        reader.raise_its_error()
        mismatch.raise_if_told(path, error)
        raise
    reader.remember()
    _tie_to_the_stored(model, checkpoint)
    shapes = {name: one.shape for name, one in pending.items()}
    left = reader.left if reader.placed else ()  # quantizers may take what they need by themselves
    taken = {
        tied for name in checkpoint.names if name not in reader.left
        for tied in checkpoint.info(name).names
    }  # fmt: skip
    mismatch.check(path, model, told, shapes, left, taken, strict=strict)
    model.name_or_path = model.config.name_or_path = path
    if not own_generation and model.can_generate():
        model.generation_config = library.generation_config(path, model.config)
    if reader.placed:
        places.check(model, where)
        places.settle(model, where)
        places.dispatch(model, where)
    return model.eval()


def _tie_to_the_stored(model: Any, checkpoint: Checkpoint) -> None:
    """Give tied weights their values where the library has tied them to the name without any.

    Versions before 5 do so if the checkpoint has, say, the output layer and not the embedding.
    """
    found: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if parameter.is_meta:
            found.setdefault(id(parameter), []).append(name)
    for names in found.values():
        stored = [name for name in names if name in checkpoint]
        if stored:
            old = model.get_parameter(stored[0])
            new = type(old)(checkpoint[stored[0]].to(old.dtype), requires_grad=old.requires_grad)
            for name in names:
                above, _, last = name.rpartition(".")
                setattr(model.get_submodule(above), last, new)


def _portions(
    checkpoint: Checkpoint, where: places.Places, row: Any, cls: Any
) -> list[Portion]:
    """What is read by which load: those to other devices, or with a cast, apart from the others."""
    names = list(checkpoint.names)
    prefix = getattr(cls, "base_model_prefix", "")
    devices = where.of_stored(names, prefix)
    parts: list[tuple[list[str], str | None]] = [(names, None)]
    if row is not None:
        cast, others = precision.to_cast(checkpoint.index, row, cls)
        parts = [(cast, dtypes.cast_name(row)), (others, None)]
    found = []
    for mine, dtype in parts:
        here = [name for name in mine if devices[name] == "cpu"]
        there = {name: devices[name] for name in mine if devices[name] != "cpu"}
        if there:
            found.append(Portion(list(there), there, dtype))
        if here:
            found.append(Portion(here, "cpu", dtype))
    return found


def save_model(
    model: Any,
    path: str | os.PathLike[str],
    *,
    tokenizer: Any = None,
    **options: Unpack[SaveOptions],
) -> ConvertReport:
    """Store a model of transformers, with its configurations.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        Wherever it is. Must not change meanwhile.
    path : path-like
        The folder to be made.
    tokenizer : object, optional
        A tokenizer or processor to go with it: anything with ``save_pretrained``.
    **options
        See :class:`ckptfmt.SaveOptions`.

    Returns
    -------
    ConvertReport
        What was written.

    Raises
    ------
    SourceError, UnsupportedDtypeError, TargetExistsError, FileError
        As :func:`ckptfmt.save_model`.
    """
    if not hasattr(model, "save_pretrained") or not hasattr(model, "state_dict"):
        raise SourceError(
            f"save_model: a {type(model).__name__}, expected a model of transformers",
            hint="ckptfmt.save_model stores any module",
        )
    beside = saving.configs_of(model) + (() if tokenizer is None else (tokenizer,))
    return saving.save_dict(library.published_state(model), path, beside=beside, **options)
