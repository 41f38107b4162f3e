"""Versions compared: of packages, of CANN (``8.1.RC1``), of drivers (``25.0.rc1.1``)."""

from __future__ import annotations

import re

from packaging.requirements import InvalidRequirement, Requirement
from packaging.version import InvalidVersion, Version


def numbers(text: str) -> tuple[int, ...]:
    """The leading numbers: ``(8, 1)`` of ``8.1.RC1``, ``(2, 7, 1)`` of ``2.7.1.post8+cpu``."""
    match = re.match(r"[0-9]+(?:\.[0-9]+)*", text.strip())
    return tuple(int(part) for part in match[0].split(".")) if match else ()


def train(text: str) -> tuple[int, ...]:
    """The first two of them: releases of CANN that differ in what follows fit each other."""
    return numbers(text)[:2]


def base(text: str) -> str:
    """A package's version without what its builder added: ``2.7.1`` of ``2.7.1+cpu``."""
    return text.partition("+")[0]


def release(text: str) -> tuple[int, ...]:
    """The three numbers that torch and torch_npu share."""
    return (*numbers(base(text)), 0, 0, 0)[:3]


def is_in(version: str, wanted: str) -> bool | None:
    """Whether a version meets a requirement such as ``torch>=2.1``; None if that is unclear."""
    try:
        requirement = Requirement(wanted)
        return requirement.specifier.contains(Version(version), prereleases=True)
    except (InvalidRequirement, InvalidVersion):
        return None


def requirement(wanted: list[str] | None, name: str) -> str:
    """What a package requires of another, as ``==2.8.0``; empty if nothing."""
    for text in wanted or []:
        try:
            found = Requirement(text)
        except InvalidRequirement:
            continue
        if found.name.lower().replace("_", "-") == name and _applies(found):
            return str(found.specifier)
    return ""


def required(wanted: list[str] | None) -> list[tuple[str, str]]:
    """Names of packages that another requires without extras, and which versions."""
    found = []
    for text in wanted or []:
        try:
            one = Requirement(text)
        except InvalidRequirement:
            continue
        if _applies(one):
            found.append((one.name, str(one.specifier)))
    return found


def in_range(version: str, ranges: str) -> bool | None:
    """Whether a version is within one of ``[7.0.0,7.7.99],[8.0.0,8.9.9]``; None if unclear."""
    pairs = re.findall(r"\[([0-9.]+),([0-9.]+)\]", ranges)
    value = numbers(version)[:3]
    if not pairs or not value:
        return None
    return any(numbers(low)[:3] <= value <= numbers(high)[:3] for low, high in pairs)


def _applies(found: Requirement) -> bool:
    return found.marker is None or found.marker.evaluate({"extra": ""})
