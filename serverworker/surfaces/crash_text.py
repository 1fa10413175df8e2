"""A crash report as a text that one can read at night."""

from __future__ import annotations

from collections.abc import Iterator

from serverworker.monitor.crash_store import CrashReport
from serverworker.values.causes import Beat, RequestInFlight
from serverworker.values.event_json import utc

_SHOWN_LINES = 40
_SHOWN_BEATS = 5


def crash_text(report: CrashReport) -> str:
    """What, when, why, what was done about it; then where it hung, its requests, its last output, the stacks."""
    death = report.death
    pid = f" (pid {death.pid})" if death.pid is not None else ""
    lines = [
        f"worker {death.worker}{pid} of generation {death.generation} died while {death.life}",
        f"  when      {utc(report.at).replace('T', ' ')}, after {death.uptime_seconds:.1f} s",
        f"  cause     {death.cause.kind.value}: {death.cause.text}",
    ]
    if death.hung_at:
        lines.append(f"  hung at   {death.hung_at}")
    lines.append(f"  then      {death.next_step}")
    lines += _part("requests in flight", [_request(each) for each in death.requests])
    traceback = death.cause.error.traceback if death.cause.error is not None else ""
    lines += _part("traceback", traceback.rstrip("\n").splitlines())
    hidden = len(death.output) - _SHOWN_LINES
    title = (
        f"last output (the last {_SHOWN_LINES} of {len(death.output)} lines)" if hidden > 0 else "last output"
    )
    lines += _part(title, [line.text for line in death.output[-_SHOWN_LINES:]])
    lines += _part("last heartbeats", [_beat(each) for each in death.beats[-_SHOWN_BEATS:]])
    lines += _part("stacks", death.stacks.rstrip("\n").splitlines())
    return "\n".join(lines)


def _part(title: str, lines: list[str]) -> Iterator[str]:
    if lines:
        yield f"{title}:"
        yield from (f"    {line}" for line in lines)


def _request(request: RequestInFlight) -> str:
    return f"{request.method} {request.path}, for {request.age_seconds:.1f} s"


def _beat(beat: Beat) -> str:
    return f"{utc(beat.at).replace('T', ' ')}  {beat.text} after {beat.seconds:.2f} s"
