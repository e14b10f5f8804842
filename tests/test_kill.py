"""A run that is killed and resumed, again and again, ends as one that was left alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from kill_and_resume import kill_and_resume


def test_a_kill_while_a_checkpoint_is_written(tmp_path: Path) -> None:
    counts = kill_and_resume(tmp_path, kills=1)
    assert counts == {"while a checkpoint was being written": 1, "elsewhere": 0, "after the end": 0}


@pytest.mark.slow
def test_six_kills(tmp_path: Path) -> None:
    counts = kill_and_resume(tmp_path, kills=6)
    assert sum(counts.values()) == 6
    assert counts["while a checkpoint was being written"] == 3
