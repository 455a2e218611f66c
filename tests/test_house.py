"""The house rules of the design, over the syntax tree of every file: who may import what, and what is never done."""

import ast
from collections import Counter
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ["launch", "train", "decode", "data_prep", "model"]  # each may import those to its right
OUTSIDE = ["slam_asr", "recipes", "bench", "tests"]  # they may import any room, and no room imports them
OWNERS = {
    "deepspeed": {"train/engine/engine.py", "train/engine/checkpoint.py"},
    "soundfile": {"data_prep/audio/decode.py"},
    "torchaudio": {"data_prep/audio/decode.py"},
    "webdataset": {"bench/loaders.py", "data_prep/inspect/check.py"},
    "miniaudio": {"data_prep/audio/decode.py"},
}
UNPICKLERS = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
NEVER_CALLED = {  # each runs, or may run, what is in data
    *("torch.load", "torch.save", "os.system", "os.popen", "eval", "exec"),
    *("yaml.load", "yaml.load_all", "yaml.full_load", "yaml.unsafe_load"),
}
MAY_CALL = {
    "decode/vllm/payload.py": {"torch.save"},  # vLLM's format of prompt embeddings; written, never read
    "decode/importing/torch_file.py": {"torch.load"},  # once, of weights only
}
MAX_FILE_LINES, MAX_FUNCTION_LINES, MAX_MODULES = 300, 60, 14
SUB_PACKAGES = {  # each may import those to its right; "" are the modules of the folder itself
    "data_prep": (
        *("inspect", "features", "rework", "build", "exporters", "importers", "synth", "recordings", "shards"),
        *("remote", "audio", ""),
    ),
    "train": ("", "report", "engine", "data", "liveness", "recipe", "dist"),
}
EMPTY_NAMES = {"utils", "util", "common", "helpers", "helper", "base", "misc"}


def python_files(*folders: str) -> list[Path]:
    return [file for folder in folders for file in sorted((ROOT / folder).rglob("*.py"))]


def name_of(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


OURS = [pytest.param(file, id=name_of(file)) for file in python_files(*ROOMS, "slam_asr", "recipes", "bench")]
EVERY = [pytest.param(file, id=name_of(file)) for file in python_files(*ROOMS, *OUTSIDE)]


def imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import; write the flat name"
            yield node.module or ""


@pytest.mark.parametrize("file", OURS)
def test_imports_point_one_way_and_have_their_owners(file):
    name, packages = name_of(file), {module.split(".")[0] for module in imported(ast.parse(file.read_text()))}
    room = name.split("/")[0]
    forbidden = {*ROOMS[: ROOMS.index(room)], *OUTSIDE} if room in ROOMS else {"tests"}
    forbidden |= {package for package, owners in OWNERS.items() if name not in owners}
    assert not packages & (forbidden - {room})


@pytest.mark.parametrize("file", OURS)
def test_nothing_runs_what_is_in_data(file):
    tree = ast.parse(file.read_text())
    assert not {module.split(".")[0] for module in imported(tree)} & UNPICKLERS
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    assert not {ast.unparse(call.func) for call in calls} & (NEVER_CALLED - MAY_CALL.get(name_of(file), set()))
    loads = [call for call in calls if ast.unparse(call.func) == "torch.load"]
    assert len(loads) <= 1
    assert all(("weights_only", "True") in {(k.arg, ast.unparse(k.value)) for k in call.keywords} for call in loads)
    true = {keyword.arg for call in calls for keyword in call.keywords if ast.unparse(keyword.value) == "True"}
    assert not true & {"shell", "allow_pickle"}


@pytest.mark.parametrize("file", EVERY)
def test_a_file_does_one_job(file):
    text = file.read_text()
    assert file.stem not in EMPTY_NAMES and file.parent.name not in EMPTY_NAMES
    assert len(text.splitlines()) <= MAX_FILE_LINES
    functions = [n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    assert not [f.name for f in functions if (f.end_lineno or f.lineno) - f.lineno >= MAX_FUNCTION_LINES]


def test_no_folder_of_tests_is_passed_over(pytestconfig):
    folders = {file.parent.name for file in (ROOT / "tests").rglob("test_*.py")}
    patterns = pytestconfig.getini("norecursedirs")
    assert {name for name in folders if any(fnmatch(name, pattern) for pattern in patterns)} == set()


def test_setup_lists_every_package_and_no_other():
    call = next(n for n in ast.walk(ast.parse((ROOT / "setup.py").read_text())) if isinstance(n, ast.Call))
    listed = next(ast.literal_eval(keyword.value) for keyword in call.keywords if keyword.arg == "packages")
    found = [
        file.parent.relative_to(ROOT)
        for file in python_files(*ROOMS, "slam_asr", "recipes")
        if file.name == "__init__.py"
    ]
    assert sorted(listed) == sorted(".".join(folder.parts) for folder in found)


def test_a_package_says_what_it_is_for_and_a_room_imports_nothing_by_itself():
    packages = [file for file in python_files(*ROOMS) if file.name == "__init__.py"]
    assert not [name_of(file) for file in packages if not ast.get_docstring(ast.parse(file.read_text()))]
    assert not [room for room in ROOMS if list(imported(ast.parse((ROOT / room / "__init__.py").read_text())))]


def test_no_folder_has_more_than_fourteen_modules():
    modules = Counter(name_of(file.parent) for file in python_files(*ROOMS) if file.name != "__init__.py")
    assert {folder: number for folder, number in modules.items() if number > MAX_MODULES} == {}


def test_sub_packages_import_downwards():
    upwards = [
        f"{module} -> {target}"
        for module, targets in import_graph().items()
        for target in targets
        for room, order in SUB_PACKAGES.items()
        if module.startswith(f"{room}.") and target.startswith(f"{room}.")
        if order.index(sub_package(module)) > order.index(sub_package(target))
    ]
    assert not upwards


def sub_package(module: str) -> str:
    """The sub-package of its room that a module is in; "" of one in the room's own folder."""
    room, inner, *_ = module.split(".")
    return inner if (ROOT / room / inner).is_dir() else ""


def test_no_circle_of_imports_anywhere():
    """Functions' own imports count too. Whatever imports nothing that is left goes, until only circles are."""
    left = import_graph()
    while gone := {module for module, targets in left.items() if not targets & left.keys()}:
        left = {module: targets for module, targets in left.items() if module not in gone}
    assert not left


def import_graph() -> dict[str, set[str]]:
    """{module: modules of the project that it imports}; a package is its __init__."""
    files = {name_of(file)[:-3].removesuffix("/__init__").replace("/", "."): file for file in python_files(*ROOMS)}
    graph = {}
    for module, file in files.items():
        names = [
            name
            for node in ast.walk(ast.parse(file.read_text()))
            for name in (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [f"{node.module}.{alias.name}" for alias in node.names]
                if isinstance(node, ast.ImportFrom)
                else []
            )
        ]
        targets = {name if name in files else name.rpartition(".")[0] for name in names}
        graph[module] = {target for target in targets if target in files} - {module}
    return graph
