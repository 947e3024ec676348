"""Every file of a run is written whole: the sources are searched for any other way to write."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import lora_whisper

PACKAGE = Path(lora_whisper.__file__).parent
METHODS = {
    "write_text",
    "write_bytes",
    "touch",
    "savefig",
    "save_pretrained",
    "rename",
    "symlink_to",
}
MODES = {"w", "a", "x", "wb", "ab", "xb", "wt", "at", "r+", "r+b", "rb+", "w+", "w+b", "a+"}
CALLS = {
    "json.dump",
    "pickle.dump",
    "np.save",
    "np.savez",
    "torch.save",
    "save_file",
    "OmegaConf.save",
    "soundfile.write",
    "os.replace",
    "os.rename",
    "shutil.copy",
    "shutil.copy2",
    "shutil.copyfile",
    "shutil.copytree",
    "shutil.move",
}
INTO_WHOLE = "into the folder that `written_whole` gives its caller"
IN_MEMORY = "into memory, for one who writes it whole"
LOCK = "a lock, which is empty"
CACHE = "a cache, which is written anew where it is damaged"
# By file, each function that writes otherwise, and why it may.
ALLOWED = {
    "files.py": {
        "_write": "what the others are made of",
        "write_whole": "the one for files",
        "_put_in_place": "the one for folders",
        "tidy": "what a killed process had put aside is put back",
        "remove_folder": "a folder that goes away, whole",
        "append_jsonl": "a line or nothing",
        "reserve": INTO_WHOLE,
    },
    "locks.py": {"locked": LOCK, "require_free": LOCK},
    "reports/data_check.py": {"write": INTO_WHOLE},
    "cli/workers.py": {"_free_place": LOCK},
    "cli/doctor.py": {"_audio": "a trial, in a folder for the moment"},
    "data/quality_measures.py": {"measure_sounds": "for its own processes"},
    "data/durations.py": {"of": CACHE},
    "data/isolation.py": {"serve": "into nothing"},
    "data/augmentation.py": {"write_examples": INTO_WHOLE},
    "data/audio.py": {"encode_mp3": IN_MEMORY},
    "data/dataset.py": {"published": CACHE},
    "data/encoded.py": {"index_bytes": IN_MEMORY},
    "evaluation/decoding/cache.py": {"decoded_by_one": LOCK},
    "evaluation/robustness.py": {"_wav": IN_MEMORY},
    "export/adapter.py": {"write": INTO_WHOLE},
    "export/whisper_cpp.py": {"write": INTO_WHOLE},
    "export/huggingface.py": dict.fromkeys(
        ("_write_json", "_write_tokenizer", "_written_meanwhile"), INTO_WHOLE
    ),
    "export/onnx.py": {"write": INTO_WHOLE},
    "export/openai_whisper.py": {"write": INTO_WHOLE},
    "lora/adapter.py": {"save_adapter": INTO_WHOLE},
    "lora/delta_weights.py": {"write_delta_weights": INTO_WHOLE},
    "recording/collection.py": {"flac": IN_MEMORY},
    "training/checkpoints.py": {"_set_aside": "a damaged checkpoint gets another name"},
    "training/encoder_cache.py": {"_computed": INTO_WHOLE},
    "training/resume.py": {"write_rows": IN_MEMORY},
}


def test_every_file_is_written_whole() -> None:
    found = {
        (str(path.relative_to(PACKAGE)), name)
        for path in sorted(PACKAGE.rglob("*.py"))
        for name in writers(ast.parse(path.read_text(encoding="utf-8")))
    }
    allowed = {(file, name) for file, names in ALLOWED.items() for name in names}
    assert found - allowed == set(), "write with write_whole, written_whole or write_json"
    assert allowed - found == set(), "writes no more"


def test_what_is_searched_for_is_found() -> None:
    for text in (
        "def f(p):\n p.write_text('x')",
        "def f(p):\n with open(p, 'w') as h: h.write('x')",
        "def f(p):\n p.open(mode='ab')",
        "def f(p):\n shutil.copy(p, 'b')",
        "class A:\n def f(self, p):\n  json.dump({}, open(p, 'x'))",
    ):
        assert [*writers(ast.parse(text))][:1] == ["f"]
    whole = "def f(p):\n with written_whole(p) as aside, open(aside / 'a', 'w') as h: h.write('')"
    for text in (whole, "def f(p):\n open(p); p.open('rb'); 'a'.replace('b', 'c')"):
        assert not [*writers(ast.parse(text))]


def writers(tree: ast.Module) -> Iterator[str]:
    """The innermost function around each call that writes, but inside `with written_whole(…)`."""
    yield from _writers(tree, "module", False)


def _writers(node: ast.AST, function: str, is_whole: bool) -> Iterator[str]:
    if isinstance(node, ast.FunctionDef):
        function = node.name
    if isinstance(node, ast.With):
        called = [ast.unparse(item.context_expr).split("(")[0] for item in node.items]
        is_whole = is_whole or "written_whole" in called
    if isinstance(node, ast.Call) and not is_whole and _writes(node):
        yield function
    for child in ast.iter_child_nodes(node):
        yield from _writers(child, function, is_whole)


def _writes(call: ast.Call) -> bool:
    called = ast.unparse(call.func)
    method = called.rpartition(".")[2]
    if method in ("open", "fdopen"):
        named = [one.value for one in call.keywords if one.arg == "mode"]
        modes = [one.value for one in [*call.args, *named] if isinstance(one, ast.Constant)]
        return any(
            isinstance(mode, str) and set(mode) & set("wax+") and len(mode) < 4 for mode in modes
        )
    return called in CALLS or (method in METHODS and "." in called)
