"""Command lines that nobody should type, drawn by a seed: each has to end in a message.

python -m tests.cli.odd_lines 500 1    # so many, from this seed on; prints what ends badly
"""

from __future__ import annotations

import contextlib
import io
import itertools
import random
import sys
import tempfile
import traceback
from collections.abc import Iterator

from lora_whisper.__main__ import carry_out
from lora_whisper.cli.compose import COMMANDS
from lora_whisper.cli.misfits import known_keys

HYDRAS = (
    "hydra.sweeper hydra.launcher hydra.run.dir hydra.run hydra.sweep.dir hydra.sweep hydra "
    "hydra.job.chdir hydra.job.name hydra.job hydra.output_subdir hydra.verbose hydra.callbacks "
    "hydra.mode hydra.searchpath hydra.runtime.choices hydra/launcher hydra/sweeper hydra/help "
    "hydra/job_logging hydra.sweeper.params hydra.sweeper.max_batch_size hydra.help.template"
).split()
NONSENSE = ("", " ", "=", "a", "a.b.c", "Ж", "data..train", ".name", "name.", "model@x", "a:b", "0")
VALUES = (
    *(
        "",
        "null",
        "~",
        "3",
        "-1",
        "1e400",
        "nan",
        "inf",
        "true",
        "0x10",
        "1_000",
        "???",
        "x" * 5000,
    ),
    *("[]", "[1]", "[[1]]", "[null]", "[a,b]", "[a", "{}", "{a:1}", "{a:{b:[1]}}", "{a", "{1:2}"),
    *("a=b", "=", "a b", "a(b)", "'", '"', "''", "'a", "a\nb", "a\tb", "\\", "\\'", "#", "@", "%"),
    *(
        "Ж",
        "日本語",
        "🙂",
        "e\u0301",
        "\u202e",
        "\udcff",
        "/",
        "./x",
        "~/x",
        "C:\\x",
        "a,b",
        ",",
        "*",
    ),
    *("${name}", "${nope}", "${oc.env:NOPE}", "${", "${}", "${a.b.c}", "${hydra:job.num}", "$x"),
    *("${oc.decode:'['}", "${oc.create:{a:1}}", "${.name}", "${..name}", "\\${name}", "${now:%Y}"),
    *("range(1,3)", "choice()", "glob(*)", "interval(0,1)", "int(x)", "shuffle(3)", "sort(b,a)"),
    *("small", "lora", "fleurs", "sweep-rank", "quickstart", "_common_", "outputs/x"),
)
FLAGS = (
    *(["-m"], ["--cfg", "job"], ["--cfg", "all"], ["--cfg", "x"], ["--resolve", "--cfg", "job"]),
    *(["-cn", "nope"], ["-cn", "evaluate"], ["--config-dir", "."], ["--config-dir", "nope"]),
    *(["--info", "defaults"], ["--help"], ["--package", "x", "--cfg", "job"], ["--learning_rate"]),
    *(["--name=x"], ["-lr", "3"], ["--run"], ["--config-path", "x"], ["--"], ["-"], ["-m", "-m"]),
)


def odd_lines(seed: int) -> Iterator[list[str]]:
    """Commands with what is typed behind them, without end."""
    draw = random.Random(seed)
    while True:
        command = draw.choice(list(COMMANDS))
        usual = ["name=x", "data.train=gone.jsonl"] if "data" in known_keys(command) else []
        overrides = [_override(draw, command) for _ in range(draw.choice((1, 1, 1, 2, 3)))]
        flags = draw.choice(FLAGS) if draw.random() < 0.3 else []
        yield [command, *draw.sample(usual, draw.randint(0, len(usual))), *overrides, *flags]


def _override(draw: random.Random, command: str) -> str:
    groups = [key for key in known_keys(command) if "." not in key]
    keys = draw.choice((groups, known_keys(command), HYDRAS, NONSENSE))
    prefix = draw.choice(("", "", "", "", "+", "++", "~"))
    equals = draw.choice(("=",) * 9 + ("",))
    return f"{prefix}{draw.choice(keys)}{equals}{draw.choice(VALUES) if equals else ''}"


def outcome(line: list[str]) -> str | None:
    """Why a line ended badly; None: in a message and exit code 2, or as it should."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            exit_code = carry_out(line[0], line[1:])
        except BaseException:
            return traceback.format_exc()
    told = said.getvalue()
    if exit_code not in (0, 2) or (exit_code == 2 and not told.startswith("error: ")):
        return f"exit code {exit_code}: {told[:300]}"
    return None


def main(count: int, seed: int) -> None:
    bad = 0
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        for line in itertools.islice(odd_lines(seed), count):
            if why := outcome(line):
                bad += 1
                print(line, "\n", why)
    print(f"{bad} of {count} ended badly")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:3]))
