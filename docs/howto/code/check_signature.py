import hmac


def is_from_us(secret: str, body: bytes, header: str) -> bool:
    """Whether a request's ``X-Serverworker-Signature`` is that of its body."""
    expected = "sha256=" + hmac.new(secret.encode(), body, "sha256").hexdigest()
    return hmac.compare_digest(expected, header)
