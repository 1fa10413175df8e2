"""Certificates of the operators' ports: what is wrong with a file is said while the service is made."""

from __future__ import annotations

from pathlib import Path

from twisted.internet.ssl import CertificateOptions
from twisted.trial.unittest import SynchronousTestCase

from serverworker.surfaces.tls import tls_options
from serverworker.values.errors import ConfigurationError
from tests.unit.certificates import issue


class OptionsTests(SynchronousTestCase):
    """`tls_options`."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.folder.mkdir()
        self.good = issue("ops.example.org")

    def file(self, *texts: str, name: str = "a.pem") -> str:
        path = self.folder / name
        path.write_text("".join(texts))
        return str(path)

    def refused(self, certificate: str, key: str | None = None, authority: str | None = None) -> str:
        return str(self.assertRaises(ConfigurationError, tls_options, "control", certificate, key, authority))

    def test_good(self) -> None:
        """Certificate and key in one file, or in two, with a chain behind, and with an authority of clients."""
        authority = issue("our authority")
        leaf = issue("ops.example.org", authority)
        together = self.file(leaf.certificate_pem(), authority.certificate_pem(), leaf.key_pem())
        chain = self.file(leaf.certificate_pem(), authority.certificate_pem(), name="chain.pem")
        key = self.file(leaf.key_pem(), name="key.pem")
        for options in (
            tls_options("control", together, None),
            tls_options("control", chain, key),
            tls_options("control", chain, key, chain),
        ):
            self.assertIsInstance(options, CertificateOptions)
            self.assertEqual(len(options.extraCertChain), 1)
        self.assertTrue(options.verify and options.requireCertificate)

    def test_unreadable(self) -> None:
        """A file that is not there, or is a folder."""
        self.assertRegex(
            self.refused("/nowhere/a.pem"), "^control.certificate: /nowhere/a.pem cannot be read: No such"
        )
        self.assertIn("cannot be read", self.refused(str(self.folder)))
        certificate = self.file(self.good.certificate_pem())
        self.assertIn("control.private_key: /nowhere", self.refused(certificate, "/nowhere"))
        good = self.file(self.good.certificate_pem(), self.good.key_pem())
        self.assertIn("control.client_authority: /nowhere", self.refused(good, None, "/nowhere"))

    def test_no_certificate(self) -> None:
        """A file that holds something else, or a broken one."""
        self.assertIn("no certificate in PEM form", self.refused(self.file("hello")))
        self.assertIn("no certificate in PEM form", self.refused(self.file(self.good.key_pem())))
        broken = self.good.certificate_pem().replace("MII", "MIJ", 1)
        self.assertIn("cannot be read", self.refused(self.file(broken, self.good.key_pem())))

    def test_no_key(self) -> None:
        """No key, or one with a passphrase, which is not asked for."""
        self.assertIn("holds no private key", self.refused(self.file(self.good.certificate_pem())))
        locked = self.file(self.good.certificate_pem(), self.good.key_pem(b"secret"))
        self.assertIn("without a passphrase", self.refused(locked))

    def test_mismatch(self) -> None:
        """A key of another certificate."""
        text = self.refused(self.file(self.good.certificate_pem(), issue("another").key_pem()))
        self.assertIn("cannot be used together: key values mismatch", text)

    def test_dates(self) -> None:
        """A certificate that has expired, or is not valid yet."""
        for days, text in (((-9, -2), "has expired, at 20"), ((2, 9), "is not valid before 20")):
            issued = issue("x", days=days)
            self.assertIn(text, self.refused(self.file(issued.certificate_pem(), issued.key_pem())))

    def test_secret(self) -> None:
        """No text holds anything of a key."""
        text = self.refused(self.file(self.good.key_pem()))
        self.assertNotIn(self.good.key_pem().splitlines()[1], text)
