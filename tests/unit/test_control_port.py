"""The control port: who gets in, and what whoever is hostile or slow can do to it, which is little."""

from __future__ import annotations

import os
import socket
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.protocols import amp

from serverworker.surfaces import control_link
from serverworker.surfaces.control import MOST_CONNECTIONS, MOST_STRANGERS, _origin
from serverworker.surfaces.control_link import (
    KEY_SECONDS,
    MOST_AT_ONCE,
    MOST_IN_A_TURN,
    MOST_KEYS,
    STRANGER_BYTES,
    STUCK_SECONDS,
)
from serverworker.surfaces.control_peer import MOST_WRONG_KEYS
from serverworker.values.errors import (
    BadCommand,
    LinkDestroyed,
    NotAllowed,
    PeerLost,
    ServerWorkerError,
)
from serverworker.values.events import LoginFailed, OperatorAction
from serverworker.wire import control
from serverworker.wire.commands import Messages
from tests.unit.control_case import KEY, ControlCase, Joined


def box(**fields: bytes) -> bytes:
    """One box as it travels; a name's underscores stand for themselves."""
    data: bytes = amp.AmpBox({name.encode(): value for name, value in fields.items()}).serialize()
    return data


def question(command: bytes, tag: bytes = b"1", **fields: bytes) -> bytes:
    return box(_command=command, _ask=tag, **fields)


class Unknown(amp.Command):
    errors = {BadCommand: b"BAD_COMMAND"}


class UnixTests(ControlCase):
    """On a unix socket the system says who it is."""

    def test_own_user(self) -> None:
        """This user needs no key, and is named in the audit with user and process."""
        joined = self.join()
        hello = self.answer(joined, joined.client.link.ask(control.Hello, 10))
        self.assertEqual(hello, {"version": 1, "allowed": True})
        self.answer(joined, joined.client.set_polling(5))
        (action,) = self.told(OperatorAction)
        self.assertIn(f"(uid {os.geteuid()}, pid 4711)", action.who)
        self.assertEqual((action.surface, action.ok), ("control", True))

    def test_root(self) -> None:
        """Root gets in, whoever runs the session."""
        joined = self.join(uid=0)
        self.assertEqual(self.answer(joined, joined.client.usages())[0][0], "status")

    def test_another_user(self) -> None:
        """Whoever has another user is cut off before anything is read, even where the socket's file lets him."""
        joined = self.join(uid=os.geteuid() + 4242)
        self.assertEqual(joined.wire.closed, "aborted")
        joined.say(question(b"Status"))
        joined.say(question(b"Exit", mode=b"clean"))
        self.assertEqual(self.monitor.asked, [])
        self.assertNotIn(b"serving", b"".join(joined.wire.written))

    def test_needless_key(self) -> None:
        """Who needs no key may show a wrong one: it is not looked at."""
        joined = self.join()
        self.answer(joined, joined.client.link.ask(control.Authenticate, 10, key="wrong"))
        self.assertEqual(self.told(LoginFailed), [])


class StrangerTests(ControlCase):
    """Over TCP, until the key was shown."""

    def setUp(self) -> None:
        super().setUp()
        self.port = self.make_port(socket.AF_INET)

    def show(self, joined: Joined, key: str = KEY) -> Deferred[Any]:
        return joined.client.link.ask(control.Authenticate, 10, key=key)

    def test_nothing_without_key(self) -> None:
        """Every command but two is refused, and does nothing."""
        joined = self.join()
        values: dict[str, Any] = {
            "mode": "clean",
            "name": "server",
            "address": "1",
            "now": True,
            "seconds": 5.0,
            "count": 1,
            "args": None,
            "to": "monitor",
            "id": "last",
            "limit": 1,
            "worker": None,
            "since": 0,
            "kinds": [],
            "words": ["exit", "clean"],
            "session": "",
            "output": True,
        }
        commands = set(control.ControlCommand.__subclasses__())
        for command in commands - {control.Hello, control.Authenticate, control.Told}:
            given = {name.decode(): values[name.decode()] for name, _ in command.arguments}
            refused = joined.client.link.ask(command, 10, **given)
            if command is control.Unsubscribe:
                self.answer(joined, refused)
                continue
            self.refusal(joined, refused, NotAllowed)
        self.assertEqual((self.monitor.asked, self.events), ([], []))

    def test_key(self) -> None:
        """The right key lets in."""
        joined = self.join()
        hello = self.answer(joined, joined.client.link.ask(control.Hello, 10))
        self.assertEqual(hello["allowed"], False)
        self.assertEqual(self.answer(joined, self.show(joined)), {"who": "the session key, 192.0.2.1"})
        self.clock.advance(KEY_SECONDS * 2)
        self.assertEqual(self.answer(joined, joined.client.status())["schema"], 1)

    def test_wrong_keys(self) -> None:
        """Wrong ones are told, slowed down over connections, and close the link after a few."""
        joined = self.join()
        self.refusal(joined, self.show(joined, "wrong"), NotAllowed)
        for _ in range(MOST_WRONG_KEYS - 1):
            text = self.refusal(joined, self.show(joined), NotAllowed)
            self.assertIn("try again in 1 s", text)
        self.assertEqual(joined.wire.closed, "flushed")
        (told,) = self.told(LoginFailed)
        self.assertEqual((told.origin, told.surface, told.failures), ("192.0.2.1", "control", 1))
        again = self.join()
        self.refusal(again, self.show(again), NotAllowed)
        other = self.join(host="192.0.2.2")
        self.answer(other, self.show(other))

    def test_deadline(self) -> None:
        """Who shows none in time is let go of."""
        joined = self.join()
        self.clock.advance(KEY_SECONDS - 1)
        self.assertEqual(joined.wire.closed, "")
        self.clock.advance(1)
        self.assertEqual(joined.wire.closed, "aborted")

    def test_large_box(self) -> None:
        """A stranger's box is small; with the key it may be large."""
        joined = self.join()
        joined.say(b"\x00\x01a\xff\xff" + bytes(STRANGER_BYTES))
        self.assertEqual(joined.wire.closed, "aborted")
        joined = self.join()
        self.answer(joined, self.show(joined))
        joined.say(b"\x00\x01a\xff\xff" + bytes(STRANGER_BYTES))
        self.assertEqual(joined.wire.closed, "")

    def test_many_strangers(self) -> None:
        """They do not keep out who has the key: the one that has waited longest makes room."""
        strangers = []
        for _ in range(MOST_STRANGERS + 5):
            strangers.append(self.join(host="198.51.100.7"))
            self.clock.advance(0.01)
        self.assertEqual([each.wire.closed for each in strangers[:6]], ["aborted"] * 5 + [""])
        operator = self.join()
        self.answer(operator, self.show(operator))
        for _ in range(MOST_STRANGERS + 5):
            self.join(host="198.51.100.7")
        self.assertEqual(operator.wire.closed, "")

    def test_origins(self) -> None:
        """Addresses of one IPv6 network count as one guesser; a mapped one is the IPv4 address that it is."""
        self.assertEqual(_origin("2001:db8:1:2:3:4:5:6"), _origin("2001:db8:1:2::9%eth0"))
        self.assertEqual(_origin("2001:db8:1:2::9"), "2001:db8:1:2::/64")
        self.assertEqual(_origin("::ffff:192.0.2.1"), _origin("192.0.2.1"))


class CertifiedTests(ControlCase):
    """With client certificates, the handshake lets in, and no key does."""

    def test_before_the_handshake(self) -> None:
        """Until it is over, whoever connects is a stranger with a deadline."""
        self.port = self.make_port(socket.AF_INET, certified=True)
        joined = self.join()
        self.refusal(joined, joined.client.status(), NotAllowed)
        self.clock.advance(KEY_SECONDS)
        self.assertEqual(joined.wire.closed, "aborted")


class BoundsTests(ControlCase):
    """What one program can have the monitor hold or do."""

    def test_connections(self) -> None:
        """The port holds a number of connections; the idlest makes room, and who waits for something does not."""
        busy = self.join()
        self.answer(busy, busy.client.subscribe(lambda event: None))
        idle = [self.join() for _ in range(MOST_CONNECTIONS + 20)]
        closed = [each.wire.closed for each in idle].count("aborted")
        self.assertEqual((closed, busy.wire.closed), (21, ""))
        self.assertEqual(self.answer(idle[-1], idle[-1].client.status())["schema"], 1)

    def test_all_busy(self) -> None:
        """Where nobody is idle, the newcomer is refused."""
        self.patch(control_link.ControlLink, "idle", False)
        for _ in range(MOST_CONNECTIONS):
            self.join()
        self.assertEqual(self.join().wire.closed, "aborted")

    def test_questions_in_a_turn(self) -> None:
        """Of a thousand questions in one go a few are answered in a turn, and nothing more is read meanwhile."""
        joined = self.join()
        joined.say(b"".join(question(b"Hello", b"%d" % number) for number in range(1000)))
        self.assertEqual((len(joined.wire.written), joined.wire.reading), (MOST_IN_A_TURN, False))
        for _ in range(200):
            self.clock.advance(0)
        self.assertEqual((len(joined.wire.written), joined.wire.reading), (1000, True))

    def test_unread_answers(self) -> None:
        """Who does not read is not answered, nor read; after two minutes he is let go of."""
        joined = self.join()
        joined.wire.producer.pauseProducing()
        joined.say(b"".join(question(b"Status", b"%d" % number) for number in range(50)))
        self.clock.advance(1)
        self.assertEqual((joined.wire.written, joined.wire.reading), ([], False))
        joined.wire.producer.resumeProducing()
        for _ in range(10):
            self.clock.advance(0)
        self.assertEqual((len(joined.wire.written), joined.wire.reading), (50, True))
        joined.wire.producer.pauseProducing()
        self.clock.advance(STUCK_SECONDS)
        self.assertEqual(joined.wire.closed, "aborted")

    def test_questions_at_once(self) -> None:
        """So many may wait for their answers; one more is refused, and the others are answered."""
        joined = self.join()
        waiting: list[Deferred[str]] = []

        def restart(mode: str, asked_by: str) -> Deferred[str]:
            waiting.append(Deferred())
            return waiting[-1]

        self.patch(self.monitor, "restart", restart)
        asked = [joined.client.restart() for _ in range(MOST_AT_ONCE)]
        self.pump(joined)
        text = self.refusal(joined, joined.client.restart(), ServerWorkerError)
        self.assertIn("200 questions wait", text)
        for each in waiting:
            each.callback("it serves")
        self.assertEqual({self.answer(joined, each) for each in asked}, {"it serves"})
        self.assertEqual(self.answer(joined, joined.client.status())["schema"], 1)

    def test_keys(self) -> None:
        """A box has a number of keys."""
        joined = self.join()
        joined.say(b"".join(b"\x00\x03%03d\x00\x00" % number for number in range(MOST_KEYS + 1)))
        self.assertEqual(joined.wire.closed, "aborted")
        self.flushLoggedErrors()

    def test_emits_of_workers(self) -> None:
        """What workers emit by is not for programs."""
        joined = self.join()
        joined.say(box(_command=Messages.commandName, batch=b"E1 x"))
        self.assertEqual((joined.wire.closed, joined.wire.written), ("aborted", []))

    def test_descriptors(self) -> None:
        """Descriptors that somebody sends are closed."""
        joined = self.join()
        descriptor = os.open(os.devnull, os.O_RDONLY)
        joined.link.fileDescriptorReceived(descriptor)
        self.assertRaises(OSError, os.fstat, descriptor)

    def test_too_large_answer(self) -> None:
        """An answer that no box can carry is refused as such."""
        joined = self.join()
        self.patch(self.port._desk.history, "last_lines", lambda limit, source: [_Large()])
        text = self.refusal(joined, joined.client.logs(), ServerWorkerError)
        self.assertIn("too large", text)


class _Large:
    def as_json(self) -> str:
        return "x" * (17 * 1024 * 1024)


class BadInputTests(ControlCase):
    """What makes no sense is answered, or closes that one link."""

    def test_unknown(self) -> None:
        """An unknown command is a bad command, whose text says what there is."""
        joined = self.join()
        text = self.refusal(joined, joined.client.link.ask(Unknown, 10), BadCommand)
        self.assertIn("there is no command 'Unknown'; there are Authenticate, Crash,", text)

    def test_wrong_arguments(self) -> None:
        """Missing and unreadable arguments are a bad command, and leave no traceback in the log."""
        joined = self.join()
        for each in (
            question(b"Restart"),
            question(b"Restart", mode=b"\xff"),
            question(b"SetWorkers", count=b"many"),
            question(b"SetWorkers", count=b"9" * 5000),
            question(b"SetPolling", seconds=b"nan"),
            question(b"Emit", name=b"x", args=b"{", to=b"monitor"),
            question(b"Emit", name=b"x", args=b"[" * 60000, to=b"monitor"),
            question(b"Run", words=b"\x00"),
        ):
            joined.say(each)
            self.clock.advance(0)
        answers = b"".join(joined.wire.written)
        self.assertEqual(answers.count(b"BAD_COMMAND"), 8, answers)
        self.assertEqual((self.monitor.asked, self.flushLoggedErrors()), ([], []))

    def test_values(self) -> None:
        """Values out of range are refused with what is allowed."""
        joined = self.join()
        client = joined.client
        for refused, text in (
            (client.emit("x", to="9" * 30), "goes to workers, monitor, or the id"),
            (client.emit("x", to="everybody"), "goes to workers, monitor, or the id"),
            (client.emit("", to="monitor"), "1 to 255 characters"),
            (client.emit("x", to="monitor", timeout=-5), "seconds must be more than 0"),
            (client.emit("x", timeout=1e9), "86400 at most"),
            (client.logs(limit=0), "limit must be 1 to 10000"),
            (client.events(limit=10**9), "limit must be 1 to 10000"),
            (client.events(kinds=["WorkerDead"]), "did you mean 'WorkerDied'?"),
            (client.subscribe(print, kinds=["WorkerDead"]), "did you mean 'WorkerDied'?"),
            (client.restart("gently"), "usage: restart clean|force"),
            (client.set_workers(10**30), "usage: set workers N"),
            (client.run([]), "nothing to do"),
            (client.run(["sing"]), "there is no command 'sing'"),
            (client.crash("../../etc/passwd"), "there is no crash report"),
        ):
            self.assertIn(text, self.refusal(joined, refused, BadCommand))

    def test_answers_nobody_asked_for(self) -> None:
        """Replies and errors without a question are dropped."""
        joined = self.join()
        joined.say(box(_answer=b"77") + box(_error=b"1", _error_code=b"X", _error_description=b"\xff"))
        self.assertEqual(self.answer(joined, joined.client.status())["schema"], 1)

    def test_audit(self) -> None:
        """However long a deed is written, its entry in the audit is short."""
        joined = self.join()
        self.answer(joined, joined.client.emit("a\nb", to="1"))
        self.refusal(joined, joined.client.run(["emit", "x", "[" * 2000]), BadCommand)
        emitted, ran = self.told(OperatorAction)
        self.assertEqual(emitted.action, "emit 'a\nb' to 1")
        self.assertLess(len(ran.action), 510)

    @settings(max_examples=150, deadline=None)
    @given(
        st.lists(st.binary(max_size=300) | st.sampled_from([question(b"Status"), box(x=b"")]), max_size=20)
    )
    def test_garbage(self, pieces: list[bytes]) -> None:
        """Whatever comes, in whatever pieces, nothing is done, nothing raises, and others are served."""
        joined, other = self.join(), self.join()
        for piece in pieces:
            joined.say(piece)
        for _ in range(5):
            self.clock.advance(0)
        self.assertEqual(self.monitor.asked, [])
        self.assertEqual(self.answer(other, other.client.status())["schema"], 1)
        self.part(joined)
        self.part(other)
        self.flushLoggedErrors()


class CloseTests(ControlCase):
    """The end of the port."""

    def test_close(self) -> None:
        """It fires when all are gone; clients learn why."""
        self.port._reader = _Reader()  # type: ignore[assignment]
        joined = self.join()
        lost = joined.client.lost()
        closed = self.port.close()
        self.assertNoResult(closed)
        self.assertEqual(joined.wire.closed, "flushed")
        self.part(joined)
        self.successResultOf(closed)
        self.assertIsInstance(self.successResultOf(lost), PeerLost)

    def test_deadline(self) -> None:
        """Who does not go is cut off."""
        self.port._reader = _Reader()  # type: ignore[assignment]
        joined = self.join()
        closed = self.port.close()
        self.clock.advance(2)
        self.assertEqual(joined.wire.closed, "aborted")
        self.part(joined)
        self.successResultOf(closed)

    def test_own_end(self) -> None:
        """A client that closes tells its own questions so."""
        joined = self.join()
        asked = joined.client.status()
        joined.client.close()
        self.failureResultOf(asked, LinkDestroyed)


class _Reader:
    def stop(self) -> None:
        """Nothing was started."""
