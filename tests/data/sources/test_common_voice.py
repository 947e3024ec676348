"""Downloaded releases of Common Voice, as they were written over the years."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_whisper.data.sources import read_split
from lora_whisper.data.sources.manifest import unquoted
from lora_whisper.errors import UserError
from tests.configs import data_config
from tests.toy_speech import write_clip

CONFIG = data_config("common_voice", path="x")

NOW = (  # of release 23
    "client_id\tpath\tsentence_id\tsentence\tsentence_domain\tup_votes\tdown_votes\tage\tgender\t"
    "accents\tvariant\tlocale\tsegment"
)
FIRST = "client_id\tpath\tsentence\tup_votes\tdown_votes\tage\tgender\taccent"  # of release 1


def row(name: str, sentence: str, client: str = "c1", locale: str = "sw") -> str:
    return f"{client}\t{name}\t5f\t{sentence}\t\t2\t0\ttwenties\tfemale\t\t\t{locale}\t"


def release(folder: Path, **tables: list[str]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in tables.items():
        (folder / f"{name}.tsv").write_text("\n".join([NOW, *rows, ""]), encoding="utf-8")
    return folder


def texts(folder: Path, split: str = "train", **changes: str) -> list[str]:
    found = read_split(replace(CONFIG, path=str(folder), **changes), split)
    assert found is not None
    return [one.text for one in found]


def test_a_release(tmp_path: Path) -> None:
    folder = release(
        tmp_path,
        train=[row("common_voice_sw_1.mp3", "Habari gani?", "c1"), row("2.mp3", "Ndiyo.", "c2")],
        dev=[row("3.mp3", "Hapana.", "c3")],
        test=[row("4.mp3", "Asante.", "c4")],
        validated=[row("3.mp3", "Hapana.", "c3"), row("4.mp3", "Asante.", "c4")],
        other=[],
    )
    write_clip(folder / "clips" / "common_voice_sw_1.mp3", 0.3)
    config = replace(CONFIG, path=str(folder))
    train = read_split(config, "train")
    assert train is not None
    first, second = train
    assert (first.text, first.speaker, first.language) == ("Habari gani?", "c1", "sw")
    assert (first.row, first.columns["gender"]) == ("train.tsv:2", "female")
    assert isinstance(first.audio, Path)
    assert first.audio.is_file()
    assert second.audio == folder / "clips" / "2.mp3", "a missing clip is not the reader's to find"
    assert texts(folder, "validation") == ["Hapana."]
    assert texts(folder, "test") == ["Asante."]
    assert texts(folder, train="validated") == ["Hapana.", "Asante."]


def test_release_one_names_clips_without_suffix_and_no_language(tmp_path: Path) -> None:
    (tmp_path / "train.tsv").write_text(f"{FIRST}\nc1\t9f86d0\tYes.\t2\t0\t\t\t\n")
    config = replace(CONFIG, path=str(tmp_path), language="en")
    (found,) = read_split(config, "train") or ()
    assert (found.audio, found.language) == (tmp_path / "clips" / "9f86d0.mp3", "en")


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        ("Habari", "Habari"),
        ('"""Good-bye,"" said the boy."', '"Good-bye," said the boy.'),  # release 5, quoted
        ('""Good-bye,"" said the boy.', '"Good-bye," said the boy.'),  # escaped by itself
        ('"Good-bye," said the boy.', '"Good-bye," said the boy.'),  # since then, as it is
        ('"Good-bye."', '"Good-bye."'),
        ('""Good-bye.""', '"Good-bye."'),
        ('He said "no', 'He said "no'),
        ('"', '"'),
        ("", ""),
    ],
)
def test_quotation_marks_of_all_releases(tmp_path: Path, cell: str, text: str) -> None:
    assert unquoted(cell) == text
    rows = [row("1.mp3", cell), row("2.mp3", "next")]
    assert texts(release(tmp_path, train=rows)) == [text, "next"], "it must not swallow a row"


@pytest.mark.parametrize(
    ("locale", "language"), [("sv-SE", "sv"), ("zh-CN", "zh"), ("yue", "yue"), ("nb-NO", "no")]
)
def test_locales_are_languages_and_regions(tmp_path: Path, locale: str, language: str) -> None:
    folder = release(tmp_path, train=[row("1.mp3", "a", locale=locale)])
    (found,) = read_split(replace(CONFIG, path=str(folder)), "train") or ()
    assert found.language == language


def test_folders_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is missing.*Unpack"):
        texts(tmp_path / "cv")
    (tmp_path / "cv").mkdir()
    with pytest.raises(UserError, match=r"no tables \(\*\.tsv\)"):
        texts(tmp_path / "cv")
    release(tmp_path / "cv" / "sw", train=[row("1.mp3", "a")])
    with pytest.raises(UserError, match=r"the languages sw; type data\.path=.*cv/sw"):
        texts(tmp_path / "cv")


def test_a_table_that_is_not_there_or_has_no_rows(tmp_path: Path) -> None:
    folder = release(tmp_path, train=[], test=[row("1.mp3", "a")], reported=[])
    with pytest.raises(UserError, match=r"train\.tsv has no rows"):
        texts(folder)
    with pytest.raises(UserError, match=r"no part called dev; it has: test, train\. Type"):
        texts(folder, "validation")


def test_bad_rows_in_one_message(tmp_path: Path) -> None:
    rows = [row("1.mp3", "a"), row("", "a"), "c1\t3.mp3", row("4.mp3", "a\tb")]
    with pytest.raises(UserError) as error:
        texts(release(tmp_path, train=rows))
    for line, expected in {
        3: "expected a value for one of path",
        4: "found 2 cells, expected 13",
        5: "found 14 cells, expected 13",
    }.items():
        (found,) = (each for each in str(error.value).splitlines() if f"train.tsv:{line}:" in each)
        assert expected in found


sentences = st.lists(
    st.text(st.characters(codec="utf-8", exclude_characters="\r\n\t"), min_size=1), max_size=4
)


@settings(deadline=None, max_examples=60)
@given(sentences=sentences, damage=st.none() | st.tuples(st.integers(0, 300), st.binary()))
def test_no_sentence_is_lost(
    tmp_path_factory: pytest.TempPathFactory,
    sentences: list[str],
    damage: tuple[int, bytes] | None,
) -> None:
    rows = [row(f"{number}.mp3", sentence) for number, sentence in enumerate(sentences)]
    folder = release(tmp_path_factory.mktemp("cv"), train=[*rows, row("last.mp3", "last")])
    table = folder / "train.tsv"
    if damage is not None:
        place, content = damage
        before = table.read_bytes()
        table.write_bytes(before[:place] + content + before[place:])
    if damage is None and "\0" not in "".join(sentences):
        assert texts(folder) == [*map(unquoted, sentences), "last"]
    else:
        with suppress(UserError):
            texts(folder)
