"""transformers as it is installed: its classes by name, a folder's configurations."""

from __future__ import annotations

import difflib
import inspect
import os
import re
import threading
from typing import TYPE_CHECKING, Any

from packaging.version import Version

from ckptfmt.errors import MissingDependencyError, OptionError, SourceError

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Versions before take the state dict that is handed to them in other ways.
OLDEST = Version("4.51")
#: From here on the keyword is ``dtype``; before, ``torch_dtype``.
NEW_DTYPE = Version("4.56")
#: Old checkpoints have these where newer models compute them.
COMPUTED = (r"rotary_emb\.inv_freq", r"(^|\.)position_ids$")


#: Held while the library makes a model: meanwhile it changes torch's default dtype, and functions
#: of torch and its own, for all threads.
MAKING = threading.RLock()


def import_transformers() -> Any:
    """The library.

    Raises
    ------
    MissingDependencyError
        It cannot be imported, or is too old.
    """
    try:
        import transformers  # noqa: PLC0415
    except ImportError as error:
        raise MissingDependencyError(
            f"ckptfmt.transformers needs transformers: {error}",
            hint="pip install 'ckptfmt[transformers]'",
        ) from error
    if Version(transformers.__version__) < OLDEST:
        raise MissingDependencyError(
            f"transformers {transformers.__version__} is installed, needed is {OLDEST} or newer",
            hint="pip install --upgrade transformers",
        )
    return transformers


def import_accelerate(what: str) -> Any:
    """accelerate, which several devices for one model need."""
    try:
        import accelerate  # noqa: PLC0415
    except ImportError as error:
        raise MissingDependencyError(
            f"{what}: a model on several devices needs accelerate: {error}",
            hint="pip install accelerate, or name one device",
        ) from error
    return accelerate


def dtype_keyword() -> str:
    """What ``from_pretrained`` of this version calls the dtype."""
    new = Version(import_transformers().__version__) >= NEW_DTYPE
    return "dtype" if new else "torch_dtype"


def class_named(wanted: Any) -> Any:
    """A class of models, or one of those that choose it (``AutoModel…``).

    Parameters
    ----------
    wanted : str or type
        Its name in transformers, or itself.
    """
    library = import_transformers()
    if isinstance(wanted, str):
        found = getattr(library, wanted, None)
        if found is None:
            near = difflib.get_close_matches(wanted, dir(library), 3)
            hint = f"do you mean {' or '.join(near)}?" if near else None
            raise OptionError(
                f"transformers {library.__version__} has no class {wanted!r}", hint=hint
            )
        wanted = found
    known = inspect.isclass(wanted) and issubclass(wanted, library.PreTrainedModel)
    if not known and not chooses(wanted):
        raise OptionError(
            f"{getattr(wanted, '__name__', wanted)!r} is no class of models, expected one of "
            "transformers: PreTrainedModel's or AutoModel…"
        )
    return wanted


def chooses(wanted: Any) -> bool:
    """Whether it is one that chooses the class by the configuration."""
    return inspect.isclass(wanted) and getattr(wanted, "_model_mapping", None) is not None


def config_of(
    path: str, wanted: Any, keywords: dict[str, Any], *, trust_remote_code: bool
) -> tuple[Any, dict[str, Any]]:
    """A folder's configuration, changed by those keywords that it has; and the other keywords."""
    library = import_transformers()
    given = keywords.pop("config", None)
    if isinstance(given, library.PretrainedConfig):
        return given, keywords
    source = path if given is None else given
    if given is None and not os.path.isfile(os.path.join(path, "config.json")):
        raise SourceError(
            f"{path}: no config.json in it, which tells what the model is",
            hint="name the folder that has one, or give the model's: config=…",
        )
    own = None if chooses(wanted) else wanted.config_class
    extra = {"trust_remote_code": trust_remote_code} if own is None else {}
    # What it must not take for its own.
    aside = {
        name: keywords.pop(name) for name in ("quantization_config",) if name in keywords
    }
    try:
        config, rest = (own or library.AutoConfig).from_pretrained(
            source, return_unused_kwargs=True, **extra, **keywords
        )
    except (OSError, ValueError) as error:
        raise _refused(f"{source}: no configuration that transformers reads", error) from error
    rest.pop("trust_remote_code", None)
    return config, {**rest, **aside}


def resolve(wanted: Any, config: Any, path: str, *, trust_remote_code: bool) -> tuple[Any, Any]:
    """The class of the model, and the part of the configuration that is its own."""
    if not chooses(wanted):
        return wanted, config
    mapping = wanted._model_mapping
    own_code = wanted.__name__ in (getattr(config, "auto_map", None) or {})
    try:
        if own_code and (trust_remote_code or type(config) not in mapping):
            import torch  # noqa: PLC0415

            with MAKING, torch.device("meta"):  # the library finds, asks about and imports the code
                made = wanted.from_config(config, trust_remote_code=trust_remote_code)
            return type(made), config
    except (OSError, ValueError) as error:
        raise _refused(f"{path}: the code of its model", error) from error
    if type(config) not in mapping:
        raise OptionError(
            f"{path}: {wanted.__name__} has no class for a {type(config).__name__}",
            hint='name the class: hf_model_class="…"; config.json tells it as "architectures"',
        )
    found = _among(mapping[type(config)], config)
    part = (getattr(config, "sub_configs", None) or {}).get("text_config")
    if part is not None and getattr(found, "config_class", None) == part:
        quantized = getattr(config, "quantization_config", None)
        config = config.get_text_config()
        if quantized is not None:
            config.quantization_config = quantized
    return found, config


def _among(classes: Any, config: Any) -> Any:
    """Of several classes for a configuration, the one that it names, else the first."""
    if not isinstance(classes, (list, tuple)):
        return classes
    named = getattr(config, "architectures", None) or []
    return next((one for one in classes if one.__name__ in named), classes[0])


def _refused(what: str, error: Exception) -> SourceError:
    """What the library says of a folder that it does not take."""
    text = " ".join(str(error).split())
    hint = None
    if "trust_remote_code" in text:
        hint = "trust_remote_code=True runs the Python code that is in the folder: read it first"
    return SourceError(f"{what}: {text}", hint=hint)


def published_state(model: Any) -> dict[str, Any]:
    """A model's tensors by the names of published checkpoints, which every version reads.

    Since version 5 some models join weights while they are loaded, such as those of experts; they
    are taken apart again, as ``save_pretrained`` does.
    """
    state: dict[str, Any] = model.state_dict()
    if Version(import_transformers().__version__).major < 5:
        return state
    from transformers.core_model_loading import revert_weight_conversion  # noqa: PLC0415

    found: dict[str, Any] = revert_weight_conversion(model, state)
    return found


def generation_config(path: str, config: Any) -> Any:
    """A folder's, as the library finds it: a file of its own, else in the configuration."""
    kind = import_transformers().GenerationConfig
    if os.path.exists(os.path.join(path, "generation_config.json")):
        try:
            return kind.from_pretrained(path)
        except (OSError, ValueError) as error:
            raise _refused(f"{path}: its generation_config.json", error) from error
    if os.path.exists(os.path.join(path, "config.json")):
        return kind.from_pretrained(path, config_file_name="config.json", _from_model_config=True)
    return kind.from_model_config(config)


def ignored(model: Any, names: Iterator[str]) -> list[str]:
    """Those of the checkpoint's names that the model's class does not want to hear of."""
    patterns = list(getattr(model, "_keys_to_ignore_on_load_unexpected", None) or ())
    text = re.compile("|".join(f"({pattern})" for pattern in (*patterns, *COMPUTED)))
    return [name for name in names if text.search(name)]
