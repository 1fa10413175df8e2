"""Gives back the memory that holds what libraries needed only while they were being imported."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Iterable, Iterator

_MADV_DONTNEED = 4

_MAPPING = re.compile(rb"([0-9a-f]+)-([0-9a-f]+) (\S+) \S+ \S+ [1-9]\S* +(/.*)\n")
_LIBRARY = re.compile(rb"\.so(\.[0-9.]+)?$|/python[0-9.]*$")


def give_back_library_pages(smaps: str = "/proc/self/smaps") -> int:
    """Let go of pages of shared libraries that are as their files have them; answers of how many kB.

    Some megabytes of code and tables are read to set a library up, and never again. What is wanted after all comes back
    from the kernel's cache. Answers 0 where the kernel does not say which pages those are.
    """
    try:
        with open(smaps, "rb") as file:
            found = list(_unchanged(file))
    except OSError:
        return 0
    libc = ctypes.CDLL(None)
    libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    return sum(kb for start, size, kb in found if libc.madvise(start, size, _MADV_DONTNEED) == 0)


def _unchanged(lines: Iterable[bytes]) -> Iterator[tuple[int, int, int]]:
    """The mappings of libraries of which nothing was changed: start, size in bytes, and resident kB.

    None of them can be written to. Where something was before (relocations), that is in ``Anonymous``. Python unloads no
    library, so that nothing else can have come into its place meanwhile.
    """
    mapping: re.Match[bytes] | None = None
    resident = 0
    for line in lines:
        name, _, rest = line.partition(b":")
        if b"-" in name:
            mapping = _MAPPING.fullmatch(line)
        elif mapping is None or b"w" in mapping[3] or not _LIBRARY.search(mapping[4]):
            continue
        elif name == b"Rss":
            resident = int(rest.split()[0])
        elif name == b"Anonymous" and int(rest.split()[0]) == 0 and resident:
            start = int(mapping[1], 16)
            yield start, int(mapping[2], 16) - start, resident
