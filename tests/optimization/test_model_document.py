"""docs/model.md shows a worked example and what it prints: it does print that."""

import contextlib
import io
import re
from pathlib import Path

DOCUMENT = Path(__file__).parents[2] / "docs" / "model.md"


def test_the_worked_example_prints_what_the_document_says() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    code, printed = re.search(r"```python\n(.*?)```\n\nprints\n\n```\n(.*?)```", text, re.DOTALL).groups()  # type: ignore[union-attr]
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(compile(code, str(DOCUMENT), "exec"), {})
    assert said.getvalue() == printed
