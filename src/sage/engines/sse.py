"""Server-sent events: bytes in, the payloads of ``data:`` fields out.

After the standard's section "Interpreting an event stream" (https://html.spec.whatwg.org/multipage/
server-sent-events.html): lines end in LF, CR or CRLF, several ``data`` lines of one event are joined by LF,
lines that begin with a colon are comments, one byte order mark is skipped, an event that is not ended by an
empty line is dropped. Other fields (``event``, ``id``, ``retry``) mean nothing to model servers and are
skipped. Different: payloads stay bytes, so that JSON is decoded once, with its own check of UTF-8.
"""

from __future__ import annotations

from sage.errors import EngineError

__all__ = ["EventParser"]

#: A longer event is no piece of an answer; holding it would let a server fill our memory.
MAX_EVENT_BYTES = 4 * 1024 * 1024

BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class EventParser:
    r"""An incremental parser of one event stream. Chunks may be cut anywhere.

    >>> parser = EventParser()
    >>> parser.feed(b"data: a\n\nda"), parser.feed(b"ta: b\r\ndata: c\r\n"), parser.feed(b"\r\n")
    ([b'a'], [], [b'b\nc'])
    """

    def __init__(self, *, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self._max_event_bytes = max_event_bytes
        self._begun = False  # the byte order mark, if any, is behind us
        self._after_cr = False  # the last chunk ended in CR: an LF that follows belongs to it
        self._rest = b""  # the unfinished line
        self._data: list[bytes] = []  # the data lines of the unfinished event
        self._size = 0  # of those, in bytes

    def feed(self, chunk: bytes) -> list[bytes]:
        """The payloads of the events that this chunk completes, in order.

        Raises:
            EngineError: ``garbled``: a line or an event is larger than ``max_event_bytes``.
        """
        if not self._begun:
            chunk = self._begin(chunk)
        if self._after_cr and chunk:
            self._after_cr = False
            chunk = chunk.removeprefix(b"\n")
        if b"\r" in chunk:
            self._after_cr = chunk.endswith(b"\r")
            chunk = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        lines = (self._rest + chunk).split(b"\n")
        self._rest = lines.pop()
        payloads: list[bytes] = []
        for line in lines:
            if line:
                self._take(line)
            elif self._data:
                payloads.append(self._data[0] if len(self._data) == 1 else b"\n".join(self._data))
                self._data.clear()
                self._size = 0
        self._check(self._size + len(self._rest))
        return payloads

    def _begin(self, chunk: bytes) -> bytes:
        """Skip the byte order mark, once enough bytes are there to know."""
        chunk = self._rest + chunk
        self._rest = b""
        if len(chunk) < len(BYTE_ORDER_MARK) and BYTE_ORDER_MARK.startswith(chunk):
            self._rest = chunk
            return b""
        self._begun = True
        return chunk.removeprefix(BYTE_ORDER_MARK)

    def _take(self, line: bytes) -> None:
        self._check(self._size + len(line))
        if line.startswith(b"data:"):
            value = line[6:] if line.startswith(b"data: ") else line[5:]
        elif line == b"data":
            value = b""
        else:
            return
        self._data.append(value)
        self._size += len(line)

    def _check(self, size: int) -> None:
        if size > self._max_event_bytes:
            raise EngineError(
                f"the server sent an event of more than {self._max_event_bytes:,} bytes; "
                "that is no piece of an answer: check what listens at this address",
                fault="garbled",
            )
