"""Tiny datasets, and a web server on this machine that can be made to fail."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

SHAPE = (6, 5, 4)


def save_nifti(array: Any, path: Path, affine: Any = None) -> Path:
    """Write with nibabel, independently of medseg's own writer."""
    path.parent.mkdir(parents=True, exist_ok=True)
    voxels = np.asarray(array, np.uint8) if isinstance(array, list) else array
    nib.save(nib.Nifti1Image(voxels, np.eye(4) if affine is None else affine), path)
    return path


@pytest.fixture
def nifti() -> Callable[..., Path]:
    return save_nifti


@pytest.fixture
def decathlon(tmp_path: Path) -> Path:
    """Six sound cases in the Decathlon's layout, classes 0, 1, 2."""
    folder = tmp_path / "Task99_Tiny"
    names = [f"tiny_{index:03d}.nii.gz" for index in range(6)]
    rng = np.random.default_rng(0)
    for name in names:
        save_nifti(rng.normal(100.0, 20.0, SHAPE).astype(np.float32), folder / "imagesTr" / name)
        label = np.zeros(SHAPE, np.uint8)
        label[1:3], label[3:5] = 1, 2
        save_nifti(label, folder / "labelsTr" / name)
    description = {
        "name": "Tiny",
        "modality": {"0": "MRI"},
        "labels": {"0": "background", "1": "front", "2": "back"},
        "numTraining": len(names),
        "numTest": 0,
        "training": [{"image": f"./imagesTr/{n}", "label": f"./labelsTr/{n}"} for n in reversed(names)],
        "test": [],
    }
    (folder / "dataset.json").write_text(json.dumps(description))
    return folder


@pytest.fixture
def edit_json() -> Callable[..., Path]:
    """Change keys of a JSON file; a value of ``None`` removes the key."""

    def edit(path: Path, **changes: Any) -> Path:
        content = json.loads(path.read_text())
        for key, value in changes.items():
            if value is None:
                content.pop(key, None)
            else:
                content[key] = value
        path.write_text(json.dumps(content))
        return path

    return edit


@dataclass
class FaultyServer:
    """What the server serves, how it misbehaves, and what it was asked."""

    content: bytes = b""
    etag: str | None = '"one"'
    knows_ranges: bool = True
    announces_length: bool = True
    cuts: list[int] = field(default_factory=list)
    """After how many bytes the connection is cut, for each answer in turn; then no more."""
    statuses: list[int] = field(default_factory=list)
    """Statuses to answer with first."""
    redirect: str | None = None
    content_range: str | None = None
    """What to claim in place of the true ``Content-Range``."""
    requests: list[dict[str, str]] = field(default_factory=list)
    url: str = ""

    @property
    def ranges(self) -> list[str | None]:
        return [request.get("Range") for request in self.requests]

    @property
    def md5(self) -> str:
        return hashlib.md5(self.content, usedforsecurity=False).hexdigest()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyServer]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    state = FaultyServer()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.requests.append(dict(self.headers.items()))
            if state.statuses:
                self.send_error(state.statuses.pop(0))
                return
            if state.redirect is not None:
                self.send_response(302)
                self.send_header("Location", state.redirect)
                self.end_headers()
                return
            self._answer(self._start())

        def _start(self) -> int:
            wanted = self.headers.get("Range")
            unchanged = self.headers.get("If-Range") in (None, state.etag)
            if wanted is None or not state.knows_ranges or not unchanged:
                return 0
            return int(wanted.removeprefix("bytes=").removesuffix("-"))

        def _answer(self, start: int) -> None:
            total = len(state.content)
            if start >= total > 0:
                self.send_error(416)
                return
            self.send_response(206 if start else 200)
            if start:
                truth = f"bytes {start}-{total - 1}/{total}"
                self.send_header("Content-Range", state.content_range or truth)
            if state.announces_length:
                self.send_header("Content-Length", str(total - start))
            if state.etag is not None:
                self.send_header("ETag", state.etag)
            self.end_headers()
            stop = start + state.cuts.pop(0) if state.cuts else total
            self.wfile.write(state.content[start:stop])

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        state.url = f"http://127.0.0.1:{running.server_port}/archive.tar"
        try:
            yield state
        finally:
            running.shutdown()
            thread.join()
