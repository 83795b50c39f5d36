"""What an emulated engine is like: profiles, built in or from files, and the lengths of its answers."""

from __future__ import annotations

import math
import os
import re
import tomllib
import zlib
from collections.abc import Callable
from pathlib import Path
from statistics import NormalDist

import msgspec

from sage.engines.emulated_steps import Capacity, StepTimes
from sage.errors import InputError
from sage.registry import Registry

__all__ = ["PROFILES", "EmbedTimes", "FixedTimes", "Profile", "answer_lengths", "load_profile"]

SCHEMA_VERSION = 1
MAX_BYTES = 1 << 20


class EmbedTimes(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An embedder: one call after another, each of so many seconds."""

    call_s: float  # of any call
    token_s: float = 0.0  # per token of all its texts
    dimension: int = 64  # of the vectors


class FixedTimes(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A server whose calls do not slow each other down."""

    first_token_s: float
    token_s: float = 0.0  # per further token


class Profile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long an engine takes. Either ``step`` (continuous batching) or ``fixed``, or ``embed``, or two of them."""

    name: str
    source: str  # where the figures come from
    schema_version: int = SCHEMA_VERSION
    step: StepTimes | None = None
    fixed: FixedTimes | None = None
    embed: EmbedTimes | None = None
    capacity: Capacity = Capacity()
    chars_per_token: float = 4.0  # prompts are measured and answers written by this

    def __post_init__(self) -> None:
        wrong = _wrong(self)
        if wrong:
            raise ValueError(wrong)  # msgspec says where it was


def _wrong(profile: Profile) -> str | None:
    capacity = profile.capacity
    if profile.step is not None and profile.fixed is not None:
        return "says both step and fixed; keep one"
    if profile.step is None and profile.fixed is None and profile.embed is None:
        return "says no times; give step, fixed or embed"
    for times in (profile.step, profile.fixed, profile.embed):
        for name, value in msgspec.structs.asdict(times).items() if times is not None else ():
            if not 0 <= value < math.inf:
                return f"says {name} = {value}, expected a number that is not negative"
    if profile.step is not None and profile.step.a_s + profile.step.c_s <= 0:
        return "says steps that take no time; give a_s or c_s"
    for name, value in msgspec.structs.asdict(capacity).items():
        if value < 1:
            return f"says {name} = {value}, expected at least 1"
    if capacity.max_step_tokens < capacity.max_seqs:
        return f"says max_step_tokens = {capacity.max_step_tokens}, expected at least max_seqs = {capacity.max_seqs}"
    if not 0 < profile.chars_per_token < math.inf:
        return f"says chars_per_token = {profile.chars_per_token}, expected a number above 0"
    if profile.embed is not None and profile.embed.dimension < 1:
        return f"says dimension = {profile.embed.dimension}, expected at least 1"
    return None


#: Built-in profiles, by name.
PROFILES: Registry[Profile] = Registry("profile")
PROFILES["constant"] = Profile(
    name="constant",
    source="made up: every call takes one second, whatever else the engine does",
    fixed=FixedTimes(first_token_s=1.0),
    embed=EmbedTimes(call_s=0.01),
    capacity=Capacity(max_seqs=64),
)
PROFILES["unhurried"] = Profile(
    name="unhurried",
    source=(
        "made up: eight sequences, and steps of at least 20 ms, so slow and so few that several such engines behind HTTP "
        "keep to these times on a machine with two cores"
    ),
    step=StepTimes(a_s=0.02, b_s=2e-5, c_s=3e-4, d_s=1e-7),
    embed=EmbedTimes(call_s=0.01, token_s=2e-5),
    capacity=Capacity(max_seqs=8, max_step_tokens=2048, kv_tokens=100_000),
)
PROFILES["vllm-llama-3.1-8b"] = Profile(
    name="vllm-llama-3.1-8b",
    source=(
        "fitted with sage bench calibrate to 300 requests that vLLM 0.19 served with Llama-3.1-8B in bfloat16 on one "
        "RTX PRO 6000, an example run published with LLMServingSim; cache size from its memory: 96 GB x 0.9, less "
        "16 GB of weights, at 131 kB a token; an embedder beside it is made up"
    ),
    step=StepTimes(a_s=0.0133, b_s=4.057e-5, c_s=6.4e-6, d_s=9.797e-8),
    embed=EmbedTimes(call_s=0.004, token_s=2e-5, dimension=384),
    capacity=Capacity(max_seqs=128, max_step_tokens=2048, kv_tokens=530_000),
)


def load_profile(name: str) -> Profile:
    """A built-in profile by its name, or one from a ``.toml`` or ``.json`` file.

    >>> load_profile("constant").fixed
    FixedTimes(first_token_s=1.0, token_s=0.0)

    Raises:
        InputError: no such profile or file, or it is of another schema.
    """
    path = Path(name)
    if path.suffix.lower() not in {".toml", ".json"}:
        return PROFILES[name]
    try:
        if path.stat().st_size > MAX_BYTES:
            raise InputError(f"{path}: is larger than {MAX_BYTES >> 20} MiB; that is no profile")
        content = path.read_bytes()
        is_toml = path.suffix.lower() == ".toml"
        said = tomllib.loads(content.decode("utf-8")) if is_toml else msgspec.json.decode(content)
        version = said.get("schema_version", SCHEMA_VERSION) if isinstance(said, dict) else SCHEMA_VERSION
        if version != SCHEMA_VERSION:
            raise InputError(
                f"{path}: is a profile of another schema, {version!r}; this SAGE reads {SCHEMA_VERSION}"
            )
        return msgspec.convert(said, Profile)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({os.strerror(error.errno or 0)})") from error
    except (msgspec.MsgspecError, tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{path}: is no profile of an engine: {error}") from error


# --- how long answers are ------------------------------------------------------------------------------

_LOGNORMAL = re.compile(r"lognormal\((?P<median>[\d.]+),(?P<sigma>[\d.]+)\)")
_UNIFORM = re.compile(r"uniform\((?P<low>\d+),(?P<high>\d+)\)")
_UNIT = 1 / (1 << 32)


def answer_lengths(said: str, seed: int) -> Callable[[str, int], int]:
    """From (prompt, ``max_tokens``) to the tokens of its answer, at least 1 and at most ``max_tokens``.

    ``max``: as long as allowed. ``120``: always so long. ``uniform(10,200)`` and ``lognormal(120,0.8)`` (median,
    sigma) draw by a hash of the seed and the prompt: equal prompts get answers of equal length, whatever the
    order in which they are asked.

    >>> length = answer_lengths("lognormal(120,0.8)", seed=7)
    >>> length("why?", 1000) == length("why?", 1000)
    True

    Raises:
        InputError: it is none of these.
    """
    text = said.replace(" ", "")
    if text == "max":
        return lambda _prompt, max_tokens: max_tokens
    if text.isdecimal() and int(text) >= 1:
        fixed = int(text)
        return lambda _prompt, max_tokens: min(fixed, max_tokens)
    if (found := _UNIFORM.fullmatch(text)) and 1 <= int(found["low"]) <= int(found["high"]):
        low, width = int(found["low"]), int(found["high"]) - int(found["low"]) + 1
        return lambda prompt, most: min(low + int(_share(prompt, seed) * width), most)
    if (found := _LOGNORMAL.fullmatch(text)) and _is_number(found["median"]) and _is_number(found["sigma"]):
        normal = NormalDist(math.log(float(found["median"])), float(found["sigma"]))
        return lambda prompt, most: max(1, min(round(math.exp(normal.inv_cdf(_share(prompt, seed)))), most))
    raise InputError(
        f"answer length {said!r} is none of 'max', a number, 'uniform(LOW,HIGH)' and 'lognormal(MEDIAN,SIGMA)'"
    )


def _is_number(text: str) -> bool:
    return text.count(".") <= 1 and text != "." and float(text) > 0


def _share(prompt: str, seed: int) -> float:
    """A number between 0 and 1, both excluded, by the prompt and the seed."""
    crc = zlib.crc32(prompt.encode(), seed & 0xFFFFFFFF)
    mixed = (crc ^ (crc >> 16)) * 0x45D9F3B & 0xFFFFFFFF
    mixed = (mixed ^ (mixed >> 16)) * 0x45D9F3B & 0xFFFFFFFF
    return ((mixed ^ (mixed >> 16)) + 0.5) * _UNIT
