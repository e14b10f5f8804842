"""A run that is killed and resumed, again and again, ends as one that was left alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from kill_and_resume import kill_and_resume


@pytest.mark.slow
def test_four_kills(tmp_path: Path) -> None:
    counts = kill_and_resume(tmp_path, kills=4)
    assert sum(counts.values()) == 4
    assert counts["while a checkpoint was being written"] == 2
