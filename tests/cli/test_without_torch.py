"""What is answered without torch, which takes seconds to import: all of it in one process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from lora_whisper.evaluation.run_summary import write_summary
from tests.cli.toy_run import toy_run

LINES = [  # what is typed, the exit code, and part of the answer
    (["trian"], 2, "train"),
    (["train", "name=a", "adapter.rnak=1"], 2, "Did you mean adapter.rank?"),
    (["train", "name=a", "data.train=gone.jsonl"], 2, "gone.jsonl"),
    (["evaluate", "run=nowhere"], 2, "nowhere"),
    (["check", "--help"], 0, "strict: false"),
    (["adapters", "--help"], 0, "--json"),
    (["adapters", "toy"], 0, "toy"),
]
SCRIPT = """
import contextlib, io, json, sys
from lora_whisper.__main__ import main

for words in json.loads(sys.argv[1]):
    sys.argv, said, code = ["lora-whisper", *words], io.StringIO(), None
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            main()
        except SystemExit as end:
            code = end.code
    print(json.dumps([code, said.getvalue(), [*{"torch", "transformers"} & {*sys.modules}]]))
"""


def test_these_are_answered_without_torch(tmp_path: Path) -> None:
    write_summary(*toy_run(tmp_path / "toy"))
    typed = json.dumps([words for words, *_ in LINES])
    command = [sys.executable, "-c", SCRIPT, typed]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(answers) == len(LINES), done.stderr
    for (words, code, part), (found, said, heavy) in zip(LINES, answers, strict=True):
        assert (found, heavy) == (code, []), (words, said)
        assert part in said, words
