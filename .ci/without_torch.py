"""Print what pyproject.toml requires for the tests, a requirement a line, except torch, DALI and NVRTC."""

import tomllib
from pathlib import Path

project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text("utf-8"))["project"]
wanted = [*project["dependencies"], *project["optional-dependencies"]["test"]]
print("\n".join(each for each in wanted if not each.startswith(("torch", "nvidia-", "dali-pipes["))))
