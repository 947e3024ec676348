"""Whatever is typed: one message that helps and exit code 2, or what was meant is done."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from hydra._internal.hydra import Hydra

from lora_whisper.cli import plan, train
from lora_whisper.cli.check import with_name
from lora_whisper.cli.compose import hydra_over
from lora_whisper.cli.misfits import compose, misfit
from lora_whisper.cli.overrides import as_meant, parsed_flags
from lora_whisper.errors import UserError
from tests.cli.conftest import Line, Refusal, World
from tests.cli.odd_lines import odd_lines, outcome


@pytest.fixture(scope="module")
def hydra() -> Hydra:
    with hydra_over("train", None) as one:
        pass  # the commands that are called beside it each make their own
    return one


def test_odd_lines_end_in_a_message(tmp_path: object, line: Line) -> None:
    """Several hundred: python -m tests.cli.odd_lines 500 1"""
    for typed in itertools.islice(odd_lines(7), 6):
        assert outcome(typed) is None, typed


@pytest.mark.parametrize(
    ("override", "answer"),
    [
        ("model=3", "model=3: there is no such option"),
        ("experiment=1", "experiment=1: there is no such option"),
        ("augmentation=1", "spec_augment"),
        ("augmentation=[[1]]", "spec_augment"),
        ("augmentation=null", "Type augmentation=none"),
        ("adapter=[lora,dora]", "expected one option"),
        ("adapter=_common_", "There are adalora, dora"),
        ("~model=3", "no key can be taken out"),
        ("model@x=tiny", "Type model=tiny"),
        ("quantization=4bit", "Type quantization=nf4"),
        ("data=/speech", "Type data.path=/speech"),
        ("data=train.jsonl", "Type data.train=train.jsonl"),
        ("adapter=outputs/x", "Type adapter.init_from=outputs/x"),
        ("training=fast", "There is default alone; --help training has its keys"),
        ("adapter=lorra", "Did you mean lora?"),
        ("data.trimmed.margin_seconds.0=1", "as in data.trimmed.margin_seconds=[A,B]"),
        ("data.clean.1=case", "a list is typed whole"),
        ("hydra.sweeper=x", "Type hydra/launcher=NAME"),
        ("hydra.job.chdir=true", "not used here"),
        ("outputs/x", "key=value"),
        ("", "an empty argument"),
        ("=x", "no key before the ="),
        ("augmentation=speed,noise", "Type augmentation=[speed,noise] for all of them together"),
        ("augmentation.speed.factors=0.9,1.1", "Type augmentation.speed.factors=[0.9,1.1] for"),
        ("evaluation.group_by=a,b", "Type evaluation.group_by=[a,b] for all of them"),
        ("adapter.rank=4,8", "several values. Type lora-whisper train -m adapter.rank=4,8 to try"),
        ("seed=range(1,4)", "Type lora-whisper train -m seed=range(1,4) to try each"),
    ],
)
def test_what_hydra_would_misunderstand_is_answered(
    hydra: Hydra, override: str, answer: str
) -> None:
    assert answer in str(misfit(hydra, "train", override))


@pytest.mark.parametrize("value", ["3", "fast", "[a]", "true", "null"])
def test_a_group_of_another_command_is_said_to_be_its(value: str) -> None:
    with hydra_over("merge", None) as merging:
        answer = str(misfit(merging, "merge", f"training={value}"))
    assert answer.startswith("training: lora-whisper merge has no such key. train")


def test_what_hydra_refuses_is_named_all_at_once(hydra: Hydra) -> None:
    with pytest.raises(UserError) as raised:
        compose(hydra, "train", ["hydra.sweeper.params=3", "lr=3", "augmentation={a:1}", "seed=2"])
    for part in ("hydra.sweeper.params=3", "cannot stand there", "optimizer.learning_rate=3"):
        assert part in str(raised.value)
    assert "augmentation.a" in str(raised.value)
    assert "seed" not in str(raised.value)


def test_a_group_of_keys_where_a_list_is_wanted() -> None:
    with hydra_over("evaluate", None) as hydra, pytest.raises(UserError) as raised:
        compose(hydra, "evaluate", ["run=outputs/a", "sets={x:v}"])
    assert "expected a list, as in sets=[A,B]" in str(raised.value)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("adapter:\n  rank: 4\n", "Let the file begin with the line: # @package _global_"),
        ("seed: 1\nseed: 2\n", r"own\.yaml, line 2: the key seed stands there a second time"),
        ("seed: [1\n", r"own\.yaml, line 2: this cannot be read"),
    ],
)
def test_what_is_wrong_with_a_file_of_ones_own_is_named(
    tmp_path: Path, text: str, answer: str
) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment/own.yaml").write_text(text)
    with hydra_over("train", str(tmp_path)) as hydra, pytest.raises(UserError, match=answer):
        compose(hydra, "train", ["experiment=own"])


@pytest.mark.parametrize(
    ("override", "meant"),
    [
        ("model=/my/folder", ["model=small", "model.checkpoint=/my/folder"]),
        ("model=./folder", ["model=small", "model.checkpoint=./folder"]),
        ("model=somebody/whisper-sw", ["model=small", "model.checkpoint=somebody/whisper-sw"]),
        ("model=openai/whisper-small", ["model=small"]),
        ("model=whisper-large-v3", ["model=large-v3"]),
        ("model=tiny.en", ["model=tiny.en"]),
        ("model=smal", ["model=smal"]),
        ("model=tiny,base", ["model=tiny,base"]),
        ("experiment=null", []),
        ("+experiment=quickstart", ["experiment=quickstart"]),
        ("++seed=3", ["seed=3"]),
        ("+hydra.launcher.x=3", ["+hydra.launcher.x=3"]),
        ("name=a=b", ["name=a=b"]),
    ],
)
def test_what_was_meant_is_taken(hydra: Hydra, override: str, meant: list[str]) -> None:
    assert as_meant(train.COMMAND, hydra, override) == meant


def test_plan_takes_a_model_by_its_folder(hydra: Hydra) -> None:
    assert len(as_meant(plan.COMMAND, hydra, "model=/folder")) == 2


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        (["--learning_rate", "1e-4"], "Did you mean optimizer.learning_rate?"),
        (["--name=x"], "type name=x"),
        (["--model_name_or_path", "a/b", "--fp16"], "model.checkpoint=a/b"),
        (["-lr", "3"], "optimizer.learning_rate=3"),
        (["--conf", "x"], "--conf"),
        (["--cfg", "x"], "invalid choice"),
        (["--shell-completion"], "--config-dir is"),
    ],
)
def test_settings_typed_as_flags_are_answered(arguments: list[str], answer: str) -> None:
    with pytest.raises(UserError) as raised:
        parsed_flags(arguments, "train")
    assert answer in str(raised.value)


def test_flags_may_stand_between_settings() -> None:
    flags = parsed_flags(["a=1", "-m", "b=2", "--cfg", "job", "c=3"], "train")
    assert flags.overrides == ["a=1", "b=2", "c=3"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["name=${name}"],
        ["name=${oc.env:NO_SUCH_VARIABLE}"],
        ["hydra.run.dir=${oc.env:NO_SUCH_VARIABLE}"],
        ["--cfg", "job", "--resolve", "seed=${nope}"],
        ["-m", "hydra.sweep.dir=${nope}", "seed=1,2"],
    ],
)
def test_what_a_dollar_stands_for_has_to_be_there(refusal: Refusal, arguments: list[str]) -> None:
    usual = [
        one for one in ("name=x", "data.train=a.jsonl") if not arguments[-1].startswith("name")
    ]
    assert "${oc.env:NAME}" in refusal("train", *usual, *arguments)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (["experiment=small-cpu"], ["name=small-cpu-check"]),
        (["experiment=[quickstart,sweep-rank]"], ["name=quickstart-sweep-rank-check"]),
        (["experiment=small-cpu", "name=x"], []),
        (["seed=2"], []),
    ],
)
def test_check_of_an_experiment_has_a_folder_of_its_own(
    arguments: list[str], name: list[str]
) -> None:
    assert with_name(arguments) == [*arguments, *name]


def test_check_takes_what_train_takes(world: World, line: Line) -> None:
    arguments = world.arguments("looked", "experiment=small-cpu")
    assert line("check", *arguments) == 0
