"""The certificates of the session's ports in the monitor: read, watched, told of, and handed over."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from twisted.internet.defer import Deferred, execute
from twisted.internet.task import Clock
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from serverworker.monitor import certificates
from serverworker.monitor.certificates import DAY_SECONDS, LOOK_SECONDS, Certificates, files_of, read_all
from serverworker.processes.certificates import read_key_pair
from serverworker.values.certificate_events import CertificateExpiring, CertificateInUse
from serverworker.values.errors import ConfigurationError
from serverworker.values.events import Event, Fault
from serverworker.values.tls import TlsSettings
from tests.unit.certificates import Issued, issue


class FilesTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir()
        self.certificate, self.key = self.folder / "site.pem", self.folder / "site.key"

    def write(self, issued: Issued) -> None:
        """Both files, in the place of what is there."""
        self.certificate.write_text(issued.certificate_pem())
        self.key.write_text(issued.key_pem())

    def tls(self, name: str = "server", **more: Any) -> TlsSettings:
        return TlsSettings(name=name, certificate=str(self.certificate), private_key=str(self.key), **more)


class ReadingTests(FilesTestCase):
    """`read_key_pair`; the rest of it is told in `test_tls`."""

    def refused(self) -> str:
        files = str(self.certificate), str(self.key)
        return str(self.assertRaises(ConfigurationError, read_key_pair, "tls.server", *files))

    def test_pair(self) -> None:
        """The chain in its order, the names that it is for, and its time."""
        authority = issue("our authority")
        leaf = issue("x", authority, days=(-1, 30))
        self.certificate.write_text(f"words before\n{leaf.certificate_pem()}{authority.certificate_pem()}")
        self.key.write_text(leaf.key_pem())
        pair = read_key_pair("tls.server", str(self.certificate), str(self.key))
        self.assertEqual(pair.certificate, leaf.certificate_pem() + authority.certificate_pem())
        self.assertEqual(pair.private_key, leaf.key_pem())
        self.assertEqual(pair.subject, "localhost, 127.0.0.1")
        self.assertAlmostEqual(pair.until - pair.since, 31 * DAY_SECONDS)

    def test_passphrase(self) -> None:
        """A key with a passphrase: how one without is made."""
        made = issue("x")
        self.certificate.write_text(made.certificate_pem())
        self.key.write_text(made.key_pem(b"hush"))
        text = self.refused()
        self.assertIn(
            f"tls.server.private_key: {self.key} holds no private key that can be read without", text
        )
        self.assertIn(f"`openssl pkey -in {self.key} -out FILE` writes one that has none", text)

    def test_weak(self) -> None:
        """A key that clients refuse is refused here, with what it takes."""
        key = rsa.generate_private_key(65537, 1024)  # noqa: S505 - that is the point
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x")])
        now = datetime.now(UTC)
        builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        builder = (
            builder.serial_number(1).not_valid_before(now - timedelta(1)).not_valid_after(now + timedelta(1))
        )
        self.certificate.write_bytes(builder.sign(key, SHA256()).public_bytes(Encoding.PEM))
        self.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        self.assertIn(
            "is for an RSA key of 1024 bits, which clients refuse: it takes 2048 at least", self.refused()
        )

    def test_not_a_pem_file(self) -> None:
        """A device or a log, named by mistake, does not fill the memory."""
        self.certificate.write_bytes(b"x" * (2**20 + 1))
        self.assertIn("is larger than a MiB", self.refused())


class CertificatesTests(FilesTestCase):
    """`Certificates`."""

    def setUp(self) -> None:
        super().setUp()
        self.clock = Clock()
        self.told: list[Event] = []
        self.exchanged = 0
        self.first = issue("first", days=(-1, 90))
        self.write(self.first)
        self.settings: tuple[TlsSettings, ...] = (self.tls(),)
        self.wall = datetime.now(UTC).timestamp()
        self.blocked: list[tuple[Deferred[Any], Callable[[], Any]]] | None = None

    def in_thread(self, call: Callable[[], Any]) -> Deferred[Any]:
        if self.blocked is None:
            return execute(call)
        self.blocked.append((Deferred(), call))
        return self.blocked[-1][0]

    def begin(self) -> Certificates:
        made = Certificates(
            read_all(self.settings),
            clock=self.clock,
            publish=self.told.append,
            in_thread=self.in_thread,
            wall=lambda: self.wall + self.clock.seconds(),
        )
        made.start(self.settings, self.count)
        self.addCleanup(made.stop)
        self.pump(3)
        return made

    def count(self) -> None:
        self.exchanged += 1

    def pump(self, looks: int) -> None:
        self.clock.pump([LOOK_SECONDS] * looks)

    def certificate_of(self, made: Certificates) -> str:
        told: str = made.for_worker(self.settings)["server"]["certificate"]
        return told

    def faults(self) -> list[Fault]:
        return [each for each in self.told if isinstance(each, Fault)]

    def test_start(self) -> None:
        """What is served is told once for each certificate; workers are told what is in the files."""
        self.settings = (self.tls(), self.tls("other", minimum_version="1.3"))
        made = self.begin()
        [told] = self.told
        assert isinstance(told, CertificateInUse)
        self.assertEqual((told.ports, told.certificate), (("server", "other"), str(self.certificate)))
        self.assertEqual(
            made.for_worker(self.settings)["other"],
            {
                "certificate": self.first.certificate_pem(),
                "private_key": self.first.key_pem(),
                "minimum_version": "1.3",
            },
        )
        self.assertEqual(self.exchanged, 0)

    def test_without_tls(self) -> None:
        """Where no port speaks it nothing is looked at."""
        self.settings = ()
        made = self.begin()
        self.assertEqual((self.told, made.for_worker(()), self.clock.getDelayedCalls()), ([], {}, []))

    def test_renewed(self) -> None:
        """New files are taken over once they have been the same at two looks, and told of."""
        made = self.begin()
        second = issue("second", days=(-1, 90))
        self.write(second)
        self.pump(1)
        self.assertEqual(self.exchanged, 0)
        self.pump(1)
        self.assertEqual(self.exchanged, 1)
        self.assertEqual(self.certificate_of(made), second.certificate_pem())
        self.assertEqual([type(each) for each in self.told], [CertificateInUse] * 2)
        self.pump(5)
        self.assertEqual((self.exchanged, len(self.told)), (1, 2))

    def test_link_that_is_switched(self) -> None:
        """As certbot and Kubernetes renew: the name stays, and leads to other files."""
        second = issue("second", days=(-1, 90))
        for name, issued in (("1", self.first), ("2", second)):
            (self.folder / name).mkdir()
            issued.write(self.folder / name / "site.pem")
        link = self.folder / "current"
        link.symlink_to("1")
        self.settings = (TlsSettings(name="server", certificate=str(link / "site.pem")),)
        made = self.begin()
        (self.folder / "new").symlink_to("2")
        (self.folder / "new").rename(link)
        self.pump(2)
        self.assertEqual(self.certificate_of(made), second.certificate_pem())

    def test_between_the_two_files(self) -> None:
        """Whoever writes the two one after the other is given the time, and nothing is said."""
        made = self.begin()
        second = issue("second", days=(-1, 90))
        self.certificate.write_text(second.certificate_pem())
        self.pump(1)
        self.key.write_text(second.key_pem())
        self.pump(2)
        self.assertEqual((self.faults(), self.certificate_of(made)), ([], second.certificate_pem()))

    def test_bad_ones(self) -> None:
        """What cannot be used is told once, with key and file, and the former stays; the next change is tried."""
        made = self.begin()
        self.certificate.write_text(issue("another").certificate_pem())
        self.pump(6)
        [fault] = self.faults()
        self.assertEqual(fault.where, f"the certificate in {self.certificate}")
        self.assertIn(
            f"tls.server.certificate: {self.certificate} and the private key in {self.key}",
            fault.error.message,
        )
        self.assertEqual(fault.error.traceback, "")
        self.assertIn("the one that was read before stays in use, valid until 2", fault.next_step)
        self.assertEqual((self.exchanged, self.certificate_of(made)), (0, self.first.certificate_pem()))
        self.key.unlink()
        self.pump(4)
        self.assertIn(
            f"tls.server.private_key: {self.key} cannot be read: No such file", self.faults()[1].error.message
        )
        second = issue("second", days=(-1, 90))
        self.write(second)
        self.pump(2)
        self.assertEqual(self.certificate_of(made), second.certificate_pem())

    def test_not_readable(self) -> None:
        """Who may not read the files any more says so at once, not at the next renewal."""

        def forbidden(*arguments: Any) -> Any:
            try:
                raise PermissionError(13, "Permission denied")
            except PermissionError as error:
                raise ConfigurationError(
                    "tls.server.private_key: x cannot be read: Permission denied"
                ) from error

        read = read_all(self.settings)
        self.patch(certificates, "read_key_pair", forbidden)
        made = Certificates(read, clock=self.clock, publish=self.told.append, in_thread=self.in_thread)
        made.start(self.settings, self.count)
        self.addCleanup(made.stop)
        self.pump(5)
        [fault] = self.faults()
        self.assertIn(
            "this session's user may not read the file, so a renewed one is not noticed", fault.next_step
        )

    def test_late(self) -> None:
        """One that ought to have been renewed is told of once a day, until it is; then no more."""
        self.write(issue("late", days=(-76, 10)))
        self.begin()
        for _ in range(2):
            self.clock.advance(DAY_SECONDS)
        told = [each for each in self.told if isinstance(each, CertificateExpiring)]
        self.assertEqual([round(each.seconds / DAY_SECONDS) for each in told], [10, 9, 8])
        self.write(self.first)
        self.pump(3)
        self.told.clear()
        self.clock.advance(DAY_SECONDS * 2)
        self.assertEqual(self.told, [])

    def test_short_lived(self) -> None:
        """One that is valid for a week is late only when a quarter of it is left."""
        for days, count in (((-3, 4), 0), ((-6, 1), 1)):
            self.write(issue("short", days=days))
            self.told.clear()
            self.begin().stop()
            self.assertEqual(sum(isinstance(each, CertificateExpiring) for each in self.told), count)

    def test_a_disk_that_hangs(self) -> None:
        """It is asked once, and not again before it has answered."""
        self.blocked = []
        self.begin()
        self.pump(5)
        self.assertEqual(len(self.blocked), 1)

    def test_restart_during_a_look(self) -> None:
        """What a restart has taken out of the settings meanwhile is of no concern any more."""
        made = self.begin()
        self.write(issue("second", days=(-1, 90)))
        self.pump(1)
        self.blocked = []
        self.pump(1)
        answer, look = self.blocked[0]
        made.settle(())
        with capturedLogs() as told:
            answer.callback(look())
        self.assertEqual((told, len(self.blocked)), ([], 1))

    def test_restart(self) -> None:
        """A restart reads anew; a new file that cannot be used stops it, a served one that cannot is served on."""
        made = self.begin()
        second = issue("second", days=(-1, 90))
        self.write(second)
        made.read_anew(self.settings)
        self.assertEqual((self.exchanged, self.certificate_of(made)), (1, second.certificate_pem()))
        self.certificate.write_text("nothing")
        made.read_anew(self.settings)
        self.assertEqual((len(self.faults()), self.certificate_of(made)), (1, second.certificate_pem()))
        other = TlsSettings(name="server", certificate=str(self.folder / "other.pem"))
        error = self.assertRaises(ConfigurationError, made.read_anew, (other,))
        self.assertIn("tls.server.certificate", str(error))

    def test_other_files(self) -> None:
        """After a restart with other settings their files are looked at, and the former ones no more."""
        made = self.begin()
        self.certificate, self.key = self.folder / "b.pem", self.folder / "b.key"
        self.write(issue("b", days=(-1, 90)))
        other = (self.tls(),)
        made.read_anew(other)
        made.settle(other)
        third = issue("third", days=(-1, 90))
        self.write(third)
        self.pump(3)
        self.assertEqual(made.for_worker(other)["server"]["certificate"], third.certificate_pem())
        self.assertEqual(files_of(other[0]), (str(self.certificate), str(self.key)))
