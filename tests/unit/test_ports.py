"""How a port is written, read and told."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from serverworker.values.ports import PortSettings, parse_port
from serverworker.values.rules import InvalidSettings

NOT_A_PORT = "must be a port's number, or tcp:, tcp6: or unix: with an address, not"

# What the operator writes, what it means, and how we write it.
GOOD: list[tuple[object, PortSettings, str]] = [
    (8080, PortSettings(name="n", kind="tcp", port=8080), "tcp:8080"),
    (0, PortSettings(name="n", kind="tcp", port=0), "tcp:0"),
    ("8080", PortSettings(name="n", kind="tcp", port=8080), "tcp:8080"),
    ("tcp:65535", PortSettings(name="n", kind="tcp", port=65535), "tcp:65535"),
    (
        "8080:interface=127.0.0.1",
        PortSettings(name="n", kind="tcp", port=8080, interface="127.0.0.1"),
        "tcp:8080:interface=127.0.0.1",
    ),
    (
        "tcp:80:backlog=4096:interface=0.0.0.0",
        PortSettings(name="n", kind="tcp", port=80, interface="0.0.0.0", backlog=4096),
        "tcp:80:interface=0.0.0.0:backlog=4096",
    ),
    ("tcp6:80", PortSettings(name="n", kind="tcp6", port=80), "tcp6:80"),
    (
        "tcp6:80:interface=::1:backlog=9",
        PortSettings(name="n", kind="tcp6", port=80, interface="::1", backlog=9),
        "tcp6:80:interface=::1:backlog=9",
    ),
    (  # as Twisted's endpoints want it
        r"tcp6:80:interface=\:\:1",
        PortSettings(name="n", kind="tcp6", port=80, interface="::1"),
        "tcp6:80:interface=::1",
    ),
    ("unix:/run/s.sock", PortSettings(name="n", kind="unix", path="/run/s.sock"), "unix:/run/s.sock"),
    (
        "unix:/run/s.sock:mode=660",
        PortSettings(name="n", kind="unix", path="/run/s.sock", mode=0o660),
        "unix:/run/s.sock:mode=660",
    ),
    (r"unix:/a\:b=c", PortSettings(name="n", kind="unix", path="/a:b=c"), r"unix:/a\:b=c"),
    ("unix:a=b:mode=600", PortSettings(name="n", kind="unix", path="a=b", mode=0o600), "unix:a=b:mode=600"),
    ("unix:/a:b", PortSettings(name="n", kind="unix", path="/a:b"), "unix:/a:b"),
    ("unix:/a\\\\b", PortSettings(name="n", kind="unix", path="/a\\b"), "unix:/a\\\\b"),
]

BAD: list[tuple[object, str]] = [
    (8080.9, f"{NOT_A_PORT} 8080.9"),
    (8080.0, f"{NOT_A_PORT} 8080.0"),
    (True, f"{NOT_A_PORT} true"),
    (None, f"{NOT_A_PORT} null"),
    ([80], f"{NOT_A_PORT} an array"),
    ({"port": 80}, f"{NOT_A_PORT} a table"),
    ("", f"{NOT_A_PORT} ''"),
    ("http", f"{NOT_A_PORT} 'http'"),
    ("+80", f"{NOT_A_PORT} '+80'"),
    (" 80", f"{NOT_A_PORT} ' 80'"),
    ("8_0", f"{NOT_A_PORT} '8_0'"),
    ("٨٠", f"{NOT_A_PORT} '٨٠'"),
    ("/run/s.sock", f"{NOT_A_PORT} '/run/s.sock'"),
    (-1, "the number must be 0 to 65535 (0: any free one), not -1"),
    (65536, "the number must be 0 to 65535 (0: any free one), not 65536"),
    ("65536", "the number must be 0 to 65535 (0: any free one), not 65536"),
    (10**5000, "the number must be 0 to 65535 (0: any free one), not a number too long to show"),
    ("tcp:", "the number must be 0 to 65535 (0: any free one), not ''"),
    ("tcp:http", "the number must be 0 to 65535 (0: any free one), not 'http'"),
    ("tcp:80:127.0.0.1", "the number must be 0 to 65535 (0: any free one), not '80:127.0.0.1'"),
    ("ssl:443", "there is no kind of port 'ssl'; allowed: tcp, tcp6, unix"),
    ("tcp4:80", "there is no kind of port 'tcp4'; did you mean 'tcp'?"),
    (
        "tcp:80:interface=localhost",
        "the interface must be an IPv4 address such as 127.0.0.1, not 'localhost'",
    ),
    ("tcp:80:interface=::1", "the interface must be an IPv4 address such as 127.0.0.1, not '::1'"),
    ("tcp6:80:interface=127.0.0.1", "the interface must be an IPv6 address such as ::1, not '127.0.0.1'"),
    ("tcp:80:interfce=127.0.0.1", "tcp has no option 'interfce'; did you mean 'interface'?"),
    ("tcp:80:mode=660", "tcp has no option 'mode'; allowed: backlog, interface"),
    ("tcp:80:backlog=5:backlog=6", "backlog is given twice"),
    ("tcp:80:backlog=0", "the backlog must be a whole number, 1 to 65535, not 0"),
    ("tcp:80:backlog=many", "the backlog must be a whole number, 1 to 65535, not 'many'"),
    ("unix:", "unix: needs the path of a socket, not ''"),
    ("unix::mode=660", "unix: needs the path of a socket, not ''"),
    ("tcp:80:", "the number must be 0 to 65535 (0: any free one), not '80:'"),
    ("unix:/a\0b", "unix: needs the path of a socket, not '/a\\x00b'"),
    ("unix:/s:mode=888", "the mode must be octal, 0 to 777, such as 660, not '888'"),
    ("unix:/s:mode=1777", "the mode must be octal, 0 to 777, such as 660, not 1777"),
    ("unix:/" + "é" * 60, "the path of a socket must be at most 107 bytes long, not 121"),
]

ADDRESSES = st.ip_addresses(v=4).map(str) | st.just("")
ADDRESSES_6 = st.ip_addresses(v=6).map(str) | st.sampled_from(["", "fe80::1%eth0", "fe80::1%a:mode=1\\"])
NUMBERS = st.integers(0, 65535)
BACKLOGS = st.just(1024) | st.integers(1, 65535)
PATHS = st.text(min_size=1, max_size=20).filter(lambda text: "\0" not in text) | st.text(
    ":=\\/mode7", min_size=1, max_size=20
)


def ports(name: str) -> st.SearchStrategy[PortSettings]:
    """Every port of that name that can be."""
    tcp = st.builds(
        PortSettings,
        name=st.just(name),
        kind=st.just("tcp"),
        port=NUMBERS,
        interface=ADDRESSES,
        backlog=BACKLOGS,
    )
    tcp6 = st.builds(
        PortSettings,
        name=st.just(name),
        kind=st.just("tcp6"),
        port=NUMBERS,
        interface=ADDRESSES_6,
        backlog=BACKLOGS,
    )
    unix = st.builds(
        PortSettings,
        name=st.just(name),
        kind=st.just("unix"),
        path=PATHS,
        mode=st.integers(0, 0o777),
        backlog=BACKLOGS,
    )
    return tcp | tcp6 | unix


class ParsingTests(SynchronousTestCase):
    """`parse_port` and `describe`."""

    def test_good(self) -> None:
        """Every way to write a port means what it should, and is told in one way."""
        for written, meant, told in GOOD:
            port = parse_port("n", written)
            self.assertEqual(port, meant)
            self.assertEqual(port.describe(), told)

    def test_bad(self) -> None:
        """Every wrong way is refused with a text that says what is wrong, and nothing more."""
        for written, text in BAD:
            error = self.assertRaises(InvalidSettings, parse_port, "n", written)
            self.assertEqual(str(error), f"ports.n: {text}")

    def test_all_that_is_wrong(self) -> None:
        """A port with several faults is told all of them at once."""
        error = self.assertRaises(
            InvalidSettings, parse_port, "a b", "tcp:99999:interface=x:mod=3:backlog=0:backlog=1"
        )
        self.assertEqual(
            str(error).splitlines(),
            [
                "ports.'a b': tcp has no option 'mod'; allowed: backlog, interface",
                "ports.'a b': backlog is given twice",
                "ports.'a b': the name of a port must be 1 to 64 letters, digits, '-' or '_'",
                "ports.'a b': the number must be 0 to 65535 (0: any free one), not 99999",
                "ports.'a b': the interface must be an IPv4 address such as 127.0.0.1, not 'x'",
                "ports.'a b': the backlog must be a whole number, 1 to 65535, not 0",
            ],
        )

    def test_name_of_nothing(self) -> None:
        """A bad name is told as well where the address cannot be made out."""
        error = self.assertRaises(InvalidSettings, parse_port, "", "ssl:1")
        self.assertEqual(
            str(error).splitlines(),
            [
                "ports.'': there is no kind of port 'ssl'; allowed: tcp, tcp6, unix",
                "ports.'': the name of a port must be 1 to 64 letters, digits, '-' or '_'",
            ],
        )

    def test_names(self) -> None:
        """A name may hold what `LISTEN_FDNAMES` can hand over; a colon would end it there."""
        for name in ("server", "web-2", "a_b", "0", "n" * 64):
            self.assertEqual(parse_port(name, 80).name, name)
        for name in ("", "a:b", "a b", "ä", "n" * 65, "a\n"):
            self.assertRaises(InvalidSettings, parse_port, name, 80)

    def test_folder(self) -> None:
        """A relative path starts at the folder that was given; an absolute one stays."""
        self.assertEqual(parse_port("n", "unix:run/s", "/etc/site").path, "/etc/site/run/s")
        self.assertEqual(parse_port("n", "unix:/run/s", "/etc/site").path, "/run/s")

    def test_path_of_the_longest_length(self) -> None:
        """107 bytes are allowed, with the folder counted."""
        self.assertEqual(len(parse_port("n", "unix:" + "s" * 103, "/ab").path), 107)
        error = self.assertRaises(InvalidSettings, parse_port, "n", "unix:" + "s" * 104, "/ab")
        self.assertEqual(str(error), "ports.n: the path of a socket must be at most 107 bytes long, not 108")

    def test_fields_of_another_kind(self) -> None:
        """A port that is made in code cannot hold what its description could not tell."""
        self.assertRaises(InvalidSettings, PortSettings, name="n", kind="tcp", path="/s")
        self.assertRaises(InvalidSettings, PortSettings, name="n", kind="tcp6", mode=0o600)
        self.assertRaises(InvalidSettings, PortSettings, name="n", kind="unix", path="/s", port=1)
        self.assertRaises(InvalidSettings, PortSettings, name="n", kind="unix", path="/s", interface="::")
        self.assertRaises(InvalidSettings, PortSettings, name="n", kind="udp")

    @given(ports("n"))
    @settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=300)
    def test_round_trip(self, port: PortSettings) -> None:
        """What `describe` writes, `parse_port` reads as the same port."""
        self.assertEqual(parse_port("n", port.describe()), port)

    @given(st.text() | st.text("tcpunix6:=\\0178mode/.interfacbklog", max_size=40))
    @settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=300)
    def test_any_text(self, text: str) -> None:
        """No text does anything but parse or raise the one error, a line for each problem."""
        try:
            parse_port("n", text)
        except InvalidSettings as error:
            self.assertEqual(len(str(error).splitlines()), len(error.problems))


class OverlapTests(SynchronousTestCase):
    """Which two addresses cannot be bound together."""

    def test_table(self) -> None:
        """The same address, in whatever spelling, and one that contains the other."""
        for first, second, expected in [
            ("80", "tcp:80", True),
            ("80", "tcp:81", False),
            ("80", "tcp:80:interface=127.0.0.1", True),
            ("tcp:80:interface=0.0.0.0", "tcp:80:interface=127.0.0.1", True),
            ("tcp:80:interface=127.0.0.2", "tcp:80:interface=127.0.0.1", False),
            ("tcp6:80:interface=::1", "tcp6:80:interface=0:0:0:0:0:0:0:1", True),
            ("tcp6:80:interface=::", "tcp6:80:interface=::1", True),
            ("tcp6:80", "tcp:80", False),  # bound with IPV6_V6ONLY they stand side by side
            ("0", "0", False),
            ("unix:/a/s", "unix:/a/./s", True),
            ("unix:/a/s", "unix:/a/t", False),
            ("unix:/a/s", "80", False),
        ]:
            one, other = parse_port("n", first), parse_port("m", second)
            self.assertEqual(one.overlaps(other), expected, (first, second))
            self.assertEqual(other.overlaps(one), expected, (second, first))
