"""What follows from the name of an Ascend chip, and from the numbers that devices are given."""

from __future__ import annotations

import re

#: Chips that compute no bf16: 310 and 310P (Atlas inference products), 310B (Atlas 200I/500 A2, and
#: with it the Orange Pi AI Pro) and the first generation of 910 (Atlas training products), which
#: includes a plain "910B": the second is 910B1 and so on. From the table of supported products in
#: Huawei's Ascend C guide, ToBfloat16 (hiascend.com, CANN 8.5.0, atlasascendc_api_07_0021).
_NO_BF16 = re.compile(r"(?:Ascend)?(?:310.*|910(?:A|B|ProA|ProB|PremiumA)?)")


def computes_bf16(soc_name: str) -> bool:
    """Whether a chip has operators for bf16; so it is assumed of those that are not known.

    Parameters
    ----------
    soc_name : str
        As the runtime gives it: ``"Ascend910B3"``.
    """
    return _NO_BF16.fullmatch(soc_name) is None


def physical_device(number: int, visible: str | None) -> int | None:
    """The physical device behind a device's number in this process.

    Parameters
    ----------
    number : int
        3 for ``"npu:3"``.
    visible : str or None
        ``ASCEND_RT_VISIBLE_DEVICES``: ascending numbers and commas; what follows an entry that is
        none does not count. None if it is not set.

    Returns
    -------
    int or None
        None if the variable hides that device, which the runtime then does not have.
    """
    if visible is None:
        return number
    found: list[int] = []
    for entry in visible.split(","):
        if not entry.isdecimal() or (found and int(entry) <= found[-1]):
            break
        found.append(int(entry))
    return found[number] if number < len(found) else None
