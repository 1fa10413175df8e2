"""Which pages of libraries are given back, and that what was imported from them goes on working."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from unittest import SkipTest

from twisted.trial.unittest import SynchronousTestCase

from serverworker.processes.library_pages import _unchanged, give_back_library_pages


def mapping(
    path: str = "/usr/lib/libssl.so.3",
    *,
    rights: str = "r-xp",
    rss: int = 8,
    anonymous: int = 0,
    inode: int = 42,
) -> str:
    """One mapping, from 0x1000 to 0x5000, as smaps shows it."""
    return (
        f"1000-5000 {rights} 00000000 fe:00 {inode} {' ' * 20}{path}\n"
        f"Size:                 16 kB\nKernelPageSize:        4 kB\nRss:                  {rss} kB\n"
        f"Pss:                   1 kB\nAnonymous:             {anonymous} kB\nSwap:                  0 kB\n"
        "VmFlags: rd ex mr mw me\n"
    )


class MappingTests(SynchronousTestCase):
    """What of a written smaps may be given back."""

    def found(self, *mappings: str) -> list[tuple[int, int, int]]:
        return list(_unchanged("".join(mappings).encode().splitlines(keepends=True)))

    def test_code(self) -> None:
        """The code of a library is as its file has it."""
        self.assertEqual(self.found(mapping()), [(0x1000, 0x4000, 8)])

    def test_constants(self) -> None:
        """So are its constants."""
        self.assertEqual(self.found(mapping(rights="r--p", rss=12)), [(0x1000, 0x4000, 12)])

    def test_names(self) -> None:
        """Extension modules, libraries with and without a version, and the interpreter itself are such files."""
        for path in (
            "/usr/lib/libc.so.6",
            "/usr/lib/libcrypto.so.1.1",
            "/srv/my venv/_rust.abi3.so",
            "/usr/bin/python3.11",
            "/opt/python",
        ):
            self.assertEqual(len(self.found(mapping(path))), 1, path)

    def test_relocated(self) -> None:
        """What was written to when it was loaded is in no file: it would be lost."""
        self.assertEqual(self.found(mapping(rights="r--p", anonymous=4)), [])

    def test_writable(self) -> None:
        """Variables stay, even those that nobody has set yet."""
        self.assertEqual(self.found(mapping(rights="rw-p")), [])

    def test_nothing_resident(self) -> None:
        """What is not in the memory cannot be given back."""
        self.assertEqual(self.found(mapping(rss=0)), [])

    def test_not_a_library(self) -> None:
        """Other files, and what is no file, are left alone."""
        for path in (
            "/usr/lib/locale/C.utf8/LC_CTYPE",
            "/srv/data.so.bak",
            "/usr/bin/pythonish",
            "/srv/table.db",
        ):
            self.assertEqual(self.found(mapping(path)), [], path)
        for path in ("[vdso]", "[heap]", ""):
            self.assertEqual(self.found(mapping(path, inode=0)), [], path)

    def test_deleted(self) -> None:
        """A library that was replaced since is left alone."""
        self.assertEqual(self.found(mapping("/usr/lib/libssl.so.3 (deleted)")), [])

    def test_each_for_itself(self) -> None:
        """A mapping that stays does not lend its figures to the next one."""
        text = (
            mapping("[heap]", rights="rw-p", rss=900, inode=0),
            mapping(rss=0),
            mapping(rights="r--p", rss=4),
            mapping(rights="rw-p"),
        )
        self.assertEqual(self.found(*text), [(0x1000, 0x4000, 4)])


CHILD = """
import ctypes, decimal, hashlib, json, sqlite3, ssl, sys, zlib
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from serverworker.processes.library_pages import give_back_library_pages

def resident():
    with open("/proc/self/smaps") as file:
        sizes = [int(line.split()[1]) for line in file if line.startswith("Rss:")]
    return sum(sizes)

def answers():
    key = ec.generate_private_key(ec.SECP256R1())
    signature = key.sign(b"text", ec.ECDSA(hashes.SHA256()))
    key.public_key().verify(signature, b"text", ec.ECDSA(hashes.SHA256()))
    ssl.create_default_context()
    return [
        str(decimal.Decimal(2).sqrt()),
        hashlib.sha3_512(b"text").hexdigest(),
        zlib.decompress(zlib.compress(b"text")).decode(),
        sqlite3.connect(":memory:").execute("select 6 * 7").fetchone(),
    ]

first = answers()
before = resident()
given_back = give_back_library_pages()
after = resident()
print(json.dumps([given_back, before, after, first == answers()]))
"""


class GiveBackTests(SynchronousTestCase):
    """`give_back_library_pages`."""

    def test_libraries_go_on(self) -> None:
        """A process becomes smaller by about what was said, and all libraries in it work as before."""
        if not os.access("/proc/self/smaps", os.R_OK):
            raise SkipTest("this system does not say what is in a process's memory")
        child = subprocess.run(
            [sys.executable, "-c", CHILD], stdout=subprocess.PIPE, check=True, text=True, timeout=60
        )
        given_back, before, after, same = json.loads(child.stdout)
        self.assertTrue(same)
        self.assertGreater(given_back, 1000)
        self.assertGreater(before - after, given_back // 2)

    def test_no_smaps(self) -> None:
        """Where the kernel does not say, nothing is given back."""
        self.assertEqual(give_back_library_pages(str(Path(self.mktemp()) / "smaps")), 0)

    def test_nothing_known(self) -> None:
        """Where no mapping is a library's, nothing is given back."""
        path = Path(self.mktemp())
        path.write_text(mapping("[heap]", rights="rw-p", inode=0))
        self.assertEqual(give_back_library_pages(str(path)), 0)
