"""The tree explains the program: who may import whom, how long a module may be, and that nothing is unpickled."""

import ast
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODULES = sorted([*ROOT.glob("dali_pipes/**/*.py"), *ROOT.glob("cache/**/*.py")])

ALLOWED = {
    "cache": set(),
    "compiled": set(),
    "cores": {"cache"},
    "errors": set(),
    "names": set(),
    "privacy": set(),
    "rec601": set(),
    "spelling": {"errors"},
    "files": {"errors", "cache"},
    "draws": {"errors", "spelling"},
    "decode": {"errors", "compiled", "rec601"},
    "arithmetic": {"errors", "compiled", "rec601"},
    "manifest": {"errors", "privacy", "files", "decode"},
    "served": {"recipe", "serving"},
    "recipe": {"errors", "names", "spelling", "decode", "draws", "served"},
    "fetch": {"errors", "cache", "files", "manifest", "decode", "arithmetic", "draws", "recipe"},
    "finish": {"errors", "compiled", "arithmetic", "draws", "recipe"},
    "backends": {"errors", "names", "decode", "arithmetic", "draws", "recipe", "fetch", "finish"},
    "loader": {
        *("errors", "spelling", "cores", "cache", "manifest", "draws", "recipe", "fetch", "finish", "backends"),
    },
}
"""A room, and the rooms it may import besides itself. What stands on top (`cli`, `parity`...) may import anything."""

THIRD_PARTY = {
    "nvidia": {"dali_pipes.backends.graphs", "dali_pipes.backends.dali", "dali_pipes.dali"},
    "cupy": {"dali_pipes.arithmetic.kernels", "dali_pipes.backends.cuda", "dali_pipes.cache.pin"},
    "torch": {"dali_pipes", "dali_pipes.cache.tensor"},
    "pydicom": {"dali_pipes.tools.demo"},
}
"""A heavy or rare library, and the only modules (by prefix) that may import it."""


def name_of(path: Path) -> str:
    """The name under which a module is imported; the folder `cache` is linked into `dali_pipes`."""
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    return f"dali_pipes.{name}" if name.split(".")[0] == "cache" else name


def imports(path: Path, typing: bool = True) -> set[str]:
    """Everything that a module imports; without ``typing``, only what is imported when it runs."""
    package = name_of(path).split(".") if path.name == "__init__.py" else name_of(path).split(".")[:-1]
    found: set[str] = set()
    tree = ast.parse(path.read_text("utf-8"))
    unused = {
        each
        for node in ast.walk(tree)
        if not typing and isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for each in ast.walk(node)
    }
    for node in ast.walk(tree):
        if node in unused:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            found |= {f"{module}.{alias.name}" for alias in node.names} | {module}
    return found


def room_of(name: str) -> str | None:
    parts = name.split(".")
    return parts[1] if parts[0] == "dali_pipes" and len(parts) > 1 else None


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_follow_the_flow(path: Path) -> None:
    name = name_of(path)
    rule = ALLOWED.get(room_of(name) or "")
    if rule is None:
        return
    known = {entry.stem for entry in (ROOT / "dali_pipes").iterdir()}
    used = {room for room in map(room_of, imports(path)) if room in known}
    assert used - {room_of(name)} <= rule, f"{name} may not import {sorted(used - {room_of(name)} - rule)}"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_heavy_libraries_stay_in_their_modules(path: Path) -> None:
    name = name_of(path)
    for library, homes in THIRD_PARTY.items():
        if any(used.split(".")[0] == library for used in imports(path)):
            assert any(name == home or name.startswith((home + ".", home + "_")) for home in homes), (
                f"{name}: {library}"
            )


def test_backends_do_not_import_each_other() -> None:
    torch_backend = imports(ROOT / "dali_pipes/backends/torch.py")
    dali_backend = imports(ROOT / "dali_pipes/backends/dali.py")
    assert not any(name.startswith("dali_pipes.backends.dali") for name in torch_backend)
    assert not any(name.startswith("dali_pipes.backends.torch") for name in dali_backend)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_modules_are_short_and_documented(path: Path) -> None:
    text = path.read_text("utf-8")
    assert len(text.splitlines()) <= 400
    assert ast.get_docstring(ast.parse(text)), f"{name_of(path)} has no docstring"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_nothing_is_unpickled(path: Path) -> None:
    tree = ast.parse(path.read_text("utf-8"))
    assert not {name.split(".")[0] for name in imports(path)} & {
        "pickle",
        "cPickle",
        "dill",
        "shelve",
        "marshal",
        "joblib",
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            given = {word.arg: word.value for word in node.keywords}
            if node.func.attr == "load" and ast.unparse(node.func.value) in {"np", "numpy"}:
                assert ast.unparse(given.get("allow_pickle", ast.Constant(False))) == "False"
            if node.func.attr == "load" and ast.unparse(node.func.value) == "torch":
                assert ast.unparse(given.get("weights_only", ast.Constant(False))) == "True"


def test_no_import_circles() -> None:
    """Imports within functions count too: a circle that is put off is still one."""
    names = {name_of(path) for path in MODULES}
    arrows = {}
    for path in MODULES:
        used = imports(path, typing=False) & names - {name_of(path)}
        inner = {name.rpartition(".")[0] for name in used}  # "from package import module" uses the module
        arrows[name_of(path)] = {name for name in used if name not in inner}
    assert [group for group in circles(arrows) if set(group) not in PUT_OFF] == []


PUT_OFF = (
    {"dali_pipes.manifest.concat", "dali_pipes.manifest.manifest", "dali_pipes.manifest.studies"},
    {"dali_pipes.crew.parent", "dali_pipes.integrations.ray", "dali_pipes.warming"},
    {
        f"dali_pipes.{name}"
        for name in ["recipe", "served", "serving", "fetch.bases", "finish.finish", "finish.plans", "backends.layout"]
    },
)
"""Groups that are closed by an import within a function: a method that makes another class, an engine by name, a
recipe that serves.
"""


def circles(arrows: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules that import each other (Tarjan's strongly connected components)."""
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        order[name] = low[name] = len(order)
        stack.append(name)
        for other in sorted(arrows[name]):
            if other not in order:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], order[other])
        if low[name] == order[name]:
            at = stack.index(name)
            group, stack[at:] = stack[at:], []
            if len(group) > 1:
                found.append(sorted(group))

    for name in sorted(arrows):
        if name not in order:
            visit(name)
    return found


def test_circles_are_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": set()}) == [["b", "c"]]


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_stores_are_not_probed(path: Path) -> None:
    """What a store can do is what its base class says."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("hasattr", "getattr"):
            asked = ast.unparse(node.args[0]).split(".")[-1].lstrip("_")
            assert asked not in ("store", "disk", "base", "memory", "folder", "cache"), ast.unparse(node)


def test_the_cache_is_imported_as_part_of_the_package() -> None:
    """A module `cache.py` of a user's own must not stand in the way of ours."""
    for path in [
        *MODULES,
        *ROOT.glob("tests/**/*.py"),
        *ROOT.glob("benchmarks/**/*.py"),
        *ROOT.glob("examples/**/*.py"),
    ]:
        absolute = {name.split(".")[0] for name in imports(path)}
        assert "cache" not in absolute, f"{path}: import dali_pipes.cache"


def test_no_two_modules_of_tests_share_a_name() -> None:
    """pytest imports them by their bare names: a second one of a name ends the collection of the whole suite."""
    found = Counter(path.name for path in (ROOT / "tests").rglob("*.py"))
    assert {name for name, count in found.items() if count > 1} <= {"conftest.py", "__init__.py"}
