from __future__ import annotations

import hashlib
import shutil
import ssl
import urllib.error
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from medseg.data import download as module
from medseg.data.download import Retries, download
from medseg.data.manifest import Checksum
from medseg.errors import ConfigError, InputError, ResourceError

pytestmark = pytest.mark.network

PATIENT = Retries(attempts=3, first_wait_s=0.0)
CONTENT = np.random.default_rng(1).bytes(900_000)


class Counting:
    """Progress that counts what it is told, and may be interrupted."""

    def __init__(self, interrupt_at_mb: float | None = None) -> None:
        self.done: dict[str, float] = {}
        self.totals: dict[str, float | None] = {}
        self._interrupt_at_mb = interrupt_at_mb

    @contextmanager
    def task(self, description: str, total: float | None = None) -> Iterator[Callable[[float], None]]:
        self.done[description], self.totals[description] = 0.0, total

        def advance(amount: float) -> None:
            self.done[description] += amount
            if self._interrupt_at_mb is not None and self.done[description] >= self._interrupt_at_mb:
                raise KeyboardInterrupt

        yield advance

    def note(self, message: str) -> None:
        pass


@pytest.fixture
def target(tmp_path, server) -> Path:
    server.content = CONTENT
    return tmp_path / "archive.tar"


@pytest.fixture
def fetch(server, target):
    def run(**options):
        checksum = Checksum(algorithm="md5", value=options.pop("md5", server.md5))
        return download(server.url, target, **{"checksum": checksum, "retries": PATIENT, **options})

    return run


def leftovers(target: Path) -> list[str]:
    return sorted(path.name for path in target.parent.iterdir() if path != target)


def test_a_whole_download(server, target, fetch):
    progress = Counting()
    assert fetch(progress=progress, size_bytes=len(CONTENT)) == target
    assert target.read_bytes() == CONTENT
    assert leftovers(target) == []
    assert len(server.requests) == 1
    assert progress.done == pytest.approx({"archive.tar (MB)": 0.9, "md5 of archive.tar.part (MB)": 0.9})
    assert progress.totals == pytest.approx(progress.done)


def test_sha256(fetch):
    checksum = Checksum(algorithm="sha256", value=hashlib.sha256(CONTENT).hexdigest())
    assert fetch(checksum=checksum).read_bytes() == CONTENT


def test_an_existing_file_is_replaced_only_by_a_good_one(target, fetch):
    target.write_bytes(b"old")
    with pytest.raises(InputError):
        fetch(md5="0" * 32)
    assert target.read_bytes() == b"old"
    assert fetch().read_bytes() == CONTENT


def test_a_cut_connection_is_resumed_within_the_call(server, fetch):
    server.cuts = [300_000, 200_000]
    assert fetch().read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=300000-", "bytes=500000-"]
    assert server.requests[1]["If-Range"] == '"one"'


def test_cuts_that_each_bring_something_do_not_wear_out_patience(server, fetch):
    server.cuts = [100_000] * 8
    assert fetch().read_bytes() == CONTENT
    assert len(server.requests) == 9


def test_patience_ends_and_the_part_is_kept_for_the_next_call(server, target, fetch):
    server.cuts = [300_000, 0, 0, 0]
    with pytest.raises(ResourceError, match=r"the connection was cut\).*goes on where it stopped") as caught:
        fetch()
    assert caught.value.exit_code == 4
    assert not target.exists()
    assert target.with_name("archive.tar.part").read_bytes() == CONTENT[:300_000]
    server.cuts = []
    before = len(server.requests)
    assert fetch().read_bytes() == CONTENT
    assert server.ranges[before:] == ["bytes=300000-"]
    assert leftovers(target) == []


def test_an_interruption_keeps_the_part(server, target, fetch):
    with pytest.raises(KeyboardInterrupt):
        fetch(progress=Counting(interrupt_at_mb=0.3))
    part = target.with_name("archive.tar.part")
    size = part.stat().st_size
    assert 300_000 <= size < len(CONTENT)
    assert part.read_bytes() == CONTENT[:size]
    progress = Counting()
    assert fetch(progress=progress).read_bytes() == CONTENT
    assert server.ranges[-1] == f"bytes={size}-"
    assert progress.done["archive.tar (MB)"] == pytest.approx(0.9)


def test_a_server_without_ranges_sends_all_again(server, fetch):
    server.knows_ranges = False
    server.cuts = [300_000]
    assert fetch().read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=300000-"]


def test_a_file_that_changed_meanwhile_is_sent_anew(server, fetch):
    server.cuts = [300_000, 0, 0, 0]
    with pytest.raises(ResourceError):
        fetch()
    server.content, server.etag, server.cuts = CONTENT[::-1], '"two"', []
    assert fetch().read_bytes() == CONTENT[::-1]


def test_a_file_that_shrank_is_sent_anew(server, fetch):
    server.etag = None
    server.cuts = [300_000, 0, 0, 0]
    with pytest.raises(ResourceError):
        fetch()
    server.content, server.cuts = CONTENT[:200_000], []
    assert fetch().read_bytes() == CONTENT[:200_000]


def test_without_a_validator_the_checksum_vouches_for_the_halves(server, fetch):
    server.etag = None
    server.cuts = [300_000]
    assert fetch().read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=300000-"]


def test_without_validator_and_checksum_nothing_is_spliced(server, fetch):
    server.etag = None
    server.cuts = [300_000]
    assert fetch(checksum=None).read_bytes() == CONTENT
    assert server.ranges == [None, None]


def test_a_part_of_unknown_origin_is_not_trusted(server, target, fetch):
    target.with_name("archive.tar.part").write_bytes(b"x" * 1000)
    assert fetch().read_bytes() == CONTENT
    assert server.ranges == [None]


@pytest.mark.parametrize("notes", ["{", "[]", '{"url": "http://127.0.0.1/other", "total": 900000}'])
def test_notes_that_make_no_sense_are_not_trusted(server, target, fetch, notes):
    target.with_name("archive.tar.part").write_bytes(b"x" * 1000)
    target.with_name("archive.tar.part.json").write_text(notes)
    assert fetch().read_bytes() == CONTENT
    assert server.ranges == [None]


def test_a_length_that_is_not_announced(server, fetch):
    server.announces_length = False
    assert fetch().read_bytes() == CONTENT


def test_more_than_was_announced_is_not_stored(server, target, fetch):
    server.announces_length = False
    with pytest.raises(ResourceError, match="the server sent more than it announced"):
        fetch(size_bytes=500_000)
    assert leftovers(target) == []


@pytest.mark.parametrize(
    "claim", ["bytes 400000-899999/900000", "bytes 300000-899999/900001", "bytes 300000-899999/*", "300000"]
)
def test_a_part_that_does_not_fit_is_not_spliced(server, target, fetch, claim):
    server.cuts = [300_000]
    server.content_range = claim
    with pytest.raises(ResourceError, match="the server sent another part than was asked for"):
        fetch(retries=Retries(attempts=2, first_wait_s=0.0))
    assert leftovers(target) == []
    assert fetch().read_bytes() == CONTENT


def test_a_wrong_checksum_is_refused_and_the_file_removed(server, target, fetch):
    with pytest.raises(
        InputError, match=f"md5 is {server.md5}, {'0' * 32} is expected; the file was removed"
    ):
        fetch(md5="0" * 32)
    assert not target.exists()
    assert leftovers(target) == []


def test_a_wrong_size_is_refused_before_anything_is_stored(target, fetch):
    with pytest.raises(InputError, match="the server offers 900000 bytes, 900001 are expected"):
        fetch(size_bytes=900_001)
    assert leftovers(target) == []


def test_a_file_that_is_not_there_is_refused_at_once(server, target, fetch):
    server.statuses = [404]
    with pytest.raises(InputError, match="the server answers 404 Not Found") as caught:
        fetch()
    assert server.url in str(caught.value)
    assert len(server.requests) == 1
    assert leftovers(target) == []


def test_a_busy_server_is_asked_again(server, fetch):
    server.statuses = [503, 429]
    assert fetch().read_bytes() == CONTENT
    assert len(server.requests) == 3


def test_a_server_that_stays_busy_is_given_up(server, fetch):
    server.statuses = [500] * 9
    with pytest.raises(ResourceError, match="the server answers 500"):
        fetch()
    assert len(server.requests) == PATIENT.attempts


def test_nobody_listening(target):
    with pytest.raises(ResourceError, match="cannot be fetched"):
        download("http://127.0.0.1:9/archive.tar", target, retries=Retries(attempts=2, first_wait_s=0.0))


def test_a_pause_between_tries_doubles(server, fetch, monkeypatch):
    pauses: list[float] = []
    monkeypatch.setattr(module.time, "sleep", pauses.append)
    server.statuses = [503] * 9
    with pytest.raises(ResourceError):
        fetch(retries=Retries(attempts=4, first_wait_s=0.5))
    assert pauses == [0.5, 1.0, 2.0]


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/a.tar", "file:///etc/passwd", "a.tar", "data:,a"])
def test_other_schemes_are_refused(target, url):
    with pytest.raises(ConfigError, match="is neither http nor https"):
        download(url, target)


@pytest.mark.parametrize("elsewhere", ["file:///etc/passwd", "ftp://127.0.0.1/a.tar"])
def test_a_redirect_to_another_scheme_is_not_followed(server, target, fetch, elsewhere):
    server.redirect = elsewhere
    with pytest.raises((InputError, ResourceError)):
        fetch()
    assert not target.exists()


def test_a_full_disk_is_noticed_before_the_download(server, target, fetch, monkeypatch):
    usage = shutil.disk_usage(target.parent)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(ResourceError, match="GB are still to come"):
        fetch()
    assert len(server.requests) == 1
    assert leftovers(target) == []


def test_an_untrusted_certificate_is_not_tried_again(target, monkeypatch):
    error = ssl.SSLCertVerificationError(1, "self-signed")
    error.verify_message = "self-signed certificate"
    calls: list[int] = []

    class Opener:
        def open(self, *_: object, **__: object) -> None:
            calls.append(1)
            raise urllib.error.URLError(error)

    monkeypatch.setattr(module, "_opener", Opener)
    with pytest.raises(InputError, match="certificate is not trusted"):
        download("https://127.0.0.1/a.tar", target, retries=PATIENT)
    assert len(calls) == 1
