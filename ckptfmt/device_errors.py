"""The exception for a failed call of an accelerator's runtime."""

from __future__ import annotations

from ckptfmt.acl_codes import hint_for, name_of
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
        Its own words; may be empty.
    """
    said = " ".join(message.split())
    text = f"{call} failed with code {code}, {name_of(code)}" + (f": {said}" if said else "")
    return DeviceError(text, call=call, code=code, hint=hint_for(code, call))
