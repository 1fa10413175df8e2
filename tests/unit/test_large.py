"""JSON as it crosses the channel, and AMP arguments that carry it past 65,535 bytes."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.protocols import amp
from twisted.trial.unittest import SynchronousTestCase

from serverworker.values.errors import NotJSON, ValueTooLarge
from serverworker.wire.large import (
    AMP_VALUE_BYTES,
    MAX_VALUE_BYTES,
    Large,
    LargeJSON,
    LargeText,
    from_json,
    to_json,
)

texts = st.text(st.characters())  # lone surrogates included
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner) | st.dictionaries(texts, inner),
    max_leaves=20,
)


class Carry(amp.Command):
    arguments = [
        (b"data", Large()),
        (b"value", LargeJSON(optional=True)),
        (b"text", LargeText(optional=True)),
    ]


class Tight(amp.Command):
    arguments = [(b"data", Large(limit=10))]


def carried(command: type[amp.Command] = Carry, **arguments: Any) -> dict[str, Any]:
    """The arguments, as the other end of a link would read them from the wire."""
    box = command.makeArguments(arguments, None)
    [read] = amp.parseString(box.serialize())
    arrived: dict[str, Any] = command.parseArguments(read, None)
    return arrived


class JSONTests(SynchronousTestCase):
    """`to_json` and `from_json`."""

    @settings(deadline=None)
    @given(json_values)
    def test_round_trip(self, value: Any) -> None:
        """Every JSON value comes back as it was, and stands on one line."""
        text = to_json(value)
        self.assertEqual(from_json(text), value)
        self.assertNotIn(b"\n", text)

    def test_utf_8(self) -> None:
        """Text is not inflated by escapes."""
        self.assertEqual(to_json("Привет"), '"Привет"'.encode())

    def test_file_names(self) -> None:
        """What `os.fsdecode` makes of a name that is no UTF-8 survives."""
        self.assertEqual(from_json(to_json("caf\udce9")), "caf\udce9")

    def test_not_json(self) -> None:
        """What JSON does not know is refused, with what it is."""
        for value, text in [
            (datetime.now(UTC), "datetime"),
            (b"bytes", "bytes"),
            ({1, 2}, "set"),
            (float("nan"), "not JSON compliant"),
            ([float("-inf")], "not JSON compliant"),
            ({("a", "b"): 1}, "keys must be str"),
            (10**5000, "limit"),
        ]:
            self.assertIn(text, str(self.assertRaises(NotJSON, to_json, value)))

    def test_endless(self) -> None:
        """A value that holds itself, or is nested without measure, is refused."""
        itself: list[Any] = []
        itself.append(itself)
        self.assertIn("Circular", str(self.assertRaises(NotJSON, to_json, itself)))
        deep: list[Any] = []
        for _ in range(100_000):
            deep = [deep]
        self.assertIn("nested too deeply", str(self.assertRaises(NotJSON, to_json, deep)))

    def test_own_fault(self) -> None:
        """A dict with a bug of its own is no JSON either."""

        class Broken(dict[str, int]):
            def items(self) -> Any:
                raise LookupError("no items today")

        error = self.assertRaises(NotJSON, to_json, Broken(a=1))
        self.assertEqual(str(error), "LookupError: no items today")

    def test_garbage(self) -> None:
        """Bytes that are no JSON are refused, whatever is wrong with them."""
        for text in [b"", b"{", b"[1,]", b"\xff", b"NaN", b"[-Infinity]", b"1 2", b"[" * 100_000]:
            self.assertRaises(NotJSON, from_json, text)

    @settings(deadline=None)
    @given(st.binary())
    def test_any_bytes(self, text: bytes) -> None:
        """Whatever arrives, it is a value or a NotJSON."""
        with contextlib.suppress(NotJSON):
            from_json(text)


class LargeTests(SynchronousTestCase):
    """`Large` and what stands on it."""

    @settings(deadline=None, max_examples=30)
    @given(
        st.sampled_from([0, 1, AMP_VALUE_BYTES, 2 * AMP_VALUE_BYTES, 11 * AMP_VALUE_BYTES]),
        st.integers(-2, 2),
        st.binary(min_size=1, max_size=300),
    )
    def test_round_trip(self, size: int, more: int, pattern: bytes) -> None:
        """Every size comes back as it was, at the edges of a key's length too."""
        size = max(0, size + more)
        data = (pattern * (size // len(pattern) + 1))[:size]
        self.assertEqual(carried(data=data)["data"], data)

    def test_small(self) -> None:
        """A value that fits into one key looks as AMP's own String does."""
        self.assertEqual(Carry.makeArguments({"data": b"x" * AMP_VALUE_BYTES}, None).keys(), {b"data"})
        self.assertEqual(
            Carry.makeArguments({"data": b"x" * (AMP_VALUE_BYTES + 1)}, None).keys(), {b"data", b"data.1"}
        )

    def test_largest(self) -> None:
        """The cap itself is allowed; a byte more is refused at the sender, with both sizes."""
        data = bytes(MAX_VALUE_BYTES)
        self.assertEqual(carried(data=data)["data"], data)
        error = self.assertRaises(ValueTooLarge, Carry.makeArguments, {"data": data + b"."}, None)
        self.assertEqual(str(error), "data has 16,777,217 bytes; 16,777,216 are allowed")

    def test_receiver(self) -> None:
        """A sender that does not keep to the limit is refused by the receiver."""
        self.assertEqual(carried(Tight, data=b"0123456789"), {"data": b"0123456789"})
        box = amp.AmpBox({b"data": b"0123456789", b"data.1": b"x"})
        self.assertRaises(ValueTooLarge, Tight.parseArguments, box, None)

    def test_missing(self) -> None:
        """A value that must be there is missed."""
        self.assertRaises(KeyError, Carry.parseArguments, amp.AmpBox(), None)

    def test_optional(self) -> None:
        """What may be left out is None at the other end."""
        self.assertEqual(carried(data=b""), {"data": b"", "value": None, "text": None})

    def test_types(self) -> None:
        """The wrong type is refused by name."""
        error = self.assertRaises(TypeError, Carry.makeArguments, {"data": "text"}, None)
        self.assertEqual(str(error), "bytes are needed here, not str")
        error = self.assertRaises(TypeError, Carry.makeArguments, {"data": b"", "text": 7}, None)
        self.assertEqual(str(error), "text is needed here, not int")

    @settings(deadline=None, max_examples=30)
    @given(json_values, texts, st.sampled_from([0, AMP_VALUE_BYTES]))
    def test_values(self, value: Any, text: str, more: int) -> None:
        """JSON and text come back, large ones too."""
        arrived = carried(data=b"", value=[value, "x" * more], text=text + "ю" * more)
        self.assertEqual(arrived["value"], [value, "x" * more])
        self.assertEqual(arrived["text"], text + "ю" * more)
