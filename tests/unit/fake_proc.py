"""A /proc made of files, for tests of what looks for processes."""

from __future__ import annotations

from pathlib import Path


class FakeProc:
    """A /proc of files in a temporary folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(parents=True)
        (root / "self").mkdir()
        (root / "meminfo").write_text("not a process")

    def add(
        self,
        pid: int,
        *,
        session: int,
        parent: int = 1,
        started: int = 100,
        state: str = "S",
        threads: int = 1,
        environ: bytes = b"",
        command: bytes = b"python",
    ) -> None:
        folder = self.root / str(pid)
        folder.mkdir(exist_ok=True)
        folder.joinpath("stat").write_bytes(
            stat_line(pid, command, state, parent, session, session, threads, started)
        )
        folder.joinpath("environ").write_bytes(environ)
        folder.joinpath("statm").write_text("2000 500 300 1 0 200 0\n")

    def remove(self, pid: int) -> None:
        for file in (self.root / str(pid)).iterdir():
            file.unlink()
        (self.root / str(pid)).rmdir()

    @property
    def path(self) -> str:
        return str(self.root)


def stat_line(
    pid: int, command: bytes, state: str, parent: int, group: int, session: int, threads: int, started: int
) -> bytes:
    """A line as /proc/PID/stat has it."""
    before = f"{state} {parent} {group} {session} 0 -1 4194304 10 0 0 0 1 2 0 0 20 0 {threads} 0 {started}"
    return b"%d (%b) %b 123456 500 18446744073709551615 0 0 0\n" % (pid, command, before.encode())
