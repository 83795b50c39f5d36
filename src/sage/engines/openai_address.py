"""The addresses of OpenAI-compatible servers: ``openai:http://host:port/v1?option=value``."""

from __future__ import annotations

import math
from typing import Any, Literal
from urllib.parse import urlencode, urlsplit

import msgspec

from sage.engines.base import Address
from sage.engines.openai_wire import OUR_FIELDS, Api, Listed
from sage.errors import EngineError, InputError, nearest

__all__ = ["Options", "base_url", "chosen_model", "shown"]


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What an address may say after the question mark."""

    model: str | None = None  # None: the first that the server lists
    limit: int = 64  # calls at once
    timeout_s: float = 120.0  # to the first token, or to the whole answer of an embedding call
    stall_s: float = 60.0  # between two tokens
    api: Api = "chat"  # "embeddings": a server that only embeds
    metrics_s: float = 0.0  # ask the server's /metrics so often; 0: never
    usage: Literal["end", "each"] = "end"  # when the server is asked for token counts
    extra: str = ""  # a JSON object of further fields of a generation, such as {"ignore_eos": true}

    @classmethod
    def read(cls, address: Address) -> Options:
        """The options of an address.

        Raises:
            InputError: an unknown option, or a value out of range.
        """
        address.refuse_unknown_options(*cls.__struct_fields__)
        try:
            options = msgspec.convert(dict(address.options), cls, strict=False)
        except msgspec.ValidationError as error:
            raise InputError(
                f"engine {shown(address)!r} has an option that cannot be read: {error}"
            ) from error
        for name in ("limit", "timeout_s", "stall_s"):
            value = getattr(options, name)
            if not (0 < value < math.inf):
                raise InputError(f"engine {shown(address)!r}: {name} is {value:g}, expected a number above 0")
        options.further()
        return options

    def further(self) -> bytes:
        """``extra`` as it goes into a request; empty if there is nothing.

        Raises:
            InputError: it is no JSON object, or has a field that SAGE writes itself.
        """
        if not self.extra:
            return b""
        try:
            said = msgspec.json.decode(self.extra, type=dict[str, Any])
        except (msgspec.MsgspecError, UnicodeEncodeError) as error:
            raise InputError(
                f"engine option extra={self.extra!r} is no JSON object: {error}; "
                'write one such as {"ignore_eos": true}'
            ) from error
        ours = sorted(said.keys() & OUR_FIELDS)
        if ours:
            raise InputError(f"engine option extra has {ours[0]!r}, which the step says; leave it out there")
        return msgspec.json.encode(said) if said else b""


def base_url(address: Address) -> str:
    """The URL that the paths of the protocol are appended to.

    >>> base_url(Address("openai", "http://127.0.0.1:8000/v1/", {}))
    'http://127.0.0.1:8000/v1'

    Raises:
        InputError: no http(s) URL, or one with a user or password in it.
    """
    wanted = "expected openai:http://host:port/v1 or openai:https://…"
    try:
        parts = urlsplit(address.target)
        _ = parts.port
    except ValueError as error:
        raise InputError(f"{shown(address)!r} holds no URL: {error}; {wanted}") from None
    if "@" in parts.netloc:
        raise InputError(
            "an engine address holds a user or password; take it out and set OPENAI_API_KEY instead, "
            "because addresses are shown in logs"
        )
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise InputError(f"{shown(address)!r} holds no URL; {wanted}")
    return address.target.rstrip("/")


def shown(address: Address) -> str:
    """An address as the user wrote it."""
    options = urlencode(address.options, safe="/:")
    return f"{address.scheme}:{address.target}" + (f"?{options}" if options else "")


def chosen_model(model: str | None, listed: list[Listed] | None) -> str:
    """The model to ask for: the one named, checked against the list if there is one; else the first listed."""
    if listed is None:
        assert model is not None  # without a list, a name was required
        return model
    names = [found.id for found in listed]
    if model is None and not names:
        raise EngineError(
            "the server lists no model; load one there, or name one with ?model=", fault="refused"
        )
    if model is not None and model not in names:
        raise EngineError(f"the server has no model {model!r}: {nearest(model, names)}", fault="refused")
    return names[0] if model is None else model
