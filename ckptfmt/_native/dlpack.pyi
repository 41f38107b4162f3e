"""Regions as DLPack capsules: a framework makes a tensor of one in a single step."""

from collections.abc import Sequence

from ckptfmt._native.memory import Region

def capsule(region: Region, code: int, bits: int, shape: Sequence[int]) -> object:
    """A capsule named ``dltensor`` over a region's bytes, row-major; it keeps the region alive.

    Parameters
    ----------
    region : Region
        The bytes.
    code : int
        DLPack's ``DLDataTypeCode``.
    bits : int
        Of an element, whole bytes.
    shape : sequence of int
        In elements.

    Raises
    ------
    ValueError
        The shape needs other than the region's bytes, or is none.
    """
