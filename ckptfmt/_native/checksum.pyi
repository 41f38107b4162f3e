"""CRC32C of anything that has a buffer, in hardware where the machine has it."""

from typing import Literal

from typing_extensions import Buffer

def crc32c(
    data: Buffer, crc: int = 0, *, implementation: Literal["auto", "table"] = "auto"
) -> int:
    """CRC32C (Castagnoli) of a buffer's bytes, without the GIL.

    Parameters
    ----------
    data : buffer
        Contiguous; read only.
    crc : int
        The CRC of the bytes before it; 0 at the start.
    implementation : str
        ``"table"`` does without the processor's instruction, to compare.

    Returns
    -------
    int
        0 … 2³²-1.

    Raises
    ------
    ValueError
        There is no such implementation.
    BufferError
        The buffer is not contiguous.
    """

def crc32c_combine(first: int, second: int, nbytes: int) -> int:
    """CRC32C of two runs of bytes, from that of each.

    Parameters
    ----------
    first, second : int
        The CRCs of the two runs.
    nbytes : int
        Length of the second run.

    Returns
    -------
    int
        The CRC of the first run followed by the second.
    """

def crc32c_implementation() -> Literal["sse4.2", "sse4.2+vpclmulqdq", "armv8-crc", "table"]:
    """Name what :func:`crc32c` runs on; found when the module was loaded.

    Returns
    -------
    str
        ``"sse4.2"``, ``"sse4.2+vpclmulqdq"``, ``"armv8-crc"`` or ``"table"``.
    """
