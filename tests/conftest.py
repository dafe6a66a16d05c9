"""Fixtures for every test."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder of real, licensed test data; the test is skipped where there is none."""
    folder = os.environ.get("MEDSEG_TEST_DATA")
    if not folder:
        pytest.skip("MEDSEG_TEST_DATA is not set: no real data to test on")
    path = Path(folder).resolve()
    if not path.is_dir():
        pytest.fail(f"MEDSEG_TEST_DATA points to {path}, which is no folder")
    return path
