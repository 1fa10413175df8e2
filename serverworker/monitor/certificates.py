"""The certificates of the session's ports: read before privileges are dropped, watched, handed to the workers.

No worker reads the files: it may not be allowed to, and all workers of a port shall serve the same certificate.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from attrs import asdict
from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from serverworker.processes.awaiting import record_of
from serverworker.processes.certificates import read_key_pair
from serverworker.values.certificate_events import CertificateExpiring, CertificateInUse
from serverworker.values.errors import ConfigurationError, ErrorRecord
from serverworker.values.events import Event, Fault
from serverworker.values.tls import KeyPair, PortTls, TlsSettings, tls_key

LOOK_SECONDS = 2.0
"""From one look at the files to the next. What has changed is read when it is the same at two looks: the two files of a
certificate are seldom written at once."""

DAY_SECONDS = 24 * 3600.0
LATE_SECONDS = 14 * DAY_SECONDS
"""A certificate is late when it is valid for less than that, and for less than a quarter of its whole time: whoever
renews by itself does so when a third is left."""

_LATE_PART = 0.25
_CANNOT_READ = (
    "the certificate that was read before stays in use; this session's user may not read the file, so a renewed one is "
    "not noticed: let it read the file, or start the session anew after each renewal"
)

Files = tuple[str, str]
"""The names of the certificate's file and of the key's."""


def read_all(tls: Iterable[TlsSettings]) -> dict[Files, KeyPair]:
    """Read what the settings name. Raises `ConfigurationError`, which names key and file."""
    return {files_of(each): read_key_pair(tls_key(each.name), *files_of(each)) for each in tls}


def files_of(tls: TlsSettings) -> Files:
    """Where a port's certificate and key are."""
    return tls.certificate, tls.key_file


class Certificates:
    """Those of one session."""

    _log = Logger(namespace="serverworker.monitor")

    def __init__(
        self,
        pairs: Mapping[Files, KeyPair],
        *,
        clock: Any,
        publish: Callable[[Event], object],
        in_thread: Callable[[Callable[[], Any]], Deferred[Any]],
        wall: Callable[[], float] = time.time,
    ) -> None:
        """`pairs` as `read_all` has read them; `in_thread` runs what reads files; `wall` is the time of day."""
        self._pairs = dict(pairs)
        self._clock = clock
        self._publish = publish
        self._in_thread = in_thread
        self._wall = wall
        self._tls: tuple[TlsSettings, ...] = ()
        self._exchanged: Callable[[], object] = lambda: None
        self._seen: dict[Files, Any] = {}
        self._settled: dict[Files, Any] = {}
        self._warned: dict[Files, float] = {}
        self._is_looking = False
        self._loop = LoopingCall(self._look)
        self._loop.clock = clock

    def start(self, tls: tuple[TlsSettings, ...], exchanged: Callable[[], object]) -> None:
        """Tell what is served, and look at the files from now on; `exchanged()` is called when there is something new."""
        self._tls, self._exchanged = tls, exchanged
        for each in dict.fromkeys(map(files_of, tls)):
            self._tell(each)
        self._watch()

    def stop(self) -> None:
        """Look no more."""
        if self._loop.running:
            self._loop.stop()

    def for_worker(self, tls: Iterable[TlsSettings]) -> dict[str, Any]:
        """What a worker is told that serves with these settings: a `PortTls` as a dict, by the port's name."""
        return {each.name: asdict(self._port_tls(each)) for each in tls}

    def _port_tls(self, tls: TlsSettings) -> PortTls:
        pair = self._pairs[files_of(tls)]
        return PortTls(
            certificate=pair.certificate, private_key=pair.private_key, minimum_version=tls.minimum_version
        )

    def read_anew(self, tls: tuple[TlsSettings, ...]) -> None:
        """Read the files of these settings, for a restart.

        Where one that is served already cannot be read, that is told, and it is served as it was. Raises
        `ConfigurationError` where a new one cannot.
        """
        found: dict[Files, KeyPair] = {}
        for each in tls:
            try:
                found[files_of(each)] = read_key_pair(tls_key(each.name), *files_of(each))
            except ConfigurationError:
                if files_of(each) not in self._pairs:
                    raise
                self._refused(files_of(each), Failure())
        for files, pair in found.items():
            self._take(files, pair)

    def settle(self, tls: tuple[TlsSettings, ...]) -> None:
        """A restart is over: these are the settings that hold."""
        self._tls = tls
        self._watch()

    def _watch(self) -> None:
        if self._tls and not self._loop.running:
            self._loop.start(LOOK_SECONDS)

    # --- the files ------------------------------------------------------------------------------

    def _look(self) -> None:
        for files in self._served():
            self._warn(files)
        if not self._is_looking:  # a disk that hangs is asked once
            self._is_looking = True
            looked = self._in_thread(partial(_look_at, self._served()))
            looked.addCallback(self._compare)
            looked.addErrback(lambda failure: self._log.failure("looking at certificates failed", failure))
            looked.addBoth(lambda _: self._looked())

    def _looked(self) -> None:
        self._is_looking = False

    def _served(self) -> tuple[Files, ...]:
        return tuple(dict.fromkeys(map(files_of, self._tls)))

    def _compare(self, found: dict[Files, Any]) -> Deferred[Any] | None:
        before, self._seen = self._seen, found
        served = self._served()  # a restart may have changed them while they were looked at
        for files, now in found.items():
            if files not in served:
                continue
            if now == before.get(files) and now != self._settled.get(files):
                self._settled[files] = now
                read = self._in_thread(partial(read_key_pair, tls_key(self._ports(files)[0]), *files))
                return read.addCallbacks(partial(self._take, files), partial(self._refused, files))
        return None

    def _take(self, files: Files, pair: KeyPair) -> None:
        if pair == self._pairs.get(files):
            return
        is_served = files in self._pairs
        self._pairs[files] = pair
        self._warned.pop(files, None)
        if is_served:
            self._tell(files)
            self._exchanged()

    def _refused(self, files: Files, failure: Failure) -> None:
        failure.trap(ConfigurationError)
        pair, error = self._pairs[files], failure.value
        if error is not None and isinstance(error.__cause__, PermissionError):
            then = _CANNOT_READ
        else:
            then = (
                f"the one that was read before stays in use, valid until {_day(pair.until)}; these files are read again "
                "when they have changed"
            )
        record = record_of(failure)
        told = ErrorRecord(type=record.type, message=record.message)  # a traceback of ours helps nobody
        self._publish(Fault(where=f"the certificate in {files[0]}", error=told, next_step=then))

    # --- telling --------------------------------------------------------------------------------

    def _ports(self, files: Files) -> tuple[str, ...]:
        return tuple(each.name for each in self._tls if files_of(each) == files)

    def _tell(self, files: Files) -> None:
        pair = self._pairs[files]
        self._publish(
            CertificateInUse(
                ports=self._ports(files), certificate=files[0], subject=pair.subject, until=_day(pair.until)
            )
        )

    def _warn(self, files: Files) -> None:
        """Once a day, of one that ought to have been renewed by now."""
        pair, last, now = self._pairs[files], self._warned.get(files), self._clock.seconds()
        left = pair.until - self._wall()
        if left > min(LATE_SECONDS, _LATE_PART * (pair.until - pair.since)):
            return
        if last is None or now - last >= DAY_SECONDS:
            self._warned[files] = now
            self._publish(
                CertificateExpiring(
                    ports=self._ports(files),
                    certificate=files[0],
                    subject=pair.subject,
                    until=_day(pair.until),
                    seconds=left,
                )
            )


def _look_at(files: Collection[Files]) -> dict[Files, Any]:
    return {each: tuple(map(_sign, each)) for each in files}


def _sign(name: str) -> Any:
    """What changes when a file does, and when a link on the way to it is switched."""
    try:
        found = Path(name).stat()
    except OSError as error:
        return error.errno
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size


def _day(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")
