"""Model files on a hub that speaks the Hugging Face protocol: ``hf:owner/repo[@revision][/path/in/repo]``.

The hub states a hash of every file in its answer's headers: sha256 of large ones (``X-Linked-Etag``), the git
blob id of small ones (``ETag``). What arrives is checked against it; without one nothing is kept.
"""

from __future__ import annotations

import hashlib
import http.client
import re
import urllib.error
import urllib.request
from collections.abc import Iterable
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote, urlsplit

from sage.engines.models_files import ModelFile, Progress, copy_hashed
from sage.errors import InputError, SetupError
from sage.settings import environment

__all__ = ["HubReference", "fetch_files", "parse_hub_reference"]

HUB = "https://huggingface.co"
TIMEOUT_S = 30.0
MAX_BYTES = 1 << 40
#: What a reference without a path stands for: a folder for `bert:`. The second list may be missing.
BERT_FILES = ("config.json", "tokenizer.json", "model.safetensors")
BERT_EXTRAS = ("modules.json", "sentence_bert_config.json", "1_Pooling/config.json")

_REFERENCE = re.compile(
    r"hf:(?P<owner>[\w-][\w.-]*)/(?P<repo>[\w-][\w.-]*)(?:@(?P<revision>[\w-][\w.-]*))?(?:/(?P<path>.+))?",
    re.ASCII,
)
_SHA256 = re.compile(r"[0-9a-f]{64}")
_GIT_BLOB = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, slots=True)
class HubReference:
    """A file of a repository on the hub; ``path`` None: the files of a BERT-family embedder."""

    owner: str
    repo: str
    revision: str = "main"
    path: str | None = None

    @property
    def place(self) -> str:
        """Where its revision is kept, below the folder of models."""
        return f"hf/{self.owner}/{self.repo}/{self.revision}"

    @property
    def required(self) -> tuple[str, ...]:
        """Files that must be there."""
        return BERT_FILES if self.path is None else (self.path,)

    @property
    def optional(self) -> tuple[str, ...]:
        """Files that are taken if the repository has them."""
        return BERT_EXTRAS if self.path is None else ()


@dataclass(frozen=True, slots=True)
class Stated:
    """What the hub's headers say of a file."""

    hash: str  # 64 hex digits: sha256 of the content; 40: sha1 as git makes it
    size_bytes: int | None


class NotThere(Exception):  # noqa: N818 - no failure: an optional file may be missing
    """The hub does not have the file."""


def parse_hub_reference(text: str) -> HubReference:
    """Split an ``hf:`` reference.

    >>> parse_hub_reference("hf:org/model-GGUF@v1/q4/model.gguf").path
    'q4/model.gguf'

    Raises:
        InputError: it is not one, or its path leaves the repository.
    """
    match = _REFERENCE.fullmatch(text)
    path = match["path"] if match else None
    if match is None or (path is not None and not _is_plain(path)):
        raise InputError(
            f"{text!r} is no hub reference; write hf:owner/repo/path/to/file.gguf, "
            "hf:owner/repo@revision/path, or hf:owner/repo for an embedder"
        )
    return HubReference(match["owner"], match["repo"], match["revision"] or "main", path)


def fetch_files(reference: HubReference, scratch: Path, progress: Progress) -> list[ModelFile]:
    """Download a reference's files into ``scratch``, small ones first, each checked.

    Raises:
        SetupError: the hub does not answer, refuses, lacks a required file, or sent another one.
    """
    fetched: list[ModelFile] = []
    wanted = [(name, False) for name in reference.optional] + [(name, True) for name in reference.required]
    for name, is_required in wanted:
        done_bytes = sum(file.size_bytes for file in fetched)
        try:
            fetched.append(_fetch(reference, name, scratch, _after(done_bytes, progress)))
        except NotThere as error:
            if is_required:
                raise SetupError(
                    f"{_hub()} has no {name} in {reference.owner}/{reference.repo} at revision "
                    f"{reference.revision!r}; check the spelling, and HF_TOKEN if the repository is private"
                ) from error
    return fetched


def _fetch(reference: HubReference, name: str, scratch: Path, progress: Progress) -> ModelFile:
    url = f"{_hub()}/{reference.owner}/{reference.repo}/resolve/{quote(reference.revision, safe='')}/{quote(name)}"
    headers = {"User-Agent": "sage-dataflow", "Accept-Encoding": "identity"}
    request = urllib.request.Request(url, headers=headers)  # noqa: S310 - the scheme is checked in _hub
    token = environment("HF_TOKEN")
    if token is not None:
        request.add_unredirected_header("Authorization", f"Bearer {token}")
    redirects = _Redirects()
    try:
        with urllib.request.build_opener(redirects).open(request, timeout=TIMEOUT_S) as answer:
            stated = _stated([*redirects.seen, answer.headers], name)
            total = stated.size_bytes
            got = copy_hashed(answer, scratch, name, MAX_BYTES, lambda done, _: progress(done, total))
    except urllib.error.HTTPError as error:
        error.close()
        if error.code in {404, 410}:
            raise NotThere(name) from error
        raise SetupError(f"the hub refused {name}: {_refusal(error.code)}") from error
    except http.client.HTTPException as error:
        raise SetupError(f"{_hub()} broke off while sending {name}: {error!r}; try again") from error
    except OSError as error:
        if error.filename is not None:  # a file of ours, not the network
            raise
        reason = getattr(error, "reason", None) or error
        raise SetupError(f"{_hub()} does not answer: {reason}; check the network and HF_ENDPOINT") from error
    _check(got, stated, scratch)
    return got


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects, keeps their headers, and shows the key to nobody but the hub."""

    def __init__(self) -> None:
        self.seen: list[Message] = []

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        self.seen.append(headers)
        old, new = urlsplit(req.full_url), urlsplit(newurl)
        if new.scheme not in {old.scheme, "https"}:
            raise SetupError(f"the hub redirects from {old.scheme} to {new.scheme}, which is not safe")
        request = super().redirect_request(req, fp, code, msg, headers, newurl)
        if request is not None and (old.scheme, old.netloc) == (new.scheme, new.netloc):
            for name, value in req.unredirected_hdrs.items():
                request.add_unredirected_header(name, value)
        return request


def _stated(headers: Iterable[Message], name: str) -> Stated:
    """The hub's own statement: the first one, before it redirects to a store."""
    known = list(headers)
    for field in ("X-Linked-Etag", "ETag"):
        for one in known:
            tag = str(one.get(field, "")).removeprefix("W/").strip('"').lower()
            if _SHA256.fullmatch(tag) or (field == "ETag" and _GIT_BLOB.fullmatch(tag)):
                length = str(one.get("X-Linked-Size") or known[-1].get("Content-Length") or "")
                return Stated(tag, int(length) if length.isdecimal() else None)
    raise SetupError(
        f"{_hub()} states no hash of {name}, so it cannot be checked; is HF_ENDPOINT a hub? Or download the file "
        "yourself and name its path"
    )


def _check(got: ModelFile, stated: Stated, scratch: Path) -> None:
    if stated.size_bytes is not None and got.size_bytes != stated.size_bytes:
        raise SetupError(
            f"the download of {got.name} broke off after {got.size_bytes:,} of {stated.size_bytes:,} bytes; try again"
        )
    if len(stated.hash) == 64:
        found = got.sha256
    else:
        with (scratch / got.name).open("rb") as file:
            digest = hashlib.sha1(b"blob %d\0" % got.size_bytes, usedforsecurity=False)
            while chunk := file.read(1 << 20):
                digest.update(chunk)
        found = digest.hexdigest()
    if found != stated.hash:
        raise SetupError(
            f"{got.name} arrived with hash {found}, the hub says {stated.hash}; try again, and check what stands between"
        )


def _hub() -> str:
    endpoint = (environment("HF_ENDPOINT") or HUB).rstrip("/")
    if urlsplit(endpoint).scheme not in {"http", "https"} or not urlsplit(endpoint).netloc:
        raise InputError(f"HF_ENDPOINT is {endpoint!r}, expected an address such as {HUB}")
    return endpoint


def _refusal(status: int) -> str:
    if status in {401, 403}:
        return f"status {status}; set HF_TOKEN to a key that may read this repository"
    return f"status {status}" + ("; try again later" if status == 429 or status >= 500 else "")


def _after(done_bytes: int, progress: Progress) -> Progress:
    """A progress that counts what came before."""
    return lambda done, total: progress(done_bytes + done, None if total is None else done_bytes + total)


def _is_plain(path: str) -> bool:
    """Whether a path stays below where it starts, whatever the system."""
    return (
        "\\" not in path and "\0" not in path and all(part not in {"", ".", ".."} for part in path.split("/"))
    )
