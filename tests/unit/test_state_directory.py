"""The state directory: where it is, whose it is, its lock and its key. Real files, in a temporary folder."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from serverworker.processes.state_directory import (
    StateDirectory,
    StateDirectoryInUse,
    check_socket_path,
    default_path,
    new_key,
    own_folder,
    port_name,
    runtime_path,
    write_whole,
)
from serverworker.values.errors import ConfigurationError
from serverworker.values.settings import PortSettings, Settings

TCP = Settings(ports=(PortSettings(name="server", kind="tcp", port=8080),))


def mode(path: Path) -> str:
    return f"{path.stat().st_mode & 0o7777:04o}"


class FolderTestCase(SynchronousTestCase):
    """A test with a folder of its own, and an ordinary umask."""

    def setUp(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="state"))
        self.addCleanup(shutil.rmtree, self.folder)
        self.addCleanup(os.umask, os.umask(0o022))

    def refused(self, path: Path) -> str:
        """What the operator reads when the directory cannot be used."""
        return str(self.assertRaises(ConfigurationError, StateDirectory.open, path))


class WhereTests(FolderTestCase):
    """`default_path` and `runtime_path`."""

    def test_the_configured_directory_wins(self) -> None:
        """--state-dir stands above the environment, and its sockets are in it."""
        chosen = Settings(state_directory="/srv/state")
        environ = {"STATE_DIRECTORY": "/var/lib/a", "XDG_RUNTIME_DIR": str(self.folder), "HOME": "/home/a"}
        self.assertEqual(Path("/srv/state"), default_path(environ, chosen))
        self.assertEqual(Path("/srv/state/run"), runtime_path(environ, chosen))

    def test_a_relative_directory_is_made_absolute(self) -> None:
        """twistd changes its working directory later; the state stays where the operator meant it."""
        self.assertEqual(Path.cwd() / "state", default_path({}, Settings(state_directory="state")))

    def test_systemd_names_the_directories(self) -> None:
        """$STATE_DIRECTORY and $RUNTIME_DIRECTORY are taken as they are; of several the first."""
        environ = {"STATE_DIRECTORY": "/var/lib/a:/var/lib/b", "RUNTIME_DIRECTORY": "/run/a:/run/b"}
        self.assertEqual(Path("/var/lib/a"), default_path(environ, TCP))
        self.assertEqual(Path("/run/a"), runtime_path(environ, TCP))

    def test_without_systemd_the_xdg_directories_hold_one_folder_a_port(self) -> None:
        """Two sessions of one user do not meet."""
        environ = {"XDG_STATE_HOME": "/home/a/state", "XDG_RUNTIME_DIR": str(self.folder)}
        self.assertEqual(Path("/home/a/state/serverworker/8080"), default_path(environ, TCP))
        self.assertEqual(self.folder / "serverworker" / "8080", runtime_path(environ, TCP))

    def test_without_anything_it_is_under_home(self) -> None:
        """~/.local/state, also where XDG_STATE_HOME is relative, which its specification has ignored."""
        for environ in ({"HOME": "/home/a"}, {"HOME": "/home/a", "XDG_STATE_HOME": "state"}):
            self.assertEqual(Path("/home/a/.local/state/serverworker/8080"), default_path(environ, TCP))
        self.assertTrue(default_path({}, TCP).is_absolute())

    def test_another_users_runtime_directory_is_not_used(self) -> None:
        """`su` hands on XDG_RUNTIME_DIR: one that is missing or another's is passed over."""
        environ = {"HOME": "/home/a", "XDG_RUNTIME_DIR": str(self.folder / "missing")}
        expected = Path("/home/a/.local/state/serverworker/8080/run")
        self.assertEqual(expected, runtime_path(environ, TCP))
        if os.geteuid() == 0:
            os.chown(self.folder, 12345, -1)
            self.assertEqual(expected, runtime_path({**environ, "XDG_RUNTIME_DIR": str(self.folder)}, TCP))

    def test_sockets_stay_beside_a_state_directory_of_systemd(self) -> None:
        """The lock of the state directory must guard the sockets too, so the two go in pairs."""
        environ = {"STATE_DIRECTORY": "/var/lib/a", "XDG_RUNTIME_DIR": str(self.folder)}
        self.assertEqual(Path("/var/lib/a/run"), runtime_path(environ, TCP))

    def test_a_unix_port_has_a_folder_name_without_slashes(self) -> None:
        """Its path, with dashes."""
        unix = Settings(ports=(PortSettings(name="server", kind="unix", path="/run/site/web.sock"),))
        self.assertEqual("unix-run-site-web.sock", port_name(unix))


class OpenTests(FolderTestCase):
    """`StateDirectory.open` and `close`."""

    def open(self, *names: str) -> StateDirectory:
        directory = StateDirectory.open(self.folder.joinpath(*names))
        self.addCleanup(directory.close)
        return directory

    def test_everything_missing_is_made_for_this_user_alone(self) -> None:
        """Parents too, whatever the umask."""
        os.umask(0o777)
        directory = self.open("a", "b")
        for path in (self.folder / "a", self.folder / "a" / "b", directory.runtime):
            self.assertEqual("0700", mode(path))
        self.assertEqual(self.folder / "a" / "b" / "run", directory.runtime)

    def test_a_second_session_is_refused_and_told_the_pid(self) -> None:
        """Two monitors on one directory would overwrite each other's key and sockets."""
        self.open("state")
        error = self.assertRaises(StateDirectoryInUse, StateDirectory.open, self.folder / "state")
        self.assertEqual(os.getpid(), error.pid)
        self.assertIn(f"held by the session with pid {os.getpid()}", str(error))
        self.assertIn("--state-dir", str(error))

    def test_a_holder_without_a_pid_is_told_as_such(self) -> None:
        """In the moment before the pid is written nobody is named."""
        held = self.open("state")
        (held.path / "lock").write_text("")
        error = self.assertRaises(StateDirectoryInUse, StateDirectory.open, held.path)
        self.assertIsNone(error.pid)
        self.assertIn("held by another session", str(error))

    def test_closing_lets_the_next_one_in(self) -> None:
        """And leaves no pid behind; closing twice is no error."""
        first = self.open("state")
        first.close()
        self.assertEqual("", (first.path / "lock").read_text())
        self.open("state").close()
        first.close()
        self.open("state")

    def test_a_refused_session_leaves_the_holder_alone(self) -> None:
        """The lock and its pid are as before, though others tried."""
        held = self.open("state")
        for _ in range(2):
            self.assertRaises(StateDirectoryInUse, StateDirectory.open, held.path)
        self.assertEqual(f"{os.getpid()}\n", (held.path / "lock").read_text())

    def test_no_child_inherits_the_lock(self) -> None:
        """A worker that outlives its monitor must not keep the next one out."""
        held = self.open("state")
        descriptors = [
            int(entry.name)
            for entry in Path("/proc/self/fd").iterdir()
            if entry.is_symlink() and os.path.realpath(entry) == os.path.realpath(held.path / "lock")
        ]
        self.assertEqual([False], [os.get_inheritable(fd) for fd in descriptors])

    def test_a_runtime_directory_that_cannot_be_used_lets_go_of_the_lock(self) -> None:
        """The operator mends it and starts again."""
        path, runtime = self.folder / "state", self.folder / "file"
        runtime.write_text("")
        self.assertRaises(ConfigurationError, StateDirectory.open, path, runtime)
        StateDirectory.open(path).close()

    def test_a_directory_that_others_may_read_is_taken_as_it_is(self) -> None:
        """systemd makes them 0755, and the application's own socket may be in one: the mode is the operator's."""
        shared = self.folder / "shared"
        shared.mkdir(mode=0o755)
        own_folder(shared)
        self.assertEqual("0755", mode(shared))

    def test_a_directory_that_others_may_write_is_refused(self) -> None:
        """They could put their lock, key or socket in the place of ours; the text says what to do."""
        for bits in (0o775, 0o757, 0o1777):
            shared = self.folder / f"shared{bits:o}"
            shared.mkdir()
            shared.chmod(bits)
            text = self.refused(shared)
            self.assertIn(f"mode {bits:04o}", text)
            self.assertIn(f"chmod go-w {shared}", text)

    def test_another_users_directory_is_refused(self) -> None:
        """With both users named, since that is what a wrong --uid looks like."""
        if os.geteuid() != 0:
            raise SkipTest("only root can make another user's directory")
        os.chown(self.folder, 12345, -1)
        text = self.refused(self.folder)
        self.assertIn("belongs to user 12345", text)
        self.assertIn("(0)", text)

    def test_what_is_no_directory_is_refused(self) -> None:
        """A file in its place, and a file on the way to it."""
        file = self.folder / "file"
        file.write_text("")
        self.assertIn(f"{file} is no directory", self.refused(file))
        text = self.refused(file / "state")
        self.assertIn(str(file / "state"), text)
        self.assertIn("Not a directory; a part of its path is a file", text)

    def test_a_directory_that_cannot_be_made_is_refused(self) -> None:
        """Path, reason and advice in one line, with the very folder that failed."""
        text = self.refused(Path("/proc/none/state"))
        self.assertIn("/proc/none/state (/proc/none)", text)
        self.assertIn("No such file or directory", text)
        self.assertIn("--state-dir", text)

    def test_a_lock_file_that_is_a_link_is_refused(self) -> None:
        """Nobody gets us to write into another file."""
        (self.folder / "lock").symlink_to(self.folder / "elsewhere")
        self.assertIn("remove the symbolic link", self.refused(self.folder))
        self.assertFalse((self.folder / "elsewhere").exists())

    def test_a_link_to_the_directory_is_followed(self) -> None:
        """systemd's DynamicUser makes /var/lib/NAME a link."""
        (self.folder / "real").mkdir()
        (self.folder / "link").symlink_to(self.folder / "real")
        self.open("link")
        self.assertTrue((self.folder / "real" / "lock").exists())


class KeyTests(FolderTestCase):
    """The session key and `write_whole`."""

    def setUp(self) -> None:
        super().setUp()
        self.directory = StateDirectory.open(self.folder)
        self.addCleanup(self.directory.close)

    def test_a_key_has_256_bits_and_is_never_the_same(self) -> None:
        """In hexadecimal."""
        keys = {new_key() for _ in range(10)}
        self.assertEqual(10, len(keys))
        self.assertEqual({64}, {len(f"{int(key, 16):064x}") for key in keys})

    def test_the_key_is_for_this_user_alone(self) -> None:
        """Mode 0600 though the umask says otherwise, a former key replaced, nothing left beside it."""
        os.umask(0)
        for key in ("first", "second"):
            self.directory.write_key(key)
            self.assertEqual(f"{key}\n", self.directory.key_path.read_text())
            self.assertEqual("0600", mode(self.directory.key_path))
        self.assertEqual({"key", "lock", "run"}, {path.name for path in self.folder.iterdir()})

    def test_a_key_that_cannot_be_written_is_told(self) -> None:
        """And leaves nothing half-written."""
        self.directory.key_path.mkdir()
        text = str(self.assertRaises(ConfigurationError, self.directory.write_key, "key"))
        self.assertIn(str(self.directory.key_path), text)
        self.assertEqual({"key", "lock", "run"}, {path.name for path in self.folder.iterdir()})

    def test_a_file_is_replaced_at_once_and_never_written_in_place(self) -> None:
        """Who has the old file open still reads the old file."""
        path = self.folder / "file"
        write_whole(path, b"old")
        with path.open("rb") as reader:
            write_whole(path, b"new")
            self.assertEqual(b"old", reader.read())
        self.assertEqual(b"new", path.read_bytes())

    def test_a_half_written_file_of_a_killed_process_is_no_obstacle(self) -> None:
        """It is overwritten, whatever it held, and gets the right mode."""
        part = self.folder / ".file.part"
        part.write_bytes(b"a much longer text than the new one")
        part.chmod(0o666)
        write_whole(self.folder / "file", b"new")
        self.assertEqual(b"new", (self.folder / "file").read_bytes())
        self.assertEqual("0600", mode(self.folder / "file"))
        self.assertFalse(part.exists())


class SocketPathTests(SynchronousTestCase):
    """`check_socket_path`."""

    def test_107_bytes_are_allowed_and_108_are_not(self) -> None:
        """Bytes count, not characters; the text says how many there are and what to do."""
        fits = Path("/" + "x" * 106)
        self.assertEqual(fits, check_socket_path(fits))
        for path in (Path("/" + "x" * 107), Path("/" + "é" * 54)):
            text = str(self.assertRaises(ConfigurationError, check_socket_path, path))
            self.assertIn(f"has {len(os.fsencode(path))} bytes", text)
            self.assertIn("--state-dir", text)
