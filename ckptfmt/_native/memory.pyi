"""Memory that tensors live in: one mapping for a load, and a region of it for each tensor."""

from typing import final

@final
class Memory:
    """One mapping, of the system's own memory or of a file; unmapped when its last region dies.

    Parameters
    ----------
    nbytes : int
        Its size. 2 MiB and more start at a multiple of 2 MiB, and huge pages are asked for.
    fd : int
        Map this file from its start on, private and writable: changes stay in memory. -1: memory
        of the system's own, zero.
    hugetlb : bool
        Try the huge pages that an administrator has set aside first.

    Raises
    ------
    ValueError
        `nbytes` is 0.
    MemoryError
        The system refuses the mapping; the message says why.
    """

    def __init__(self, nbytes: int, *, fd: int = -1, hugetlb: bool = False) -> None: ...
    @property
    def nbytes(self) -> int:
        """Bytes that were asked for."""
    @property
    def address(self) -> int:
        """Where it begins."""
    @property
    def huge_pages(self) -> bool:
        """Whether the system took the advice to use huge pages."""
    def keep_from_children(self) -> None:
        """Have no child of fork get any of it: the device keeps these very pages.

        A child would else make copies, or, before Linux 5.10, leave the parent with other pages
        than those that the device reads.
        """
    def populate(self, offset: int, nbytes: int) -> bool:
        """Have every page of a part there now, and held.

        What was in the memory may be lost. May be called for several parts at once.

        Parameters
        ----------
        offset, nbytes : int
            The part: whole pages.

        Returns
        -------
        bool
            False if the system does not let it be held; it is there all the same.

        Raises
        ------
        MemoryError
            The system does not have so much.
        ValueError
            The part leaves the mapping.
        """
    def region(self, offset: int, nbytes: int, span: int) -> Region:
        """A part of the mapping that keeps it alive.

        Parameters
        ----------
        offset : int
            Where it begins, in bytes from the mapping's start.
        nbytes : int
            Bytes that its buffer shows.
        span : int
            Bytes that belong to it, `nbytes` and padding: the whole pages in them go back to the
            system when the region dies. No other region may use them.

        Returns
        -------
        Region
            It owns its pages.

        Raises
        ------
        ValueError
            It would leave the mapping.
        """

@final
class Region:
    """A part of a :class:`Memory`, with a writable buffer; made by :meth:`Memory.region`."""

    @property
    def nbytes(self) -> int:
        """Bytes that its buffer shows."""
    @property
    def address(self) -> int:
        """Where it begins."""
    def __buffer__(self, flags: int, /) -> memoryview:
        """Its bytes, writable; a view of them keeps the region alive."""

def advise_huge_pages(address: int, nbytes: int) -> bool:
    """Have the system use huge pages for memory that is not there yet.

    Whole 2 MiB of it; what has pages keeps them, and all bytes stay as they are.

    Parameters
    ----------
    address, nbytes : int
        Memory of this process, whoever made it.

    Returns
    -------
    bool
        Whether the system took the advice. False if there are no whole 2 MiB.
    """
