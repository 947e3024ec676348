"""What users see of a checkout, as files: two checkouts that behave alike give the same folder.

    python -m benchmarks.golden CHECKOUT FOLDER
    diff -r FOLDER OTHER_FOLDER

Run it in two checkouts on one machine, before and after code moved. Recorded are the configuration
of every command and experiment, every help text, the answers to wrong input, and of a short run of
the embedded model, its merge, evaluation, sweep and check: hashes of the weights, the JSON, the
tables, and the text of each page. What differs between any two runs is masked: times, sizes of
processes, folders.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

COMMANDS = ("check", "train", "search", "evaluate", "merge", "export", "push", "plan")
SHORT = ("experiment=quickstart", "training.max_steps=8", "training.validate_every_steps=4")
LINES = {  # in this order: what is written by one is read by the next
    "train": ["train", *SHORT],
    "merge": ["merge", "run=outputs/quickstart"],
    "evaluate": [
        *("evaluate", "run=outputs/quickstart", "evaluation.group_by=speaker"),
        "evaluation.conditions=[noise-10db,padded-log-mel]",
    ],
    "export": ["export", "run=outputs/quickstart", "format=onnx", "parity.utterances=4"],
    "check": ["check", "experiment=quickstart"],
    "sweep": ["train", "-m", *SHORT, "name=swept", "training.max_steps=2", "adapter.rank=2,4"],
    "report": ["report", "outputs/sweeps/swept", "overwrite=true"],
    "adapters": ["adapters", "outputs"],
}
WRONG = [
    ["trian"],
    ["train", "adapter.rnak=4"],
    ["train", "lora.r=4"],
    ["train", "adapter.rank=-1", "training.precision=fp8", "data.train=nowhere.jsonl"],
    ["train", "experiment=quickstart", "model=whisper-giant"],
    ["train", "experiment=quickstart"],
    ["train", "experiment=nothing"],
    ["train", "experiment=quickstart", "name=x", "data.train=nowhere.jsonl"],
    ["train", "experiment=quickstart", "name=x", "data.language=Klingon"],
    ["train", "experiment=quickstart", "name=x", "adapter.init_from=nowhere"],
    ["train", "experiment=quickstart", "name=x", "adapter.target_modules=[nope]"],
    ["merge"],
    ["merge", "run=nowhere"],
    ["merge", "run=outputs/quickstart"],
    ["evaluate", "run=nowhere"],
    ["evaluate", "models=[base]"],
    ["export", "run=outputs/quickstart"],
    ["export", "run=outputs/quickstart", "format=zip"],
    ["push", "run=outputs/quickstart", "repo=nobody"],
    ["plan", "gpu_gb=0"],
    ["report", "nowhere"],
    ["adapters", "nowhere"],
]
MASKS = [
    (re.compile(r"(?m)^.*\d+/\d+ .*\bleft\b.*\n"), ""),  # a bar, which may be drawn or not
    (re.compile(r"(?m)^RTFx: .*\n"), ""),
    (re.compile(r"(?m)^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}"), "TIME"),
    (re.compile(r"\b\d+:\d\d(:\d\d)?\b"), "TIME"),
    (re.compile(r"\b\d[\d.,]*(e-\d+)? ?(s|ms|min|h|GB|MB|KB|bytes|seconds)\b"), "AMOUNT"),
    (re.compile(r"\b\d{4}-\d\d-\d\d[T ]?"), "DATE"),
    (re.compile(r"\b[0-9a-f]{40}(-dirty)?\b"), "COMMIT"),
    (re.compile(r"\d[\d.,]* (times real time|× real time|audio s/s)"), "SPEED"),
    (re.compile(r"\bprocess \d+"), "PROCESS"),
]
MASKED_KEYS = re.compile(
    "seconds|bytes|date|commit|made_with|versions|measured|environment|host|metrics_sha256|state\\.json"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkout", type=Path)
    parser.add_argument("folder", type=Path)
    given = parser.parse_args()
    given.folder.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as name:
        recorder = Recorder(given.checkout.resolve(), given.folder, Path(name))
        recorder.record()


class Recorder:
    """Runs the commands of `checkout` in `work`, and keeps what they give in `folder`."""

    def __init__(self, checkout: Path, folder: Path, work: Path) -> None:
        self.checkout, self.folder, self.work = checkout, folder, work
        whole = (checkout / "lora_whisper" / "__main__.py").is_file()
        self.module = "lora_whisper" if whole else "lora_whisper.commands"

    def record(self) -> None:
        for command in COMMANDS:
            self.keep(f"help/{command}", [command, "--help"])
            self.keep(f"config/{command}", [command, "--cfg", "job"])
        for path in sorted((self.checkout / "conf" / "experiment").glob("*.yaml")):
            line = ["train", f"experiment={path.stem}", "--cfg", "job"]
            self.keep(f"config/experiment-{path.stem}", line)
        for name, line in LINES.items():
            self.keep(f"run/{name}", line)
        for number, line in enumerate(WRONG):
            self.keep(f"wrong/{number:02}-{line[0]}", line)
        for path in sorted((self.work / "outputs").rglob("*")):
            if path.is_file():
                self.write(f"outputs/{path.relative_to(self.work / 'outputs')}", self.content(path))

    def keep(self, name: str, line: list[str]) -> None:
        done = subprocess.run(
            [sys.executable, "-m", self.module, *line],
            cwd=self.work,
            env=os.environ
            | {
                "PYTHONPATH": str(self.checkout),
                "LORA_WHISPER_CACHE": str(self.work / "cache"),
                "HF_HUB_OFFLINE": "1",
                "OMP_NUM_THREADS": "1",
                "COLUMNS": "80",
            },
            capture_output=True,
            text=True,
        )
        given = f"$ lora-whisper {' '.join(line)}\n{done.stdout}\n--- stderr\n{done.stderr}"
        self.write(name, f"{given}\n--- exit code {done.returncode}\n")

    def write(self, name: str, text: str) -> None:
        path = self.folder / f"{name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        program = str(Path(sys.executable).with_name("lora-whisper"))
        places = {program: "lora-whisper", self.work: "WORK", self.checkout: "CHECKOUT"}
        for place, name in places.items():
            text = text.replace(str(place), name)
        for pattern, mask in MASKS:
            text = pattern.sub(mask, text)
        path.write_text(text)

    def content(self, path: Path) -> str:
        """Of a page its text, of JSON its values, and of what is no text its hash."""
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            return hashlib.sha256(path.read_bytes()).hexdigest()
        if path.suffix == ".html":
            return visible(text)
        if path.suffix in (".json", ".jsonl"):
            documents = text.splitlines() if path.suffix == ".jsonl" else [text]
            return "\n".join(json.dumps(masked(json.loads(one)), indent=1) for one in documents)
        return text


def masked(value: Any) -> Any:
    """Without what no two runs share."""
    if isinstance(value, dict):
        return {
            key: "MASKED" if MASKED_KEYS.search(key) else masked(one) for key, one in value.items()
        }
    if isinstance(value, list):  # PEFT writes sets, whose order is another one each time
        items = [masked(one) for one in value]
        return sorted(items) if all(isinstance(one, str) for one in items) else items
    return value


def visible(page: str) -> str:
    """The text of a page, a line an element; what drawings and scripts hold is left out."""
    reader = _Text()
    reader.feed(page)
    return "\n".join(reader.lines)


class _Text(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self._hidden = 0

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self._hidden += tag in ("script", "style", "svg")

    def handle_endtag(self, tag: str) -> None:
        self._hidden -= tag in ("script", "style", "svg")

    def handle_data(self, data: str) -> None:
        if data.strip() and not self._hidden:
            self.lines.append(" ".join(data.split()))


if __name__ == "__main__":
    main()
