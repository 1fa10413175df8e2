"""What an operator can have done to a session: restart, exit, set, emit."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from serverworker.processes.awaiting import record_of
from serverworker.surfaces.desk import Asker, Desk, Outcome
from serverworker.values.errors import BadCommand, ErrorRecord, ServerWorkerError

_EMIT_USAGE = (
    """usage: emit NAME [JSON] [to workers|monitor|ID], such as: emit forget '{"page": 3}' to monitor"""
)

# The deadline of an emit is the configuration's; that of the others, the session's own.


def restart(desk: Desk, asker: Asker, arguments: Sequence[str]) -> Deferred[Outcome]:
    """``restart clean|force``: fires when the new generation serves, or fails with `NotDone`."""
    mode = _mode("restart", arguments)
    return desk.monitor.restart(mode, asked_by=asker.who).addCallback(_told)


def end(desk: Desk, asker: Asker, arguments: Sequence[str]) -> Deferred[Outcome]:
    """``exit clean|force``: fires when every worker is gone."""
    mode = _mode("exit", arguments)
    reason = f"{asker.who} asked for it"
    return desk.monitor.kill_session(reason, graceful=mode == "clean").addCallback(_told)


def set_port(desk: Desk, asker: Asker, arguments: Sequence[str]) -> Deferred[Outcome]:
    """``set port NAME ADDRESS [now]``."""
    if len(arguments) not in (2, 3) or (len(arguments) == 3 and arguments[2] != "now"):
        raise BadCommand("usage: set port NAME ADDRESS [now], such as: set port server 8081 now")
    name, address, *now = arguments
    changed = desk.monitor.set_port(name, address, now=bool(now), asked_by=asker.who)
    return changed.addCallback(_told)


def set_polling(desk: Desk, asker: Asker, arguments: Sequence[str]) -> Outcome:
    """``set polling SECONDS``."""
    if len(arguments) != 1:
        raise BadCommand("usage: set polling SECONDS, such as: set polling 15")
    try:
        seconds = float(arguments[0])
    except ValueError:
        raise BadCommand(f"{arguments[0]!r} is no number of seconds, such as 15 or 0.5") from None
    desk.monitor.set_polling(seconds)
    return Outcome(text=f"every worker polls itself every {seconds:g} s")


def set_workers(desk: Desk, asker: Asker, arguments: Sequence[str]) -> Outcome:
    """``set workers N``."""
    if len(arguments) != 1 or not _is_number(arguments[0]):
        raise BadCommand("usage: set workers N, a whole number, such as: set workers 4")
    count = int(arguments[0])
    desk.monitor.set_workers(count)
    return Outcome(text=f"{count} workers are to serve" if count > 1 else "1 worker is to serve")


@frozen(kw_only=True)
class Emit:
    """What is to be emitted, and to whom."""

    name: str
    args: Any
    to: str
    """``workers``, ``monitor``, or the id of a worker."""


def parse_emit(arguments: Sequence[str]) -> Emit:
    """What the words behind ``emit`` mean. Raises `BadCommand`."""
    words = list(arguments)
    to = "workers"
    if len(words) >= 3 and words[-2] == "to":
        to = words[-1]
        del words[-2:]
    if not 1 <= len(words) <= 2:
        raise BadCommand(_EMIT_USAGE)
    args = None
    if len(words) == 2:
        try:
            args = json.loads(words[1])
        except (ValueError, RecursionError) as error:
            raise BadCommand(f"{words[1]!r} is no JSON ({error}); {_EMIT_USAGE}") from error
    return Emit(name=words[0], args=args, to=check_target(to))


def check_target(to: str) -> str:
    """The target of an emit again. Raises `BadCommand` for what can be none."""
    if to in ("workers", "monitor") or _is_number(to):
        return to
    raise BadCommand(f"an emit goes to workers, monitor, or the id of a worker, not to {to[:100]!r}")


def emit(desk: Desk, asker: Asker, arguments: Sequence[str]) -> Deferred[Outcome]:
    """``emit NAME [JSON] [to …]``: fails with `NotDone` where nobody answered without an error."""
    asked = parse_emit(arguments)
    return do_emit(desk, asked).addCallback(lambda outcomes: _emitted(asked, outcomes))


def do_emit(desk: Desk, asked: Emit, timeout: float | None = None) -> Deferred[dict[str, Any]]:
    """Emit; never fails. Answers ``{"worker 3": {"results": […]}, "worker 4": {"error": {…}}}``, as JSON."""
    name, args = asked.name, asked.args
    if asked.to == "monitor":
        return _one("monitor", desk.monitor.dispatch(name, args, timeout))
    if asked.to != "workers":
        worker = int(asked.to)
        return _one(f"worker {worker}", desk.monitor.emit(name, args, timeout, worker=worker))
    answers: Deferred[dict[int, Any]] = desk.monitor.emit(name, args, timeout)

    def as_json(by_id: dict[int, Any]) -> dict[str, Any]:
        return {f"worker {worker}": _outcome(result) for worker, result in by_id.items()}

    return answers.addCallback(as_json)


def _one(who: str, answer: Deferred[Any]) -> Deferred[dict[str, Any]]:
    return answer.addBoth(lambda result: {who: _outcome(result)})


def _outcome(result: Any) -> dict[str, Any]:
    if isinstance(result, Failure):
        return {"error": _error_json(record_of(result))}
    if isinstance(result, Exception):
        return {"error": _error_json(ErrorRecord.from_exception(result))}
    return {"results": result}


def _error_json(record: ErrorRecord) -> dict[str, str]:
    return {"type": record.type, "message": record.message, "traceback": record.traceback}


def _emitted(asked: Emit, outcomes: dict[str, Any]) -> Outcome:
    if not outcomes:
        raise ServerWorkerError(f"no worker serves now: nobody was told {asked.name!r}")
    lines = []
    for who, outcome in outcomes.items():
        error = outcome.get("error")
        shown = f"failed: {error['message']}" if error else json.dumps(outcome["results"], ensure_ascii=False)
        lines.append(f"{who}: {shown}")
    if all("error" in outcome for outcome in outcomes.values()):
        raise ServerWorkerError("\n".join(lines))
    return Outcome(text="\n".join(lines), data=outcomes)


def _is_number(text: str) -> bool:
    # Python reads no number of more than 4,300 digits, and raises what is none of ours.
    return len(text) < 19 and text.isascii() and text.isdecimal()


def _told(text: str) -> Outcome:
    return Outcome(text=text)


def _mode(name: str, arguments: Sequence[str]) -> str:
    if len(arguments) != 1 or arguments[0] not in ("clean", "force"):
        given = f", not {' '.join(arguments)!r}" if arguments else ""
        raise BadCommand(f"usage: {name} clean|force{given}")
    return arguments[0]


Deed = Callable[[Desk, Asker, Sequence[str]], Any]
"""Does what one command is for; answers an `Outcome`, at once or by a Deferred."""
