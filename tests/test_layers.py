"""The house has floors: a folder imports only from those below it, and no file imports itself by a detour."""

from __future__ import annotations

import ast
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "gentrain"

# From the ground up. The docstring of each folder's __init__ says what lives there.
FLOORS = (
    "errors",
    "config",
    "images",
    "runtime",
    "anime",
    "viz",
    "data.reading",
    "data",
    "data.sources",
    "models",
    "runs",
    "metrics",
    "training",
    "analysis",
    "comparison",
    "sweeps",
    "tuning",
    "tasks",
    "cli",
)
FACE = ("gentrain", "gentrain.__main__")  # may import from anywhere


def modules() -> dict[str, Path]:
    found = {}
    for file in PACKAGE.rglob("*.py"):
        parts = ["gentrain", *file.relative_to(PACKAGE).with_suffix("").parts]
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


def imports(file: Path, known: dict[str, Path]) -> set[str]:
    """The gentrain modules that a file names in imports, wherever in it they stand."""
    named = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            named |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                named.add(whole if whole in known else node.module)
    return named & known.keys()


def arrows() -> dict[str, set[str]]:
    known = modules()
    return {name: imports(file, known) - {name} for name, file in known.items()}


def floor(module: str) -> int:
    """The number of the most exact entry of FLOORS that a module lies in."""
    name = module.removeprefix("gentrain.")
    fitting = [entry for entry in FLOORS if name == entry or name.startswith(f"{entry}.")]
    return FLOORS.index(max(fitting, key=len))


def test_a_folder_imports_from_below_alone() -> None:
    upward = [
        f"{name} imports {other}"
        for name, others in arrows().items()
        if name not in FACE
        for other in others - {"gentrain"}
        if floor(other) > floor(name)
    ]
    assert upward == []


def test_no_file_imports_itself_by_a_detour() -> None:
    graph = {name: others - set(FACE) for name, others in arrows().items()}
    while (
        graph
    ):  # take away those that import nothing that is left: what remains is in a circle, or above one
        free = {name for name, others in graph.items() if not others & graph.keys()}
        assert free, f"a circle among {sorted(graph)}"
        graph = {name: others for name, others in graph.items() if name not in free}


def test_every_folder_has_a_floor_and_says_what_lives_there() -> None:
    folders = [name for name, file in modules().items() if file.name == "__init__.py" and name != "gentrain"]
    assert {name.removeprefix("gentrain.").split(".")[0] for name in folders} <= set(FLOORS)
    for name in folders:
        assert ast.get_docstring(ast.parse(modules()[name].read_text())), name


def test_the_face_of_the_package_is_small() -> None:
    assert len(list(PACKAGE.glob("*.py"))) <= 6
