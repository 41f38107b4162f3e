"""Which device each of a model's modules is on."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from ckptfmt import placement, telemetry
from ckptfmt.devices import all_devices
from ckptfmt.dtypes import import_torch
from ckptfmt.errors import OptionError, OutOfMemoryError
from ckptfmt.transformers import library

if TYPE_CHECKING:
    from collections.abc import Iterable

#: What accelerate and transformers call ways to spread a model.
SPREAD = ("auto", "balanced", "balanced_low_0", "sequential")


@dataclass(frozen=True, slots=True)
class Places:
    """Devices by names of modules, the longest name wins; ``""`` is the rest.

    Attributes
    ----------
    modules : dict of str to str
        As accelerate has it.
    """

    modules: dict[str, str]

    @property
    def only(self) -> str | None:
        """The device, if it is one."""
        devices = set(self.modules.values())
        return devices.pop() if len(devices) == 1 else None

    def of(self, name: str) -> str | None:
        """The device of a module, a parameter or a buffer; None if no name fits."""
        while name not in self.modules:
            if not name:
                return None
            name = name.rpartition(".")[0]
        return self.modules[name]

    def of_stored(self, names: Iterable[str], prefix: str) -> dict[str, str]:
        """Devices for a checkpoint's names, which may lack the model's prefix, or have one more.

        A tensor whose place cannot be told by its name goes where the first module is; the model
        brings it to its place when it has its final name.
        """
        first = next(iter(self.modules.values()))
        found = {}
        for name in names:
            other = name.removeprefix(f"{prefix}.") if prefix else name
            spellings = (name, f"{prefix}.{name}", other) if prefix else (name,)
            known = (self.of(one) for one in spellings)
            found[name] = next((device for device in known if device is not None), first)
        return found


def accelerators() -> list[str]:
    """Those of the process, none where torch has none."""
    torch = import_torch()
    if find_spec("torch_npu") is None and not (torch.version.cuda and torch.cuda.is_available()):
        return []
    return [device.name for device in all_devices()]


def given(device_map: Any) -> Places | None:
    """What a caller says; None if the model is to be spread over several devices.

    Raises
    ------
    OptionError
        It names something that tensors cannot be loaded to.
    """
    if device_map is None:
        device_map = "cpu"
    if isinstance(device_map, Mapping):
        if not device_map:
            raise OptionError("device_map is empty, expected names of modules with their devices")
        return Places({str(name): _device(one) for name, one in device_map.items()})
    if device_map not in SPREAD:
        return Places({"": _device(device_map)})
    found = accelerators()
    if len(found) > 1:
        return None
    device = found[0] if found else "cpu"
    telemetry.log.info("device_map=%r: the model goes to %s", device_map, device)
    return Places({"": device})


def _device(one: Any) -> str:
    if isinstance(one, int) and not isinstance(one, bool):
        found = accelerators()
        if one not in range(len(found)):
            raise OptionError(f"device_map names device {one}, there are {len(found)}")
        return found[one]
    if str(one) in ("disk", "meta"):
        raise OptionError(
            f"device_map names {str(one)!r}, which holds no weights that compute",
            hint="a model that fits nowhere: convert with --dtype bf16, or use more devices",
        )
    return placement.normalize(one)


def spread(how: str, cls: Any, config: Any, dtype: Any) -> Places:
    """Cut a model into pieces for all accelerators, as accelerate does, by a skeleton of it."""
    accelerate = library.import_accelerate(f"device_map={how!r}")
    names = accelerators()
    with accelerate.init_empty_weights(include_buffers=True):
        skeleton = cls(copy.deepcopy(config))
    skeleton.tie_weights()
    whole = list(getattr(skeleton, "_no_split_modules", None) or ())
    most = None
    if how != "sequential":
        most = accelerate.utils.get_balanced_memory(
            skeleton, no_split_module_classes=whole, dtype=dtype, low_zero=how == "balanced_low_0"
        )
    found = accelerate.infer_auto_device_map(
        skeleton, max_memory=most, no_split_module_classes=whole, dtype=dtype
    )
    left = [name for name, device in found.items() if device in ("cpu", "disk")]
    if left:
        raise OutOfMemoryError(
            f"device_map={how!r}: {len(left)} modules fit on none of {', '.join(names)}: "
            f"{', '.join(left[:4])}",
            hint="free memory there, or name devices: device_map={'': 'npu:0', …}",
        )
    return Places({name: names[int(device)] for name, device in found.items()})


def check(model: Any, places: Places) -> None:
    """Refuse names that the model does not have, and what no name covers.

    Raises
    ------
    OptionError
        A name is probably misspelt, or a parameter has no place.
    """
    parameters = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    known = {name for name, _ in model.named_modules(remove_duplicate=False)}
    known.update(parameters, (name for name, _ in model.named_buffers(remove_duplicate=False)))
    unknown = [name for name in places.modules if name not in known]
    if unknown:
        raise OptionError(
            f"device_map names {unknown[0]!r}, which no module of the model is called",
            hint="its own names: for name, _ in model.named_modules()",
        )
    if places.only is None:
        left = [name for name in parameters if places.of(name) is None]
        if left:
            raise OptionError(
                f"device_map has no device for {len(left)} parameters: {', '.join(left[:4])}",
                hint="the key '' stands for the rest",
            )


def settle(model: Any, places: Places) -> None:
    """Bring to their devices what was computed and not read: buffers, and what was missing."""
    for path, module in model.named_modules():
        for name, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is None or tensor.is_meta:
                continue
            device = places.of(f"{path}.{name}" if path else name)
            if device is None or str(tensor.device) == device:
                continue
            if name in module._buffers:
                module._buffers[name] = tensor.to(device)
            else:
                tensor.data = tensor.data.to(device)  # the same object: what is tied stays so


def dispatch(model: Any, places: Places) -> None:
    """Have activations brought to where the next module is."""
    if places.only is not None:
        return
    accelerate = library.import_accelerate("device_map")
    accelerate.dispatch_model(
        model, device_map=dict(places.modules),
        skip_keys=getattr(model, "_skip_keys_device_placement", None),
    )  # fmt: skip
