"""The talk with a mail server. Imported when the first mail goes out, and in a thread: see `mail`."""

from __future__ import annotations

from io import BytesIO
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.error import ConnectError, ConnectionClosed, DNSLookupError
from twisted.internet.protocol import Factory, connectionDone
from twisted.mail import smtp
from twisted.python.failure import Failure

from serverworker.observers.notifications.delivery import Undelivered
from serverworker.observers.notifications.mail import Mail
from serverworker.observers.notifications.message import one_line
from serverworker.values.notify_settings import MailSettings

SHOWN_CHARACTERS = 300
LONGEST_ANSWER = 64 * 1024
"""So much may a server say in one answer."""
CLOSING_SECONDS = 5.0
"""How long a server has for the farewell once the mail's fate is known."""
_CONNECT_SECONDS = 30.0


async def send(reactor: Any, settings: MailSettings, mail: Mail) -> None:
    """Hand a mail to the server. Raises `Undelivered`; cancelling it closes the connection."""
    from twisted.internet.ssl import optionsForClientTLS

    assert settings.host is not None
    endpoint: Any = HostnameEndpoint(reactor, settings.host, settings.port_number, _CONNECT_SECONDS)
    trust: Any = None if settings.security == "none" else optionsForClientTLS(settings.host)
    if settings.security == "tls":
        endpoint = wrapClientTLS(trust, endpoint)
    talk = Talk(reactor, mail, trust if settings.security == "starttls" else None)
    try:
        await endpoint.connect(_OneTalk(talk))
    except (ConnectError, DNSLookupError, ConnectionClosed) as error:
        raise Undelivered(
            f"no connection: {type(error).__name__}: {one_line(str(error), SHOWN_CHARACTERS)}"
        ) from error
    await talk.ended


class _OneTalk(Factory):
    noisy = False

    def __init__(self, talk: Talk) -> None:
        self._talk = talk

    def buildProtocol(self, addr: Any) -> Talk:
        return self._talk


class Talk(smtp.ESMTPClient):
    """One connection, one mail. `ended` fires when the server has taken it for everybody, else with `Undelivered`."""

    # Twisted's own record of the talk would hold the password, and stand in the text of every error.
    debug = False
    # For this one talk the attempt's deadline counts; the class's own timer would be the global reactor's.
    timeout = None

    def __init__(self, clock: Any, mail: Mail, starttls: Any) -> None:
        """`starttls`: what makes the connection secure; None: it is so already, or is not to be."""
        secret = None if mail.password is None else mail.password.encode()
        super().__init__(secret, starttls, smtp.DNSNAME)
        self.ended: Deferred[None] = Deferred(lambda _: self._abort())
        self.requireTransportSecurity = starttls is not None
        self.requireAuthentication = mail.user is not None
        if mail.user is not None:
            user = mail.user.encode()
            # The connection is secure: what most servers have goes first.
            self.registerAuthenticator(smtp.PLAINAuthenticator(user))
            self.registerAuthenticator(smtp.LOGINAuthenticator(user))
            self.registerAuthenticator(smtp.CramMD5ClientAuthenticator(user))
        self._clock = clock
        self._mail = mail
        self._begun = False
        self._sent = False
        self._answer_bytes = 0
        self._closing: Any = None

    # --- what Twisted asks ----------------------------------------------------------------------

    def getMailFrom(self) -> str | None:
        """The sender, once: then the talk is over."""
        if self._begun:
            return None
        self._begun = True
        return self._mail.sender

    def getMailTo(self) -> list[str]:
        """Who is to get it."""
        return list(self._mail.recipients)

    def getMailData(self) -> BytesIO:
        """The mail."""
        self._sent = True
        return BytesIO(self._mail.content)

    # --- what the server says -------------------------------------------------------------------

    def lineReceived(self, line: bytes) -> None:
        """Take a line of an answer, of which there are not too many."""
        self._answer_bytes = self._answer_bytes + len(line) if line[3:4] == b"-" else 0
        if self._answer_bytes > LONGEST_ANSWER:
            self._end(Undelivered("the server's answer has no end"))
            self._abort()
            return
        super().lineReceived(line)

    def lineLengthExceeded(self, line: bytes) -> None:
        """No answer has a line as long as this."""
        self._end(Undelivered("the server's answer has a line without an end"))
        self._abort()

    def esmtpState_starttls(self, code: int, resp: bytes) -> None:
        """Make the connection secure. What came before that must not count as if it came after."""
        if self.clearLineBuffer():
            self._end(
                Undelivered("the server, or somebody on the way, spoke on before the connection was secure")
            )
            self._abort()
            return
        super().esmtpState_starttls(code, resp)

    def sentMail(self, code: int, resp: bytes, numOk: int, addresses: Any, log: Any) -> None:
        """The server has decided."""
        self._close_soon()
        if code not in smtp.SUCCESS:
            refused = [
                (address, rcpt_code, text) for address, rcpt_code, text in addresses if rcpt_code >= 400
            ]
            said = _said(code, resp) if not refused or self._sent else _refusals(refused)
            self._end(Undelivered(said, refused=500 <= code < 600))
            return
        left = [
            (address, rcpt_code, text)
            for address, rcpt_code, text in addresses
            if rcpt_code not in smtp.SUCCESS
        ]
        if not left:
            self._end(None)
            return
        done = tuple(_address(address) for address, rcpt_code, _ in addresses if rcpt_code in smtp.SUCCESS)
        for_good = all(rcpt_code >= 500 for _, rcpt_code, _ in left)
        self._end(Undelivered(_refusals(left), refused=for_good, done=done))

    def sendError(self, exc: Any) -> None:
        """Something went wrong before the mail was decided about."""
        self._close_soon()
        code = getattr(exc, "code", None)
        if not isinstance(exc, smtp.SMTPClientError) or not isinstance(code, int):
            self._end(Undelivered(f"{type(exc).__name__} while it was sent"))
        else:
            refused = isinstance(exc, smtp.SMTPDeliveryError | smtp.AUTHDeclinedError) and code >= 500
            self._end(Undelivered(f"{type(exc).__name__}: {_said(code, exc.resp)}", refused=refused))
        super().sendError(exc)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The connection is over, well or not."""
        super().connectionLost(reason)
        if self._closing is not None and self._closing.active():
            self._closing.cancel()
        error = reason.value
        if type(error).__module__.startswith(("OpenSSL", "service_identity")):
            self._end(Undelivered(f"no secure connection: {one_line(str(error), SHOWN_CHARACTERS)}"))
        else:
            may = "; it may have arrived" if self._sent else ""
            self._end(Undelivered(f"the server closed the connection before it had taken the mail{may}"))

    # --- the end --------------------------------------------------------------------------------

    def _end(self, error: Undelivered | None) -> None:
        if self.ended.called:
            return
        if error is None:
            self.ended.callback(None)
        else:
            self.ended.errback(error)

    def _close_soon(self) -> None:
        """The farewell is a courtesy, and has its deadline."""
        if self._closing is None:
            self._closing = self._clock.callLater(CLOSING_SECONDS, self._abort)

    def _abort(self) -> None:
        transport: Any = self.transport
        if transport is not None:
            transport.abortConnection()


def _address(address: object) -> str:
    return address.decode("ascii", "replace") if isinstance(address, bytes) else str(address)


def _said(code: int, text: object) -> str:
    words = text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text)
    return one_line(f"{code} {words}" if code > 0 else words, SHOWN_CHARACTERS)


def _refusals(refused: list[Any]) -> str:
    return "; ".join(f"{_address(address)}: {_said(code, text)}" for address, code, text in refused)
