"""The Python files of an exported folder: modeling_slam_asr.py, and every module of this project that it needs.

A folder is opened where this project is not installed. So that its transcripts are those of this version by
construction, the files are this project's own modules, each whole. transformers copies a file and those that it imports
by `from .name import ...` from one folder, so the modules lie side by side, named by their paths (model/prompt.py is
model_prompt.py), and these imports are all that is changed."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[3]  # of the project, or of the installed packages
ROOMS = ("data_prep", "decode", "model")
ENTRY = "decode.export.hugging_face.modeling_slam_asr"
HEADER = """\
# SPDX-License-Identifier: Apache-2.0 (https://www.apache.org/licenses/LICENSE-2.0)
# {path} of slam-asr, written by `slam-asr export --format hf`; only the imports are changed.
"""
NEEDS_PEFT = '''

def _needs_peft() -> None:
    """Never called: transformers names the packages imported anywhere in this file, if they are missing."""
    import peft  # noqa
'''


def remote_code(needs_peft: bool = False) -> dict[str, str]:
    """{file name: source} of the entry and all that it imports, directly or not."""
    files, left = dict[str, str](), [ENTRY]
    while left:
        name = left.pop()
        if flat_name(name) not in files:
            files[flat_name(name)], imported = _rewritten(name)
            left += imported
    files[flat_name(ENTRY)] += NEEDS_PEFT if needs_peft else ""
    return dict(sorted(files.items()))


def flat_name(module: str) -> str:
    """The file of a module: `model_encoders_whisper.py` of model.encoders.whisper."""
    return f"{_flat(module)}.py"


def _flat(module: str) -> str:
    return module.rpartition(".")[2] if module == ENTRY else module.replace(".", "_")


def _rewritten(module: str) -> tuple[str, list[str]]:
    """The source of a module with relative imports, and the modules of this project that it imports."""
    file = _file(module)
    assert file is not None, f"{module} is not a module of this project"
    text, imported = file.read_text("utf-8"), []
    lines = text.splitlines(keepends=True)
    for node in _imports(ast.parse(text)):
        assert isinstance(node, ast.ImportFrom), f"{file}:{node.lineno}: transformers follows `from ... import` only"
        source, names = str(node.module), ", ".join(map(ast.unparse, node.names))
        modules = [alias.name for alias in node.names if _file(f"{source}.{alias.name}")]
        assert not modules, f"{file}:{node.lineno}: imports the module {modules}; import names of it"
        indent = " " * node.col_offset
        lines[node.lineno - 1] = f"{indent}from .{_flat(source)} import {names}  # noqa\n"
        lines[node.lineno : node.end_lineno] = [""] * ((node.end_lineno or node.lineno) - node.lineno)
        imported.append(source)
    return HEADER.format(path=file.relative_to(ROOT).as_posix()) + "".join(lines), imported


def _imports(tree: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """Imports of modules of this project, also those inside functions."""
    for node in ast.walk(tree):
        names = [str(node.module)] if isinstance(node, ast.ImportFrom) else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if any(name.split(".")[0] in ROOMS for name in names):
            assert isinstance(node, ast.Import | ast.ImportFrom)
            yield node


def _file(module: str) -> Path | None:
    place = ROOT.joinpath(*module.split("."))
    files = (place.with_suffix(".py"), place / "__init__.py")
    return next((file for file in files if file.is_file()), None)
