"""One file over HTTP: streamed, resumed where it broke off, verified."""

from __future__ import annotations

import http.client
import json
import re
import shutil
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from medseg import __version__
from medseg.data.manifest import Checksum
from medseg.errors import ConfigError, InputError, ResourceError, explain_os_errors
from medseg.files import write_json
from medseg.progress import Progress, SilentProgress

__all__ = ["Retries", "download", "verify"]

_CHUNK_BYTES = 1 << 18
_MEGABYTE = 1e6
_TIMEOUT_S = 60.0
_TRANSIENT_STATUS = {408, 425, 429, 500, 502, 503, 504}
_NETWORK_ERRORS = (OSError, http.client.HTTPException)


@dataclass(frozen=True)
class Retries:
    """How often a failing connection is tried again.

    Attributes:
        attempts: Tries in a row that bring not a single byte, before giving up.
        first_wait_s: Pause before the second try, in seconds; it doubles with each further one.
    """

    attempts: int = 5
    first_wait_s: float = 1.0

    def wait_s(self, failures: int) -> float:
        """Pause after so many failures in a row.

        Example:
            >>> [Retries().wait_s(failures) for failures in (1, 2, 3)]
            [1.0, 2.0, 4.0]
        """
        return self.first_wait_s * 2.0 ** (failures - 1)


def download(
    url: str,
    target: Path,
    *,
    size_bytes: int | None = None,
    checksum: Checksum | None = None,
    progress: Progress | None = None,
    retries: Retries | None = None,
) -> Path:
    """Fetch ``url`` to ``target``.

    Bytes are collected in ``target`` + ``.part``. That file outlives an interruption, and the next call asks
    the server only for what is missing (HTTP ``Range``, with ``If-Range`` so that a file that has changed
    meanwhile starts anew); a server that knows no ranges starts anew as well. ``target`` appears when size
    and checksum are right, and not before.

    Args:
        url: An ``http`` or ``https`` address; redirects lead nowhere else.
        target: The final path; an existing file is replaced.
        size_bytes: The size that the file must have, if known.
        checksum: The digest that the file must have.
        progress: Counts megabytes.
        retries: Patience with a failing connection.

    Returns:
        ``target``.

    Raises:
        ConfigError: Another scheme than http and https.
        InputError: The server refuses, or the file is not the expected one; a wrong file is removed.
        ResourceError: The connection keeps failing, or the disk is full; what has arrived is kept.
    """
    if urlsplit(url).scheme not in ("http", "https"):
        raise ConfigError("is neither http nor https", where=url, fix="give a web address")
    transfer = _Transfer(
        url,
        _beside(target, ".part"),
        size_bytes,
        progress or SilentProgress(),
        is_verified=checksum is not None,
    )
    _persist(transfer, retries or Retries())
    if checksum is not None:
        try:
            verify(transfer.part, checksum, progress or SilentProgress())
        except InputError as error:
            transfer.discard()
            raise InputError(
                f"{error.what}; the file was removed", where=url, fix="fetch it again, or tell its publisher"
            ) from error
    with explain_os_errors(target):
        transfer.part.replace(target)
    transfer.discard()
    return target


def verify(path: Path, checksum: Checksum, progress: Progress) -> None:
    """Compare a file's digest.

    Raises:
        InputError: It is another one.
    """
    hasher = checksum.hasher()
    with explain_os_errors(path), path.open("rb") as handle:
        total_mb = path.stat().st_size / _MEGABYTE
        with progress.task(f"{checksum.algorithm} of {path.name} (MB)", total_mb) as advance:
            while chunk := handle.read(_CHUNK_BYTES):
                hasher.update(chunk)
                advance(len(chunk) / _MEGABYTE)
    if hasher.hexdigest() != checksum.value:
        raise InputError(
            f"{checksum.algorithm} is {hasher.hexdigest()}, {checksum.value} is expected", where=path
        )


class _TransientError(Exception):
    """The connection failed in a way that another try may mend."""


def _persist(transfer: _Transfer, retries: Retries) -> None:
    failures = 0
    while not transfer.is_complete():
        before = transfer.received_bytes()
        try:
            transfer.attempt()
        except _TransientError as error:
            failures = 1 if transfer.received_bytes() > before else failures + 1
            if failures >= retries.attempts:
                raise ResourceError(
                    f"cannot be fetched ({error})",
                    where=transfer.url,
                    fix="check the connection and run the same command again; it goes on where it stopped",
                ) from error
            time.sleep(retries.wait_s(failures))


class _Transfer:
    """The partial file, and what is known about the whole one.

    What the server said (size, validator) is kept in a small file beside the partial one: without a
    validator a later process could not tell whether the two halves belong together.
    """

    def __init__(
        self, url: str, part: Path, size_bytes: int | None, progress: Progress, *, is_verified: bool
    ) -> None:
        self.url = url
        self.part = part
        self.progress = progress
        self._is_verified = is_verified
        self._declared = size_bytes
        self._notes = _beside(part, ".json")
        self._total, self._validator = self._read_notes()

    def received_bytes(self) -> int:
        return self.part.stat().st_size if self.part.is_file() else 0

    def is_complete(self) -> bool:
        return self._total is not None and self.received_bytes() == self._total

    def discard(self) -> None:
        with explain_os_errors(self.part):
            self.part.unlink(missing_ok=True)
            self._notes.unlink(missing_ok=True)

    def _forget(self) -> None:
        self.discard()
        self._total = self._validator = None

    def attempt(self) -> None:
        """One request; whatever arrives is kept."""
        have = self.received_bytes()
        request = urllib.request.Request(
            self.url,
            headers={"User-Agent": f"medseg/{__version__}", "Accept-Encoding": "identity"},
        )
        # Halves are put together only if the server or the checksum will tell when they do not match.
        if have and self._total is not None and (self._validator is not None or self._is_verified):
            request.add_header("Range", f"bytes={have}-")
            if self._validator is not None:
                request.add_header("If-Range", self._validator)
        with self._open(request) as response:
            start = self._agree(response, have)
            self._receive(response, start)

    def _open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        try:
            return _opener().open(request, timeout=_TIMEOUT_S)  # type: ignore[no-any-return]
        except urllib.error.HTTPError as error:
            error.close()
            reason = f"the server answers {error.code} {error.reason}"
            if error.code == 416:  # the part is longer than the file has become
                self._forget()
                raise _TransientError(reason) from error
            if error.code in _TRANSIENT_STATUS:
                raise _TransientError(reason) from error
            raise InputError(reason, where=self.url, fix="check the address in the manifest") from error
        except urllib.error.URLError as error:
            if isinstance(error.reason, ssl.SSLCertVerificationError):
                raise InputError(
                    f"the server's certificate is not trusted ({error.reason.verify_message})",
                    where=self.url,
                    fix="check the clock and the certificates of this machine",
                ) from error
            raise _TransientError(str(error.reason)) from error
        except _NETWORK_ERRORS as error:
            raise _TransientError(_describe(error)) from error

    def _agree(self, response: http.client.HTTPResponse, have: int) -> int:
        """Where the answer's bytes belong; checks the size before any of them is stored."""
        start, total = 0, _content_length(response)
        if response.status == http.HTTPStatus.PARTIAL_CONTENT:
            start, total = _content_range(response)
            if start > have or total != self._total:
                self._forget()
                raise _TransientError("the server sent another part than was asked for")
        if total is not None and self._declared is not None and total != self._declared:
            raise InputError(
                f"the server offers {total} bytes, {self._declared} are expected",
                where=self.url,
                fix="fetch it again later, or tell its publisher",
            )
        self._total = self._declared if total is None else total
        self._validator = _validator(response)
        _require_space(self.part.parent, (self._total or 0) - start, self.url)
        write_json({"url": self.url, "total": self._total, "validator": self._validator}, self._notes)
        return start

    def _receive(self, response: http.client.HTTPResponse, start: int) -> None:
        total_mb = None if self._total is None else self._total / _MEGABYTE
        name = self.part.name.removesuffix(".part")
        with explain_os_errors(self.part), self.part.open("r+b" if start else "wb") as handle:
            handle.seek(start)
            handle.truncate()
            with self.progress.task(f"{name} (MB)", total_mb) as advance:
                advance(start / _MEGABYTE)
                for chunk in iter(_reader(response), b""):
                    handle.write(chunk)
                    advance(len(chunk) / _MEGABYTE)
                    if self._total is not None and handle.tell() > self._total:
                        self._forget()
                        raise _TransientError("the server sent more than it announced")
            received = handle.tell()
        if self._total is None:
            self._total = received
        elif received < self._total:
            raise _TransientError("the connection was cut")

    def _read_notes(self) -> tuple[int | None, str | None]:
        """Size and validator as noted by an earlier run for the same address, if they can be trusted."""
        if not self._notes.is_file() or not self.part.is_file():
            return None, None
        try:
            notes = json.loads(self._notes.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None, None  # start anew
        if not isinstance(notes, dict) or notes.get("url") != self.url:
            return None, None
        total, validator = notes.get("total"), notes.get("validator")
        return (
            total if isinstance(total, int) and self._declared in (None, total) else None,
            validator if isinstance(validator, str) and validator.isprintable() else None,
        )


def _opener() -> urllib.request.OpenerDirector:
    """An opener that knows http and https only: urllib's own would follow a redirect to ftp."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.UnknownHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPRedirectHandler(),
        urllib.request.HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    return opener


def _reader(response: http.client.HTTPResponse) -> Callable[[], bytes]:
    def read() -> bytes:
        try:
            return response.read1(_CHUNK_BYTES)
        except _NETWORK_ERRORS as error:
            raise _TransientError(_describe(error)) from error

    return read


def _describe(error: BaseException) -> str:
    return str(error) or type(error).__name__


def _content_length(response: http.client.HTTPResponse) -> int | None:
    text = response.headers.get("Content-Length", "")
    return int(text) if text.isascii() and text.isdigit() else None


def _content_range(response: http.client.HTTPResponse) -> tuple[int, int | None]:
    """Where the part begins, and how long the whole is; where it does not say, nothing that would fit."""
    text = response.headers.get("Content-Range", "").strip()
    match = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", text, flags=re.ASCII)
    return (0, None) if match is None else (int(match[1]), int(match[2]))


def _validator(response: http.client.HTTPResponse) -> str | None:
    """What ``If-Range`` may hold: a strong entity tag, else the date of the last change."""
    tag: str | None = response.headers.get("ETag")
    if tag is not None and not tag.startswith("W/"):
        return tag
    return response.headers.get("Last-Modified")


def _require_space(folder: Path, needed_bytes: int, url: str) -> None:
    free = shutil.disk_usage(folder).free
    if needed_bytes > free:
        raise ResourceError(
            f"{needed_bytes / 1e9:.1f} GB are still to come, {free / 1e9:.1f} GB are free in {folder}",
            where=url,
            fix="free some space or fetch to another disk",
        )


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)
