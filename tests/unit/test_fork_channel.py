"""How the monitor and its fork server speak."""

from __future__ import annotations

import os
import socket
import struct
import threading
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from serverworker.processes import fork_channel
from tests.unit.accept_case import open_descriptors

LONG = 60.0
"""Seconds: the deadline of what takes no time."""

MEGABYTE = 1 << 20


class ChannelCase(SynchronousTestCase):
    """The two ends of a channel."""

    def setUp(self) -> None:
        self.before = open_descriptors()
        self.ours, self.theirs = socket.socketpair()
        for end in (self.ours, self.theirs):
            end.settimeout(LONG)
            self.addCleanup(end.close)

    def receive_in_thread(self, received: list[fork_channel.Message]) -> threading.Thread:
        """Have the peer read one message, while this thread writes it."""
        thread = threading.Thread(target=lambda: received.append(fork_channel.receive(self.theirs)))
        thread.start()
        self.addCleanup(thread.join, LONG)
        return thread


class MessageTests(ChannelCase):
    """What arrives is what was sent."""

    def test_whole(self) -> None:
        """A message arrives as it was sent, with no descriptors where there were none."""
        content = {"arguments": ["--worker=7"], "count": 0, "none": None, "text": "zażółć \U0001f40d"}
        fork_channel.send(self.ours, content)
        self.assertEqual(fork_channel.receive(self.theirs), fork_channel.Message(content, ()))

    def test_one_after_the_other(self) -> None:
        """Messages that were sent before the first was read stay apart, and keep their order."""
        for number in range(5):
            fork_channel.send(self.ours, {"preload": ["name"] * number})
        found = [fork_channel.receive(self.theirs).content for _ in range(5)]
        self.assertEqual(found, [{"preload": ["name"] * number} for number in range(5)])

    def test_both_ways(self) -> None:
        """Either end sends and receives."""
        fork_channel.send(self.ours, "question")
        fork_channel.send(self.theirs, "answer")
        self.assertEqual(fork_channel.receive(self.ours).content, "answer")
        self.assertEqual(fork_channel.receive(self.theirs).content, "question")

    def test_not_decodable(self) -> None:
        """A variable whose bytes are no UTF-8 arrives as `os.environ` has it."""
        value = os.fsdecode(b"\xff\x80/caf\xe9")
        fork_channel.send(self.ours, {"environment": {"FOLDER": value}})
        received = fork_channel.receive(self.theirs).content["environment"]["FOLDER"]
        self.assertEqual(os.fsencode(received), b"\xff\x80/caf\xe9")

    def test_large(self) -> None:
        """An environment of a megabyte, far more than the sockets hold, arrives whole, and with its descriptors."""
        reading, writing = os.pipe()
        self.addCleanup(os.close, reading)
        environment = {f"NAME_{number}": "x" * 1000 for number in range(MEGABYTE // 1000)}
        received: list[fork_channel.Message] = []
        thread = self.receive_in_thread(received)
        fork_channel.send(self.ours, {"environment": environment}, [writing])
        os.close(writing)
        thread.join(LONG)
        (message,) = received
        self.assertEqual(message.content["environment"], environment)
        (carried,) = message.descriptors
        os.write(carried, b"through")
        os.close(carried)
        self.assertEqual(os.read(reading, 100), b"through")

    def test_in_pieces(self) -> None:
        """What arrives byte by byte is put together, the length in front of it included."""
        body = b'{"pid": 4711}'
        received: list[fork_channel.Message] = []
        thread = self.receive_in_thread(received)
        for byte in struct.pack("!I", len(body)) + body:
            self.ours.sendall(bytes([byte]))
        thread.join(LONG)
        self.assertEqual(received, [fork_channel.Message({"pid": 4711}, ())])


class DescriptorTests(ChannelCase):
    """What is carried beside the text."""

    def test_carried(self) -> None:
        """Descriptors arrive in their order, as others of the same files, and are not inherited."""
        files = [os.pipe2(0) for _ in range(3)]
        flat = [number for pair in files for number in pair]
        for number in flat:
            self.addCleanup(os.close, number)
            os.set_inheritable(number, True)
        fork_channel.send(self.ours, {"count": 6}, flat)
        carried = fork_channel.receive(self.theirs).descriptors
        for number in carried:
            self.addCleanup(os.close, number)
        self.assertEqual(set(carried) & set(flat), set())
        same = [os.path.sameopenfile(ours, theirs) for ours, theirs in zip(flat, carried, strict=True)]
        self.assertEqual(same, [True] * 6)
        self.assertEqual([os.get_inheritable(number) for number in carried], [False] * 6)

    def test_belong_to_their_message(self) -> None:
        """A message without descriptors gets none of those of the next."""
        fork_channel.send(self.ours, "first")
        fork_channel.send(self.ours, "second", [self.ours.fileno()])
        self.assertEqual(fork_channel.receive(self.theirs).descriptors, ())
        (carried,) = fork_channel.receive(self.theirs).descriptors
        os.close(carried)

    def test_most(self) -> None:
        """As many as are allowed arrive, all of them."""
        fork_channel.send(self.ours, "many", [self.ours.fileno()] * fork_channel.MOST_DESCRIPTORS)
        carried = fork_channel.receive(self.theirs).descriptors
        for number in carried:
            os.close(number)
        self.assertEqual(len(carried), fork_channel.MOST_DESCRIPTORS)

    def test_none_kept(self) -> None:
        """Neither end keeps a descriptor of its own open."""
        fork_channel.send(self.ours, "one", [self.ours.fileno()])
        for number in fork_channel.receive(self.theirs).descriptors:
            os.close(number)
        self.assertEqual(open_descriptors(), self.before + 2)


class EndTests(ChannelCase):
    """What becomes of a message whose other end is gone, or does nothing."""

    def test_end_before(self) -> None:
        """A peer that has ended between two messages is told apart from one that is silent."""
        fork_channel.send(self.ours, "last words")
        self.ours.close()
        self.assertEqual(fork_channel.receive(self.theirs).content, "last words")
        error = self.assertRaises(EOFError, fork_channel.receive, self.theirs)
        self.assertEqual(str(error), "the other end is closed")

    def test_end_in_the_middle(self) -> None:
        """A peer that ended within the length, just behind it or within the text has said nothing that counts."""
        for said in (b"\0\0", b"\0\0\0\x09", b'\0\0\0\x09{"pid"'):
            ours, theirs = socket.socketpair()
            self.addCleanup(theirs.close)
            with ours:
                ours.sendall(said)
            error = self.assertRaises(EOFError, fork_channel.receive, theirs)
            self.assertEqual(str(error), "the other end was closed in the middle of a message")

    def test_end_in_the_middle_keeps_nothing(self) -> None:
        """The descriptors of half a message are closed: nobody else knows of them."""
        with open(os.devnull, "rb") as file, self.ours:
            socket.send_fds(self.ours, [b"\0\0\0\x09{"], [file.fileno(), file.fileno()])
        self.assertRaises(EOFError, fork_channel.receive, self.theirs)
        self.assertEqual(open_descriptors(), self.before + 1)

    def test_nobody_to_tell(self) -> None:
        """To send to a peer that is gone fails, and raises no signal that would end the process."""
        self.theirs.close()
        self.assertRaises(BrokenPipeError, fork_channel.send, self.ours, "anybody?")

    def test_does_not_read(self) -> None:
        """A peer that reads nothing delays the sender for its own deadline and no longer."""
        self.ours.settimeout(0.01)
        self.assertRaises(TimeoutError, fork_channel.send, self.ours, "x" * 10 * MEGABYTE)

    def test_stops_reading(self) -> None:
        """Nor does one whose sockets are full already."""
        self.ours.settimeout(0.01)

        def fill() -> None:
            while True:
                fork_channel.send(self.ours, "x" * 1000)

        self.assertRaises(TimeoutError, fill)
        self.assertRaises(TimeoutError, fork_channel.send, self.ours, "one more", [self.ours.fileno()])

    def test_silent(self) -> None:
        """Of a peer that says nothing, or not all, the receiver's deadline is known as such."""
        self.theirs.settimeout(0.01)
        self.assertRaises(TimeoutError, fork_channel.receive, self.theirs)
        self.ours.sendall(b'\0\0\0\x09{"p')
        self.assertRaises(TimeoutError, fork_channel.receive, self.theirs)

    def test_not_now(self) -> None:
        """Without a deadline at all nobody waits."""
        self.theirs.setblocking(False)
        error: Any = self.assertRaises(BlockingIOError, fork_channel.receive, self.theirs)
        self.assertNotIsInstance(error, EOFError)
