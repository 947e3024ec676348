"""Why a file is not there under the name that it was given, as far as its neighbours tell.

Names that look the same are not: é is one letter or two (macOS writes two), Windows knows neither
capitals nor slashes, and a copied cell brings its spaces along.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from urllib.parse import unquote

import regex

from lora_whisper.data.utterance import EncodedAudio

URL = regex.compile(r"(?:^|/)((?:https?|ftp|s3|gs|hf|az):/+)(.+)", regex.IGNORECASE)
UNSEEN = regex.compile(r"[\p{Cf}\p{Cc}\p{Variation_Selector}]")
MOST_FOLDERS = 200  # below the one that was named, looked into for the file
AUDIO_SUFFIXES = frozenset(
    ".wav .flac .ogg .opus .mp3 .m4a .mp4 .aac .webm .wma .amr .aif .aiff .wv .mkv .oga".split()
)

# What JSON and other texts make of one backslash and the letter behind it.
ESCAPED = {"\n": "/n", "\t": "/t", "\r": "/r", "\b": "/b", "\f": "/f"}
ESCAPES = frozenset(ESCAPED)

Fold = Callable[[str], str]


def _letters(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _unseen(name: str) -> str:
    return UNSEEN.sub("", _letters(name))


# In what a name may differ from the one that is meant: each fold takes one more away.
FOLDS: tuple[tuple[Fold, str], ...] = (
    (_letters, "the same letters, composed in another way (Unicode NFC and NFD)"),
    (lambda name: " ".join(_letters(name).split()), "without the space around it"),
    (_unseen, "without the characters that are not seen"),
    (lambda name: _unseen(name).strip().casefold(), "in other capitals"),
    (lambda name: _unseen(unquote(name)).strip().casefold(), "without percent signs"),
    (lambda name: _unseen(unquote(name)).strip().casefold().partition("?")[0], "without its ?…"),
    (lambda name: _without_suffix(_unseen(name).strip().casefold()), "with another ending"),
)


def why_absent(audio: Path | EncodedAudio) -> str:
    """The same of an utterance's audio; "" where it is there."""
    return absent(audio) if isinstance(audio, Path) and not audio.exists() else ""


def absent(path: str | Path) -> str:
    """What there is in the place of a file that is not, "; there is …"; "" where nothing is near.

    A million are asked for in a go: folders are looked at once.
    """
    name = str(path)
    if url := URL.search(name):
        return f"; {url[1].rstrip('/')}//{url[2]} is a URL: fetch the file, and give its path"
    try:
        if os.path.islink(name):
            return f", but a link to {os.readlink(name)}, which is not there"
        found = _backslashes(name) or _variables(name) or _twin(name) or _elsewhere(name)
    except (OSError, ValueError):  # a folder that may not be read, a name with a NUL
        return ""
    return f"; {found}" if found else ""


def _backslashes(name: str) -> str:
    if ESCAPES & set(name):
        there = _existing("".join(ESCAPED.get(letter, letter) for letter in name))
        said = f", {there} is there" if there else ""
        seen = ascii(next(letter for letter in name if letter in ESCAPES))[1:-1]
        return f"it holds {seen}, which one backslash became: write / instead of it{said}"
    if "\\" not in name:
        return ""
    plain = name.replace("\\", "/")
    drive = regex.search(r"(?:^|/)[A-Za-z]:/", plain)
    if drive is None:
        there = _existing(plain)
        said = f", {there} is there" if there else ""
        return f"its folders are parted by backslashes: write / for each \\{said}"
    return "it is a path of Windows: write it relative to the manifest, with / for each \\"


def _variables(name: str) -> str:
    """A variable, or a tilde that is not the first letter, which nothing expands."""
    start = regex.search(r"(?:^|/)(\$\w+|\$\{\w+\}|%\w+%|~)(?=/)", name)
    if start is None:
        return ""
    inner = os.path.expanduser(os.path.expandvars(name[start.start(1) :]))
    there = f"; there is {inner}" if os.path.exists(inner) else ""
    return f"{start[1]} in it is not replaced: write out what it stands for{there}"


def _existing(name: str) -> str:
    """The file itself, or its twin; "" where there is neither."""
    return name if os.path.exists(name) else _resolved(name)[0]


def _twin(name: str) -> str:
    there, why = _resolved(name)
    return f"there is {there}, {why}" if there else ""


def _resolved(name: str) -> tuple[str, str]:
    """The path that differs from this one in how its parts are written, and in what."""
    head, tail = os.path.split(name.rstrip("/"))
    return _inside(*_folder(head), tail)


@lru_cache(maxsize=10_000)
def _folder(name: str) -> tuple[str, str]:
    """The folder, or the one whose name differs from it in how it is written, and in what."""
    if os.path.isdir(name):
        return name, ""
    head, tail = os.path.split(name)
    if head == name or not tail:
        return "", ""
    found, why = _inside(*_folder(head), tail)
    return (found, why) if os.path.isdir(found) else ("", "")


def _inside(folder: str, why: str, name: str) -> tuple[str, str]:
    """What is meant by a name in a folder that was found already, and in what either differs."""
    if not folder:
        return "", ""
    if os.path.exists(os.path.join(folder, name)):
        return os.path.join(folder, name), why
    found, own = _among(folder, name)
    return (os.path.join(folder, found), own or why) if found else ("", "")


def _among(folder: str, name: str) -> tuple[str, str]:
    """The name in a folder that is meant, and in what it differs."""
    for (fold, why), names in zip(FOLDS, _names(folder), strict=True):
        found = names.get(fold(name))
        if found is not None:
            return found, why
    return "", ""


@lru_cache(maxsize=64)
def _names(folder: str) -> tuple[dict[str, str], ...]:
    """What a folder holds, by its name under each fold."""
    names = sorted(os.listdir(folder))
    files = [name for name in names if _is_recording(name)]
    return *({fold(one): one for one in names} for fold, _ in FOLDS[:-1]), {
        FOLDS[-1][0](one): one for one in files
    }


def _is_recording(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in AUDIO_SUFFIXES


def _without_suffix(name: str) -> str:
    stem, suffix = os.path.splitext(name)
    return stem if suffix in AUDIO_SUFFIXES else name


# ── in another folder ────────────────────────────────────────────────────────────────────────


def _elsewhere(name: str) -> str:
    """Where the file lies if its path is relative to another folder than the manifest's."""
    head, tail = os.path.split(name)
    for folder in _other_folders(head):
        if os.path.isfile(os.path.join(folder, tail)):
            there = os.path.join(folder, tail)
            return f"there is {there}: paths are relative to the manifest"
    return ""


@lru_cache(maxsize=10_000)
def _other_folders(folder: str) -> tuple[str, ...]:
    """Folders that the files of this one may lie in: of those that are there."""
    return tuple(dict.fromkeys(filter(os.path.isdir, _candidates(folder))))


def _candidates(folder: str) -> Iterator[str]:
    parts = Path(folder).parts
    current = os.getcwd()
    for first in range(1, len(parts) + 1):  # the last parts of the path, from where we are
        yield os.path.join(current, *parts[first:])
    for end in range(len(parts), 0, -1):  # without some folders in the middle
        for first in range(end - 1, 0, -1):
            yield os.path.join(*parts[:first], *parts[end:])
    if os.path.isdir(folder):  # one folder further down
        for name in sorted(os.listdir(folder))[:MOST_FOLDERS]:
            yield os.path.join(folder, name)
