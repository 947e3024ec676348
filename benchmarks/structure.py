"""What the package is made of, in figures to be watched: a picture of its structure, and no aim.

    python -m benchmarks.structure

Counted in the sources: lines, files, functions, knobs, results without a type, markup in strings.
One of them is measured: how many of the package's functions stand between the entry of `train` and
the cross-entropy of the first step, in a run of the embedded model.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import io
import os
import re
import sys
import tempfile
import tokenize
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "lora_whisper"
MARKUP = re.compile(r"</?[a-z]+[^<>]*>|^\s*[\w.#:@*, >-]+\{|^\s*[a-z-]+:\s[^{}]+;|^\s*[#|] ")
Function = ast.FunctionDef | ast.AsyncFunctionDef


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    print("| | is |\n|---|---|")
    for name, figure in figures().items():
        print(f"| {name} | {figure} |")


def figures() -> dict[str, str]:
    files = sorted(PACKAGE.rglob("*.py"))
    trees = {path: ast.parse(path.read_text()) for path in files}
    functions = [
        one for tree in trees.values() for one in ast.walk(tree) if isinstance(one, Function)
    ]
    imports = sum(len(list(imports_in(tree))) for tree in trees.values())
    code = sum(len(code_lines(path)) for path in files)
    configuration = [tree for path, tree in trees.items() if path.parent.name == "config"]
    once = private_and_used_once(trees.values(), functions)
    return {
        "lines": f"{sum(map(lines_of, files)):,}",
        "files": f"{len(files)}",
        "files with a leading underscore": f"{sum(is_underscored(path) for path in files)}",
        "functions per 100 code lines": f"{100 * len(functions) / code:.1f}",
        "functions that are private and used once": f"{once / len(functions):.0%}",
        "imports inside functions": f"{sum(len(list(imports_in(one))) for one in functions)}",
        "imports, share of all code lines": f"{imports / code:.1%}",
        "calls from the entry of train to the cross-entropy": f"{calls_to_cross_entropy()}",
        "files that name a configuration's class": f"{sum(map(names_config, trees.values()))}",
        "dict[str, Any], evaluation and commands": f"{untyped(files)}",
        "lines of markup in strings": f"{sum(map(markup_lines, trees.values()))}",
        "configuration fields": f"{sum(map(configuration_fields, configuration))}",
        "lines of tests": f"{sum(lines_of(path) for path in (ROOT / 'tests').rglob('*.py')):,}",
    }


def imports_in(node: ast.AST) -> Iterator[ast.AST]:
    return (one for one in ast.walk(node) if isinstance(one, ast.Import | ast.ImportFrom))


def is_underscored(path: Path) -> bool:
    return path.name.startswith("_") and path.name not in ("__init__.py", "__main__.py")


def lines_of(path: Path) -> int:
    return len(path.read_text().splitlines())


def code_lines(path: Path) -> set[int]:
    """Numbers of the lines that hold more than a comment or a docstring."""
    beside = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT)
    source = path.read_text()
    found: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in (*beside, tokenize.ENDMARKER):
            found |= set(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and is_docstring(body[0]):
            found -= set(range(body[0].lineno, body[0].end_lineno + 1))
    return found


def is_docstring(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def private_and_used_once(trees: Iterable[ast.Module], functions: list[Function]) -> int:
    """How many functions have a name with a leading underscore that stands in one other place."""
    used: Counter[str] = Counter()
    for tree in trees:
        used.update(named_in(tree))
    names = [one.name for one in functions if re.match("_[^_]", one.name)]
    return sum(used[name] <= 1 for name in names)


def named_in(tree: ast.Module) -> Iterable[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.ImportFrom):
            yield from (alias.name for alias in node.names)


def names_config(tree: ast.Module) -> bool:
    """Whether a class of config/, such as TrainConfig, is imported there."""
    return any(
        isinstance(node, ast.ImportFrom)
        and (node.module or "").startswith("lora_whisper.config")
        and any(alias.name.endswith("Config") for alias in node.names)
        for node in ast.walk(tree)
    )


def untyped(files: list[Path]) -> int:
    held = ("commands", "cli", "evaluation", "reports")
    texts = (path.read_text() for path in files if path.relative_to(PACKAGE).parts[0] in held)
    return sum(text.count("dict[str, Any]") for text in texts)


def markup_lines(tree: ast.Module) -> int:
    """Lines of HTML, CSS, JavaScript and Markdown in strings of several lines."""
    docstrings = {
        id(body[0].value)
        for node in ast.walk(tree)
        if isinstance(body := getattr(node, "body", None), list) and body and is_docstring(body[0])
    }
    strings = [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and "\n" in node.value
        and id(node) not in docstrings
    ]
    marked = [text for text in strings if sum(map(is_marked, text.splitlines())) >= 2]
    return sum(len([line for line in text.splitlines() if line.strip()]) for text in marked)


def is_marked(line: str) -> bool:
    return MARKUP.search(line) is not None


def configuration_fields(tree: ast.Module) -> int:
    """Fields of a file's groups, each once: where it is defined, not taken over."""
    groups = [
        node
        for node in tree.body
        if isinstance(node, ast.ClassDef)
        and any(getattr(one, "id", "") == "group" for one in node.decorator_list)
    ]
    return sum(isinstance(node, ast.AnnAssign) for one in groups for node in one.body)


def calls_to_cross_entropy() -> int:
    """Frames of the package between `main` of the command and the loss of the first window."""
    import torch

    from lora_whisper.__main__ import carry_out

    depths: list[int] = []
    cross_entropy = torch.nn.functional.cross_entropy

    def counted(*given: Any, **named: Any) -> Any:
        depths.append(frames_of_package(sys._getframe(1)))
        return cross_entropy(*given, **named)

    settings = ["experiment=quickstart", "name=depth", "data.test=null", "data.validation=null"]
    torch.nn.functional.cross_entropy = counted
    here = Path.cwd()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        os.chdir(folder)
        try:
            carry_out("train", [*settings, "training.max_steps=1"])
        finally:
            os.chdir(here)
            torch.nn.functional.cross_entropy = cross_entropy
    return min(depths)


def frames_of_package(frame: Any) -> int:
    count = 0
    while frame is not None:
        count += frame.f_code.co_filename.startswith(f"{PACKAGE}{os.sep}")
        frame = frame.f_back
    return count


if __name__ == "__main__":
    main()
