"""What a person names on a hub: ``hf://ORG/NAME``, ``ms://ORG/NAME@REVISION``, or ``ORG/NAME``."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ckptfmt.errors import OptionError

#: The hubs that are known, by the name `convert` takes, and how people call them.
HUBS = {"huggingface": "Hugging Face", "modelscope": "ModelScope"}
SCHEMES = {"hf": "huggingface", "ms": "modelscope"}

_PART = r"[A-Za-z0-9_][A-Za-z0-9._-]{0,95}"
_REPOSITORY = re.compile(rf"{_PART}/{_PART}")


@dataclass(frozen=True, slots=True)
class HubAddress:
    """A repository on a hub.

    Attributes
    ----------
    hub : str
        A key of ``HUBS``.
    repository : str
        ``ORG/NAME``.
    revision : str or None
        Branch, tag or commit, if it was named.
    """

    hub: str
    repository: str
    revision: str | None = None

    def __str__(self) -> str:
        scheme = next(s for s, hub in SCHEMES.items() if hub == self.hub)
        revision = f"@{self.revision}" if self.revision else ""
        return f"{scheme}://{self.repository}{revision}"


def parse_address(text: str, hub: str | None) -> HubAddress | None:
    """Read an address; None if `text` is none.

    Parameters
    ----------
    text : str
        What the person gave as the source.
    hub : str or None
        The hub they named beside it. Without one, a plain ``ORG/NAME`` is on Hugging Face.

    Raises
    ------
    OptionError
        It can only be meant as an address, and is a wrong one.
    """
    if hub is not None and hub not in HUBS:
        raise OptionError(f"the hub is {hub!r}, expected one of {', '.join(HUBS)}")
    scheme, separator, rest = text.partition("://")
    if not separator:
        scheme, rest = "", text
    elif scheme not in SCHEMES:
        raise OptionError(
            f"{text}: the scheme is {scheme!r}, expected one of {', '.join(SCHEMES)}",
            hint="hf://ORG/NAME is on Hugging Face, ms://ORG/NAME on ModelScope",
        )
    named = SCHEMES.get(scheme, hub)
    if scheme and hub not in (None, named):
        raise OptionError(f"{text} is on {named}, and the hub given beside it is {hub}")
    repository, _, revision = rest.partition("@")
    if not _REPOSITORY.fullmatch(repository) or ".." in repository or "--" in repository:
        if named is None:
            return None
        raise OptionError(f"{text}: no repository of a hub, expected ORG/NAME")
    if "@" in rest and not revision:
        raise OptionError(f"{text}: ends with @, expected a revision after it")
    return HubAddress(named or "huggingface", repository, revision or None)
