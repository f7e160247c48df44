"""The command of docs/calibration.md that draws one market from tape to parameters."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_command_of_the_docs_draws_its_picture(tmp_path: Path) -> None:
    command = "python benchmarks/calibration_example.py --out example.png"
    assert f"`{command}`" in (ROOT / "docs" / "calibration.md").read_text()
    asked = [sys.executable, str(ROOT / "benchmarks" / "calibration_example.py"), "--out", "example.png"]
    done = subprocess.run(asked, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "picture: example.png" in done.stdout
    assert (tmp_path / "example.png").read_bytes().startswith(b"\x89PNG")
