"""What monitor and worker say to each other."""

from __future__ import annotations

import inspect
from typing import Any

from twisted.protocols import amp
from twisted.trial.unittest import SynchronousTestCase

from serverworker.wire import commands
from serverworker.wire.large import MAX_VALUE_BYTES, Large


def all_commands() -> list[type[amp.Command]]:
    """Every command that somebody can send."""
    found = vars(commands).values()
    return [
        each for each in found if inspect.isclass(each) and issubclass(each, amp.Command) and each.__doc__
    ]


def carried(command: type[amp.Command], **arguments: Any) -> dict[str, Any]:
    [box] = amp.parseString(command.makeArguments(arguments, None).serialize())
    arrived: dict[str, Any] = command.parseArguments(box, None)
    return arrived


class CommandsTests(SynchronousTestCase):
    """The table of commands."""

    def test_failure_is_declared(self) -> None:
        """Each command that is answered can be answered with CommandFailed, so that no bug closes a link."""
        for command in all_commands():
            if command is not commands.Messages:
                self.assertIn(commands.CommandFailed, command.errors, command.__name__)
                self.assertTrue(command.requiresAnswer, command.__name__)

    def test_nothing_is_fatal(self) -> None:
        """No command closes the link when it fails."""
        for command in all_commands():
            self.assertEqual(command.fatalErrors, {}, command.__name__)

    def test_messages(self) -> None:
        """Emits wait for no answer of AMP's, and a value of the largest size fits, with its envelope."""
        self.assertFalse(commands.Messages.requiresAnswer)
        batch = bytes(MAX_VALUE_BYTES + commands.ENVELOPE_BYTES)
        self.assertEqual(carried(commands.Messages, batch=batch), {"batch": batch})

    def test_no_short_text(self) -> None:
        """No text that somebody else writes ends at AMP's 65,535 bytes."""
        for command in all_commands():
            for name, argument in [*command.arguments, *command.response]:
                if isinstance(argument, amp.String) and not isinstance(argument, Large):
                    self.assertIn(name, (b"kind", b"key"), command.__name__)

    def test_long_text(self) -> None:
        """The arguments arrive as they were, a reason of any length."""
        arguments = {"reason": "ж" * 70_000, "graceful": True, "status": 3}
        self.assertEqual(carried(commands.KillSession, **arguments), arguments)


class SecondsTests(SynchronousTestCase):
    """`Seconds`."""

    def test_round_trip(self) -> None:
        """Whole and other numbers arrive exactly."""
        for seconds in (5, 0, 0.1, 1e-9, 1e300, -2.5):
            self.assertEqual(carried(commands.SetPolling, seconds=seconds), {"seconds": seconds})

    def test_refused(self) -> None:
        """What is no finite number is refused at the sender, and at the receiver."""
        for seconds in (float("nan"), float("inf"), True):
            self.assertRaises(ValueError, commands.SetPolling.makeArguments, {"seconds": seconds}, None)
        self.assertRaises(TypeError, commands.SetPolling.makeArguments, {"seconds": "5"}, None)
        for text in (b"nan", b"-inf", b"five", b""):
            box = amp.AmpBox({b"seconds": text})
            self.assertRaises(ValueError, commands.SetPolling.parseArguments, box, None)
