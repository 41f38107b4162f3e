"""The exception for a failed call of an accelerator's runtime."""

from __future__ import annotations

from ckptfmt import acl_codes, cuda_codes
from ckptfmt.errors import DeviceError


def device_error(call: str, code: int, message: str) -> DeviceError:
    """Put call, code, its name and what the runtime said into one line.

    Parameters
    ----------
    call : str
        The runtime's function.
    code : int
        What it returned.
    message : str
        Its own words; may be empty. CUDA's begin with the code's name.
    """
    said = " ".join(message.split())
    if call.startswith("cuda"):
        text = f"{call} failed with code {code}" + (f", {said}" if said else "")
        return DeviceError(text, call=call, code=code, hint=cuda_codes.hint_for(code, call))
    name = acl_codes.name_of(code)
    text = f"{call} failed with code {code}, {name}" + (f": {said}" if said else "")
    return DeviceError(text, call=call, code=code, hint=acl_codes.hint_for(code, call))
