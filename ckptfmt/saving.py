"""``save_model``, ``save_dict``, ``save_lora``: live objects, and the files that go with them.

And ``join_ranks``: one checkpoint of those that ranks have stored.
"""

from __future__ import annotations

import copy
import os
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypedDict

from ckptfmt.conversion import Conversion
from ckptfmt.errors import MissingDependencyError, OptionError, SourceError
from ckptfmt.options import ConvertOptions
from ckptfmt.sources.folder import sidecars_below
from ckptfmt.sources.live import live_source
from ckptfmt.sources.rank_states import RankStates

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from typing_extensions import Unpack

    from ckptfmt.conversion import ConvertReport
    from ckptfmt.engine import Progress


class SaveOptions(TypedDict, total=False):
    """Keywords of `save_model`, `save_dict` and `save_lora`, as `convert` has them.

    Attributes
    ----------
    dtype : str
        Cast floating tensors of 16 bits and more: ``keep``, ``bf16``, ``fp16``, ``fp32``.
    alignment, partition_size : int or str
        Bytes, units understood.
    include, exclude : str or iterable of str
        Glob patterns on tensor names.
    workers : int or None
        Threads that copy, cast and write; 4 if not given.
    force : bool
        Replace a checkpoint that is there.
    progress : callable or None
        Called with bytes done and bytes in all, from this thread.
    """

    dtype: str
    alignment: int | str
    partition_size: int | str
    include: str | Iterable[str]
    exclude: str | Iterable[str]
    workers: int | None
    force: bool
    progress: Progress | None


def save_model(
    model: Any, path: str | os.PathLike[str], **options: Unpack[SaveOptions]
) -> ConvertReport:
    """Store a torch module: parameters and persistent buffers, wherever they are.

    Tensors come to the CPU piece by piece, 8 MiB for each worker. Tied ones are stored once; views
    and transposes with the bytes they show. If the module has a ``config`` that can be saved, as
    those of transformers, it travels along, and so does its ``generation_config``.

    Parameters
    ----------
    model : torch.nn.Module
        Must not change meanwhile.
    path : path-like
        The folder to be made.
    **options
        See `SaveOptions`.

    Returns
    -------
    ConvertReport
        What was written.

    Raises
    ------
    SourceError, UnsupportedDtypeError
        Something in it is no tensor, or none that can be stored; or its config cannot be saved.
    TargetExistsError, FileError
        As `convert`: the target does not exist then, or is what it was.
    """
    if not hasattr(model, "state_dict"):
        raise SourceError(
            f"save_model: a {type(model).__name__}, expected a torch module",
            hint="save_dict stores a dict of tensors",
        )
    return _save(model, path, configs_of(model), options)


def save_dict(
    state_dict: Mapping[str, Any],
    path: str | os.PathLike[str],
    *,
    beside: Sequence[Any] = (),
    **options: Unpack[SaveOptions],
) -> ConvertReport:
    """Store a dict of tensors, wherever they are; see `save_model`.

    Parameters
    ----------
    state_dict : mapping of str to Tensor
        In the order to be stored. Must not change meanwhile.
    path : path-like
        The folder to be made.
    beside : sequence
        What goes there, too: configurations, tokenizers, anything with ``save_pretrained``.
    **options
        See `SaveOptions`.

    Returns
    -------
    ConvertReport
        What was written.
    """
    if not hasattr(state_dict, "items"):
        raise SourceError(
            f"save_dict: a {type(state_dict).__name__}, expected a dict of tensors",
            hint="save_model stores a module",
        )
    return _save(state_dict, path, beside, options)


def save_lora(
    model: Any,
    path: str | os.PathLike[str],
    adapter_name: str = "default",
    **options: Unpack[SaveOptions],
) -> ConvertReport:
    """Store one adapter of a peft model, and its ``adapter_config.json``; not the model below it.

    What `load` gives back is what ``peft.set_peft_model_state_dict`` takes, and
    ``peft.PeftConfig.from_pretrained(path)`` reads the configuration.

    Parameters
    ----------
    model : peft.PeftModel
        Or another module that adapters were injected into.
    path : path-like
        The folder to be made.
    adapter_name : str
        Which one.
    **options
        See `SaveOptions`.

    Returns
    -------
    ConvertReport
        What was written.

    Raises
    ------
    MissingDependencyError
        peft cannot be imported.
    OptionError
        The model has no adapter of this name.
    SourceError
        The model has no adapters at all.
    """
    try:
        import peft  # noqa: PLC0415
    except ImportError as error:
        raise MissingDependencyError(
            f"save_lora needs peft: {error}", hint="pip install peft"
        ) from error
    adapters = getattr(model, "peft_config", None)
    if not isinstance(adapters, dict):
        raise SourceError(
            f"save_lora: a {type(model).__name__} without adapters, expected a model of peft",
            hint="save_model stores a whole model",
        )
    if adapter_name not in adapters:
        raise OptionError(
            f"no adapter {adapter_name!r}, there are: {', '.join(map(repr, adapters)) or 'none'}"
        )
    config = copy.deepcopy(adapters[adapter_name])
    config.inference_mode = True  # as peft stores it: loaded to be used, not to be trained on
    tensors = peft.get_peft_model_state_dict(model, adapter_name=adapter_name)
    return _save(tensors, path, (config,), options)


def join_ranks(
    paths: Sequence[str | os.PathLike[str]],
    target: str | os.PathLike[str],
    layout: Mapping[str, str],
    **options: Unpack[SaveOptions],
) -> ConvertReport:
    """Make one checkpoint of those that ranks have stored, each its own state.

    What is the same on all ranks is stored once; the rest stands in partitions of its rank, so that
    ``ckptfmt.open(target, rank=..., tensor_parallel=...)`` reads each byte that it needs once.

    Parameters
    ----------
    paths : sequence of path-like
        A checkpoint of each rank, in order. They stay as they are.
    target : path-like
        The folder to be made. The files beside the tensors are those of the first.
    layout : mapping of str to str
        What a reader has to have in common with who stored them; it comes back as
        ``index.topology.layout``, and who loads compares it.
    **options
        See `SaveOptions`.

    Returns
    -------
    ConvertReport
        What was written.

    Raises
    ------
    OptionError
        There is no checkpoint, or one of them is of ranks itself.
    NotFoundError, FormatError, ChecksumError
        One of them is not there, or damaged: the target does not exist then.
    """
    checked, progress = _checked(options)
    source = RankStates([os.fspath(path) for path in paths], layout)
    try:
        return Conversion(source, "", os.fspath(target), checked).run(progress)
    finally:
        source.close()


def _checked(options: SaveOptions) -> tuple[ConvertOptions, Progress | None]:
    given: dict[str, Any] = dict(options)
    progress = given.pop("progress", None)
    checked = ConvertOptions.given(**given)
    if checked.tensor_parallel is not None:
        raise OptionError(
            f"tensor_parallel is {checked.tensor_parallel}, and nothing is cut that is saved",
            hint="ckptfmt.convert cuts modules and dicts, too",
        )
    return checked, progress


def configs_of(model: Any) -> tuple[Any, ...]:
    """What knows how to save itself; nothing is asked of transformers."""
    config: Any = getattr(model, "config", None)
    if not hasattr(config, "save_pretrained"):
        return ()
    if not getattr(config, "architectures", None):
        # A model that was made, not loaded: who reads the config later has to know its class.
        config = copy.deepcopy(config)
        config.architectures = [type(model).__name__]
    generation = getattr(model, "generation_config", None)
    return (config, generation) if hasattr(generation, "save_pretrained") else (config,)


def _save(
    tensors: Any, path: str | os.PathLike[str], configs: Sequence[Any], options: SaveOptions
) -> ConvertReport:
    checked, progress = _checked(options)
    source = live_source(tensors)
    try:
        with TemporaryDirectory(prefix="ckptfmt-") as folder:
            for config in configs:
                _save_config(config, folder)
            found = sidecars_below(folder, ())
            source.description.sidecars, source.description.left_out = found
            return Conversion(source, "", os.fspath(path), checked).run(progress)
    finally:
        source.close()


def _save_config(config: Any, folder: str) -> None:
    if getattr(config, "_attn_implementation_autoset", False):
        # transformers 4.51 stores that attention was chosen, not how, and then chooses none.
        config = copy.copy(config)
        config._attn_implementation_autoset = False
    try:
        config.save_pretrained(folder)
    except (AttributeError, TypeError, ValueError) as error:
        raise SourceError(
            f"a {type(config).__name__} cannot be saved: {error}",
            hint="save_dict(model.state_dict(), path) stores the tensors alone",
        ) from error
