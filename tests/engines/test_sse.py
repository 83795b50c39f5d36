from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage.engines.sse import EventParser
from sage.errors import EngineError

LINES = (b"data: {}", b"data:x", b"data", b"data:  two", b": comment", b"event: end", b"data: [DONE]", b"")
PARTS = (
    *LINES,
    b"\r",
    b"\n",
    b"\r\n",
    b"\n\n",
    b"data: \xc3\xa4\xe2\x82\xac\n\n",
    b"\xc3\xa4",
    b"\xef\xbb\xbf",
)
STREAMS = st.lists(st.sampled_from(PARTS), max_size=30).map(b"".join)


def events(*chunks: bytes) -> list[bytes]:
    parser = EventParser()
    return [payload for chunk in chunks for payload in parser.feed(chunk)]


@pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n"])
def test_lines_end_in_lf_cr_or_crlf(end: bytes) -> None:
    assert events(end.join([b"data: a", b"", b"data: b", b"", b""])) == [b"a", b"b"]


def test_data_lines_of_one_event_are_joined() -> None:
    assert events(b"data: a\ndata:b\ndata\n\n") == [b"a\nb\n"]


def test_comments_and_other_fields_are_skipped() -> None:
    assert events(b": ping\n\nevent: x\nid: 7\nretry: 3\ndata: a\nother\n\n") == [b"a"]


def test_one_byte_order_mark_is_skipped() -> None:
    assert events(b"\xef\xbb", b"\xbfdata: a\n\n") == [b"a"]


def test_only_one_space_after_the_colon_is_dropped() -> None:
    assert events(b"data:  a\n\n") == [b" a"]


def test_an_event_that_does_not_end_is_dropped() -> None:
    assert events(b"data: a\n\ndata: b\n") == [b"a"]


@given(stream=STREAMS, cuts=st.lists(st.integers(0, 200), max_size=12))
def test_any_cut_gives_the_same_events(stream: bytes, cuts: list[int]) -> None:
    places = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    chunks = [stream[begin:end] for begin, end in pairwise(places)]
    assert events(*chunks) == events(stream)


@given(stream=st.binary(max_size=200))
def test_any_bytes_are_taken_one_by_one_as_in_one_chunk(stream: bytes) -> None:
    assert events(*(stream[at : at + 1] for at in range(len(stream)))) == events(stream)


@pytest.mark.parametrize("line", [b"data: " + b"x" * 100, b":" * 101, b"data: 2345678\n" * 9])
def test_an_event_beyond_the_limit_is_garbled_however_it_is_cut(line: bytes) -> None:
    for chunks in ([line], [line[at : at + 7] for at in range(0, len(line), 7)]):
        parser = EventParser(max_event_bytes=100)
        with pytest.raises(EngineError, match="more than 100 bytes") as caught:
            for chunk in chunks:
                parser.feed(chunk)
        assert caught.value.fault == "garbled"


def test_events_below_the_limit_never_add_up() -> None:
    parser = EventParser(max_event_bytes=100)
    assert sum(len(parser.feed(b"data: 0123456789\n\n")) for _ in range(50)) == 50
