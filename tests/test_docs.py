"""The code in the pages on parity and recipes runs as it stands."""

import re
from pathlib import Path

import pytest
from archives import noise
from make_images import jpeg

DOCS = Path(__file__).parent.parent / "docs"


@pytest.mark.parametrize("page", ["parity", "recipe"])
def test_the_code_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "photo.jpg").write_bytes(jpeg(noise(1, 700, 600)))
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / f"{page}.md").read_text("utf-8"), re.DOTALL)
    assert blocks
    for code in blocks:
        exec(compile(code, f"docs/{page}.md", "exec"), {})
