"""What README.md, CONTRIBUTING.md, docs/ and conf/ say works, and what they link to is there."""

from __future__ import annotations

import argparse
import ast
import builtins
import dataclasses
import importlib
import re
import shutil
import sys
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

from lora_whisper.__main__ import carry_out
from lora_whisper.cli.compose import COMMANDS as KINDS
from lora_whisper.cli.misfits import known_keys
from lora_whisper.data.sources.manifest import rows as manifest_rows
from lora_whisper.options import configuration_folder
from tests import pages
from tests.cli.conftest import Line, World, line, world  # noqa: F401
from tests.pages import DOCS, PAGES, README, ROOT

COMMANDS = list(dict.fromkeys([*pages.commands(), *pages.commands_of_conf()]))
# Of other programs, and typed as they stand there: nothing here could say that they are right.
OF_OTHERS = {
    ". .venv/bin/activate",
    ".venv/bin/pre-commit install",
    "apt-get install espeak-ng flite festival "
    "festvox-kallpc16k festvox-kdlpc16k festvox-us-slt-hts",
    "cp RUN/model.safetensors lora_whisper/quickstart/nano/",
    "hf download OWNER/NAME --repo-type dataset --local-dir NAME",
}
OURS = ("lora-whisper", "python", "torchrun", "accelerate", "make", "pip")


def test_the_commands_are_found() -> None:
    """A new one has to be counted here, so that none is left untested by accident."""
    assert len(COMMANDS) == 161
    assert {one for one in COMMANDS if _program(one) not in OURS} == OF_OTHERS


def _program(command: str) -> str:
    return pages.words_of(command)[1][0]


# ── what is typed ────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def composes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[Sequence[str]], None]:
    """See that `lora-whisper WORDS` is parsed and composed, up to where it would begin."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")  # hydra/launcher=joblib asks for one
    monkeypatch.setenv("PASSWORD", "secret")  # which pages in a browser take from there
    split = BasicSweeper.split_arguments

    def first_and_last(*given: Any, **more: Any) -> list[list[list[str]]]:
        return [[batch[0], batch[-1]] for batch in split(*given, **more)]

    # Each point takes a tenth of a second, and those between are composed as these are.
    monkeypatch.setattr(BasicSweeper, "split_arguments", first_and_last)

    def compose(words: Sequence[str]) -> None:
        name, *arguments = words
        module = importlib.import_module(f"lora_whisper.cli.{name}")
        if not hasattr(module, "COMMAND"):  # which takes no settings
            assert _is_parsed(lambda: carry_out(name, arguments), arguments, monkeypatch)
            return
        begun: list[Any] = []
        harmless = dataclasses.replace(
            module.COMMAND,
            prepare=lambda config, folder, *earlier: begun.append(config),
            run=lambda plan: None,
            report_sweep=None,
            is_finished=lambda plan: True,
            place=None,
        )
        monkeypatch.setattr(module, "COMMAND", harmless)
        assert carry_out(name, arguments) == 0
        is_shown = {"--help", "--cfg"} & set(arguments)
        assert len(begun) > 1 if "-m" in arguments else len(begun) == (not is_shown)

    return compose


@pytest.mark.parametrize("command", [one for one in COMMANDS if _program(one) in OURS])
def test_each_command_can_be_typed(
    command: str,
    composes: Callable[[Sequence[str]], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _, (program, *words) = pages.words_of(command)
    if program == "make":
        assert set(words) <= _targets()
    elif program == "pip":
        _require_extras(words)
    elif "lora_whisper" in words:  # … -m lora_whisper COMMAND …, by whatever starts processes
        place = words.index("lora_whisper")
        assert words[place - 1] == "-m"
        if program in LAUNCHERS:
            LAUNCHERS[program]().parse_args([*_launched(program, words[:place]), "lora_whisper"])
        composes(words[place + 1 :])
    elif program == "python":
        script = words[words[0] == "-m"].removesuffix(".py").replace("/", ".")
        arguments = words[1 + (words[0] == "-m") :]
        assert _is_parsed(lambda: _main(script), arguments, monkeypatch)
    else:
        if "--config-dir" in words:
            _write_own_experiment(Path(words[words.index("--config-dir") + 1]))
        composes(words)


def _targets() -> set[str]:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    return set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))


def _require_extras(words: Sequence[str]) -> None:
    """pip install 'lora-whisper[a,b]' names extras that there are."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    match = re.fullmatch(r"(\S+?)\[([a-z0-9,]+)\]", words[-1])
    assert match is not None
    assert match[1] in (project["name"], ".")
    assert set(match[2].split(",")) <= project["optional-dependencies"].keys()


def _accelerate() -> argparse.ArgumentParser:
    from accelerate.commands.launch import launch_command_parser

    return launch_command_parser()


def _torchrun() -> argparse.ArgumentParser:
    from torch.distributed.run import get_args_parser

    return get_args_parser()


LAUNCHERS = {"accelerate": _accelerate, "torchrun": _torchrun}


def _launched(program: str, words: Sequence[str]) -> list[str]:
    """The launcher's own options."""
    return list(words[1:] if program == "accelerate" else words)


def _main(module: str) -> object:
    return importlib.import_module(module).main()


class _Parsed(Exception):
    """The arguments were taken."""


def _is_parsed(
    main: Callable[[], object], arguments: Sequence[str], monkeypatch: pytest.MonkeyPatch
) -> bool:
    """Whether a script's own parser takes the arguments; nothing behind it is run."""

    def stop(parse: Callable[..., object]) -> Callable[..., object]:
        def parsed(*given: object) -> object:
            parse(*given)
            raise _Parsed

        return parsed

    for name in ("parse_args", "parse_intermixed_args"):
        parse = getattr(argparse.ArgumentParser, name)
        monkeypatch.setattr(argparse.ArgumentParser, name, stop(parse))
    monkeypatch.setattr(sys, "argv", ["script", *arguments])
    try:
        main()
    except _Parsed:
        return True
    return False


def _write_own_experiment(folder: Path) -> None:
    """The file that the page shows, where the command looks for it."""
    (text,) = (block.text for block in pages.blocks("yaml") if "experiment/" in block.text)
    place = re.search(r"^# (\S+\.yaml)$", text, re.MULTILINE)
    assert place is not None
    assert folder in Path(place[1]).parents
    Path(place[1]).parent.mkdir(parents=True)
    Path(place[1]).write_text(text, encoding="utf-8")


@pytest.mark.parametrize("page", PAGES, ids=pages.name_of)
def test_commands_within_the_text_compose(
    page: Path, composes: Callable[[Sequence[str]], None]
) -> None:
    for span in pages.spans(page):
        words = re.sub(r"^lora-whisper ", "", span).split()
        is_whole = "…" not in span and not re.search("[A-Z]{4}|--", span) and len(words) > 1
        if is_whole and words[0] in KINDS and ("=" in span or span.startswith("lora-whisper")):
            composes(pages.words_of(" ".join(words))[1])


@pytest.mark.parametrize("block", pages.blocks("bash"), ids=str)
def test_job_scripts_compose(block: pages.Block, composes: Callable[[Sequence[str]], None]) -> None:
    """Each line is a comment, or a command of ours behind what starts it."""
    lines = re.sub(r" *\\\n\s*", " ", block.text).splitlines()
    for words in (pages.words_of(one)[1] for one in lines if not one.startswith("#")):
        composes(words[words.index("lora-whisper") + 1 :])


def test_blocks_are_of_kinds_that_are_tested() -> None:
    """Text without a language is what a program prints; a command would not be looked at there."""
    known = {"console", "bash", "python", "yaml", "jsonl", "csv", ""}
    assert {block.language for block in pages.blocks(*known)} == known
    assert sum(map(len, map(FENCES.findall, map(pages.text_of, PAGES)))) == 2 * len(
        pages.blocks(*known)
    )
    for block in pages.blocks(""):
        assert not re.search(r"^\$ |^lora-whisper ", block.text, re.MULTILINE), block


FENCES = re.compile(r"^ *```", re.MULTILINE)


# ── settings ─────────────────────────────────────────────────────────────────────────────────

KNOWN = {key for command in KINDS for key in known_keys(command)} | {"adapter"}
GROUPS = {
    path.name: {one.stem for one in path.glob("*.yaml")}
    for path in configuration_folder().iterdir()
    if path.is_dir()
}
PLACEHOLDERS = ("key", "group")
FILES = re.compile(r"\.(json|jsonl|html|md|log|npz|yaml|py|csv|tsv|txt|safetensors|js|css|svg)$")


@pytest.mark.parametrize("page", PAGES, ids=pages.name_of)
def test_each_setting_that_is_named_is_one(page: Path) -> None:
    named = [word for span in pages.spans(page) for word in _settings(span)]
    unknown = [word for word in named if not _is_setting(word)]
    assert not unknown


@pytest.mark.parametrize("path", pages.CONF, ids=pages.name_of)
def test_each_setting_that_a_comment_names_is_one(path: Path) -> None:
    named = [word for comment in pages.comments_of(path) for word in _settings(comment)]
    assert [word for word in named if not _is_setting(word)] == []


def _settings(span: str) -> list[str]:
    """The words of a span that look like settings: key=value, or a key of two parts."""
    words = [word.strip("'\",;:()").rstrip(".") for word in span.split()]
    return [
        word
        for word in words
        if re.match(r"[a-z_]+([./][a-z_]+)*=(?!\")", word)
        or (
            re.fullmatch(r"[a-z_]+(\.[a-z0-9_]+)+", word)
            and word.split(".")[0] in GROUPS
            and not FILES.search(word)
        )
    ]


def _is_setting(word: str) -> bool:
    key, _, value = word.partition("=")
    if key.startswith(("hydra.", "hydra/")) or key in PLACEHOLDERS:
        return True
    if key not in KNOWN:
        return False
    options = re.split(r"[,|]", value.strip("[]"))
    is_free = key not in GROUPS or not all(re.fullmatch(r"[a-z0-9_.-]+", one) for one in options)
    return is_free or set(options) <= GROUPS[key] | {"null"}


@pytest.mark.parametrize("block", pages.blocks("yaml"), ids=str)
def test_yaml_can_be_read(block: pages.Block) -> None:
    assert isinstance(yaml.safe_load(block.text), dict)


@pytest.mark.parametrize("block", pages.blocks("jsonl", "csv"), ids=str)
def test_manifests_can_be_read(block: pages.Block, tmp_path: Path) -> None:
    manifest = tmp_path / f"shown.{block.language}"
    manifest.write_text(block.text, encoding="utf-8")
    rows = list(manifest_rows(manifest))
    assert len(rows) == len(block.text.splitlines()) - (block.language == "csv")
    assert all(row.text for row in rows)


# ── messages ─────────────────────────────────────────────────────────────────────────────────

MESSAGES = ROOT / "docs/by-the-message-you-see.md"


def test_the_messages_are_those_of_the_code() -> None:
    """Each stretch of a message between two "…" stands in a string of the package."""
    code = _strings_of_the_package()
    messages = [
        message
        for title in pages.HEADING.findall(pages.text_of(MESSAGES))
        for message, _ in pages.SPAN.findall(title)
    ]
    assert len(messages) > 60
    parts = [part.strip() for message in messages for part in message.split("…") if part.strip()]
    assert [part for part in parts if part not in code] == []


def _strings_of_the_package() -> str:
    """The sources, with strings joined that stand one after the other."""
    files = sorted((ROOT / "lora_whisper").rglob("*.py"))
    code = "\n".join(path.read_text(encoding="utf-8") for path in files)
    return re.sub(r'"\s*f?"', "", code)


# ── links ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("page", PAGES, ids=pages.name_of)
def test_links_lead_somewhere(page: Path) -> None:
    for link in pages.links(page):
        if link.startswith(("https://", "http://")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert target.is_relative_to(ROOT), link
        if anchor:
            assert anchor in pages.anchors(target), link


def test_all_pages_are_reached_from_the_first() -> None:
    index = ROOT / "docs/README.md"
    linked = {(index.parent / link).resolve() for link in pages.links(index)}
    assert {page for page in DOCS if page != index} <= linked
    assert "docs/README.md" in pages.links(README)


PLACES = r"(?:lora_whisper|conf|tests|benchmarks|docs)(?:/[\w.-]+)+/?"


@pytest.mark.parametrize("page", PAGES, ids=pages.name_of)
def test_files_that_are_named_are_there(page: Path) -> None:
    named = [span for span in pages.spans(page) if re.fullmatch(PLACES, span)]
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_what_contributing_points_at_is_there() -> None:
    """The table of files and names: each name is defined in one of its row's files or folders."""
    rows = re.findall(r"^\|[^|]+\|([^|]+)\|([^|]+)\|$", pages.text_of(pages.CONTRIBUTING), re.M)
    pointed = 0
    for files, names in rows:
        places = [ROOT / span for span in re.findall(r"`(lora_whisper/[^`]+)`", files)]
        files_of = [[place] if place.is_file() else place.glob("*.py") for place in places]
        code = "\n".join(one.read_text("utf-8") for some in files_of for one in some)
        for name in re.findall(r"`(\w+)`", names) if places else ():
            assert re.search(rf"^(def|class) {name}\b", code, re.MULTILINE), name
            pointed += 1
    assert pointed > 10


def test_the_tree_is_the_one_that_is_there() -> None:
    """Each file and folder of README's tree, below the folder that it is indented under."""
    (tree,) = (block.text for block in pages.blocks("") if "lora_whisper/\n" in block.text)
    above: list[str] = []
    for text in tree.splitlines():
        indent = len(text) - len(text.lstrip())
        names = [name.rstrip(",") for name in re.split(r"\s{2,}", text.strip())[0].split()]
        above = above[: indent // 2]
        for name in names:
            assert (ROOT / Path(*above) / name).exists(), "/".join([*above, name])
        above.append(names[0])


# ── Python ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("block", pages.blocks("python"), ids=str)
def test_python_names_what_there_is(block: pages.Block) -> None:
    """What is imported is there, and no name is used that nothing gives a value."""
    found = ast.parse(block.text)
    known = set(dir(builtins))
    for node in ast.walk(found):
        if isinstance(node, ast.Import | ast.ImportFrom):
            exec(ast.unparse(node), {})
            known |= {name.asname or name.name.split(".")[0] for name in node.names}
        elif isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            known.add(node.id)
    used = {node.id for node in ast.walk(found) if isinstance(node, ast.Name)}
    assert used <= known


def test_a_file_is_transcribed_by_stock_programs(
    world: World,  # noqa: F811
    line: Line,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The lines of README and of two pages, on a toy instead of Whisper."""
    assert line("train", *world.arguments("mine", "training.max_steps=1")) == 0
    assert line("merge", "run=outputs/mine") == 0
    clip = next((world.speech / "test").glob("*.wav"))
    shutil.copyfile(clip, "clip.wav")
    capsys.readouterr()
    by_pipeline, by_peft = (
        block.text for block in pages.blocks("python") if "transformers import" in block.text
    )
    code = by_pipeline.replace("outputs/quickstart/merged", "outputs/mine/merged")
    scope: dict[str, Any] = {}
    exec(re.sub(r"lora_whisper/quickstart/speech/[^\"]+", "clip.wav", code), scope)
    assert capsys.readouterr().out.strip() == scope["heard"]["text"].strip()
    toys = {"openai/whisper-small": str(world.checkpoint), 'language="sw"': 'language="en"'}
    for shown, toy in toys.items():
        assert shown in by_peft
        by_peft = by_peft.replace(shown, toy)
    exec(by_peft, {})
    (heard,) = capsys.readouterr().out.splitlines()
    results, by_run = (
        block.text for block in pages.blocks("python") if block.page.stem == "in-python"
    )
    scope = {}
    exec(results.replace("evaluation={", 'evaluation={"diagnostics": False, '), scope)
    assert scope["results"].conditions["test"].keys() > {"telephone", "noise-5db"}
    assert "adapter too few to tell" in capsys.readouterr().out
    exec(by_run.replace('language="sw"', 'language="en"'), {})
    assert capsys.readouterr().out.splitlines() == [heard]


def test_the_notebooks_lines_run_as_they_stand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On the embedded model and speech, but for one step and few utterances."""
    monkeypatch.chdir(tmp_path)
    (code,) = (block.text for block in pages.blocks("python") if "lw.train(" in block.text)
    short = {
        'training={"max_epochs": 4}': 'training={"max_steps": 1}, evaluation={"max_utterances": 4}',
        '"conditions":': '"diagnostics": False, "conditions":',
    }
    for shown, shorter in short.items():
        assert shown in code
        code = code.replace(shown, shorter)
    scope: dict[str, Any] = {}
    exec(code, scope)
    assert scope["run"].summary.adapter.utterances == 4
    assert len(scope["results"].conditions["test"]) == 2
    assert scope["model"].config.d_model == 160
    assert len(re.findall(r"^\d\.\d+", capsys.readouterr().out, re.MULTILINE)) == 2
