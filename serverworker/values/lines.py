"""What a worker printed in one go: many lines as one value, each of which counts as an `OutputLine`.

A worker may print half a million lines a second. They travel together, and are taken apart only for who wants that.
"""

from __future__ import annotations

from collections.abc import Iterator

from attrs import frozen

from serverworker.values.events import OutputLine, Told


@frozen(kw_only=True)
class OutputLines:
    """Lines of one stream of one source, oldest first."""

    source: str
    """``worker 3``."""
    stream: str
    """``stdout`` or ``stderr``."""
    text: str
    """Separated by newlines; there is none behind the last."""
    count: int
    """How many there are: one more than newlines."""

    def __iter__(self) -> Iterator[OutputLine]:
        """Each by itself."""
        for text in self.text.split("\n"):
            yield OutputLine(source=self.source, stream=self.stream, text=text)

    def last(self, number: int) -> OutputLines:
        """The newest `number` of them; all where there are no more."""
        if self.count <= number:
            return self
        text = self.text[len(self.text.rsplit("\n", number)[0]) + 1 :]
        return OutputLines(source=self.source, stream=self.stream, text=text, count=number)


@frozen(kw_only=True)
class ToldLines:
    """Lines as observers get them: numbered as if each had been told by itself."""

    sequence: int
    """Of the first; each further one is one more."""
    at: float
    """Seconds since the epoch."""
    lines: OutputLines

    @property
    def last_sequence(self) -> int:
        """Of the last."""
        return self.sequence + self.lines.count - 1

    def __iter__(self) -> Iterator[Told]:
        """Each by itself."""
        for sequence, line in enumerate(self.lines, self.sequence):
            yield Told(sequence=sequence, at=self.at, event=line)

    def last(self, number: int) -> ToldLines:
        """The newest `number` of them; all where there are no more."""
        lines = self.lines.last(number)
        return ToldLines(sequence=self.sequence + self.lines.count - lines.count, at=self.at, lines=lines)
