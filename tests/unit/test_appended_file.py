"""A log file: appended to by several, moved away by others, turned over by itself."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from serverworker.processes.appended_file import AppendedFile
from tests.unit.accept_case import open_descriptors


class AppendedFileTests(SynchronousTestCase):
    """`AppendedFile`."""

    def setUp(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        self.path = self.folder / "a.log"

    def file(self, max_bytes: int = 0, kept: int = 2) -> AppendedFile:
        file = AppendedFile(str(self.path), max_bytes=max_bytes, kept=kept)
        self.addCleanup(file.close)
        return file

    def write(self, file: AppendedFile, data: bytes) -> None:
        """All of it, as the writer does."""
        start = 0
        while start < len(data):
            start += file.write(data, start)

    def content(self, *suffixes: str) -> list[bytes]:
        return [Path(f"{self.path}{suffix}").read_bytes() for suffix in suffixes]

    def test_appends(self) -> None:
        """It is made when the first line comes, readable by its group, and what was in it stays."""
        first = self.file()
        self.assertFalse(self.path.exists())
        self.write(first, b"one\n")
        self.write(self.file(), b"two\n")
        self.write(first, b"three\n")
        self.assertEqual(self.content(""), [b"one\ntwo\nthree\n"])
        self.assertEqual(self.path.stat().st_mode & 0o137, 0)

    def test_moved_away(self) -> None:
        """Whoever moves or removes it finds a new one in its place at the next line; nothing else is to be done."""
        file = self.file()
        self.write(file, b"one\n")
        self.path.rename(self.folder / "moved")
        self.write(file, b"two\n")
        self.assertEqual(self.content(""), [b"two\n"])
        self.path.unlink()
        self.write(file, b"three\n")
        self.assertEqual(self.content(""), [b"three\n"])
        other = self.folder / "other"
        other.write_bytes(b"there\n")
        other.rename(self.path)
        self.write(file, b"four\n")
        self.assertEqual(self.content(""), [b"there\nfour\n"])
        self.assertEqual((self.folder / "moved").read_bytes(), b"one\n")

    def test_no_descriptor_left(self) -> None:
        """However often it is moved, one is open at a time; none after `close`, which the next write undoes."""
        before = open_descriptors()
        file = self.file(max_bytes=4)
        for _ in range(5):
            self.write(file, b"one\n")
            self.path.unlink()
        self.write(file, b"one\n")
        self.assertEqual(open_descriptors(), before + 1)
        file.close()
        self.assertEqual(open_descriptors(), before)

    def test_folder_vanished(self) -> None:
        """It says so, each time, and goes on once the folder is there again."""
        file = self.file()
        self.write(file, b"one\n")
        shutil.rmtree(self.folder)
        for _ in range(2):
            self.assertRaises(FileNotFoundError, file.write, b"two\n")
        self.folder.mkdir()
        self.write(file, b"two\n")
        self.assertEqual(self.content(""), [b"two\n"])

    def test_full_disk(self) -> None:
        """A device that is full: an error, and no descriptor is left behind."""
        before = open_descriptors()
        file = AppendedFile("/dev/full")
        self.assertEqual(self.assertRaises(OSError, file.write, b"one\n").errno, 28)
        self.assertEqual(open_descriptors(), before)

    def test_pipe_of_nobody(self) -> None:
        """A named pipe that nobody reads is an error, and no wait for ever."""
        os.mkfifo(self.path)
        self.assertRaises(OSError, self.file().write, b"one\n")

    def test_turned_over(self) -> None:
        """A line that has no room begins the next file; so many full ones are kept, the newest in `.1`."""
        file = self.file(max_bytes=10)
        for number in range(7):
            self.write(file, b"line%d\n" % number)
        self.assertEqual(self.content("", ".1", ".2"), [b"line6\n", b"line5\n", b"line4\n"])
        self.assertFalse(Path(f"{self.path}.3").exists())
        self.write(file, b"abc\n")
        self.assertEqual(self.content("", ".1"), [b"line6\nabc\n", b"line5\n"])

    def test_none_kept(self) -> None:
        """With none to be kept the full one is gone."""
        file = self.file(max_bytes=10, kept=0)
        for number in range(3):
            self.write(file, b"line%d\n" % number)
        self.assertEqual([path.name for path in self.folder.iterdir()], ["a.log"])
        self.assertEqual(self.content(""), [b"line2\n"])

    def test_size_of_before(self) -> None:
        """What an earlier session left in it counts; what somebody has cut off does not."""
        self.path.write_bytes(b"12345678\n")
        file = self.file(max_bytes=10)
        self.write(file, b"one\n")
        self.assertEqual(self.content("", ".1"), [b"one\n", b"12345678\n"])
        os.truncate(self.path, 0)
        self.write(file, b"1234567\n")
        self.assertEqual(self.content("", ".1"), [b"1234567\n", b"12345678\n"])

    def test_longer_than_a_file(self) -> None:
        """A line that no file has room for gets one of its own, whole."""
        file = self.file(max_bytes=4)
        self.write(file, b"a\nmuch too long\nb\n")
        self.assertEqual(self.content("", ".1", ".2"), [b"b\n", b"much too long\n", b"a\n"])
        self.write(file, b"without its end")
        self.assertEqual(self.content(""), [b"without its end"])

    @settings(deadline=None, max_examples=25)
    @given(
        blocks=st.lists(
            st.lists(st.binary(max_size=9).map(lambda text: text.replace(b"\n", b"") + b"\n")).map(b"".join),
            max_size=12,
        ),
        max_bytes=st.integers(1, 30),
    )
    def test_nothing_is_lost(self, blocks: list[bytes], max_bytes: int) -> None:
        """However lines come, all are there, in order, whole, and no file with two lines is too large."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "a.log")
            file = AppendedFile(str(path), max_bytes=max_bytes, kept=1000)
            for block in blocks:
                self.write(file, block)
            file.close()
            files = sorted(Path(folder).iterdir(), key=lambda each: -int(each.suffix.strip(".log") or 0))
            found = [each.read_bytes() for each in files]
        self.assertEqual(b"".join(found), b"".join(blocks))
        for data in found:
            self.assertTrue(data.endswith(b"\n"))
            self.assertTrue(len(data) <= max_bytes or data.count(b"\n") == 1)
