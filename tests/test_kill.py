"""A run that is killed and resumed, again and again, ends as one that was left alone."""

from __future__ import annotations

from pathlib import Path

from kill_and_resume import kill_and_resume


def test_three_kills(tmp_path: Path) -> None:
    counts = kill_and_resume(tmp_path, kills=3)
    assert sum(counts.values()) == 3
    assert counts["while a checkpoint was being written"] >= 1
