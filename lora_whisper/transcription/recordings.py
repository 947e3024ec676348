"""What `audio=` stands for: files, folders, patterns, standard input; and where texts of it go."""

from __future__ import annotations

import glob
import re
import shlex
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lora_whisper.data.durations import AUDIO_SUFFIXES
from lora_whisper.data.sources.subtitles import RECORDINGS
from lora_whisper.errors import Problems, UserError
from lora_whisper.paths import local_path, plain_name, short

STANDARD_INPUT = "-"
SUFFIXES = AUDIO_SUFFIXES | {*RECORDINGS}  # of sound, also of films
ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
# By format, how its files are named.
ENDINGS = {"text": "txt", "srt": "srt", "vtt": "vtt", "tsv": "tsv", "json": "json"}


@dataclass(frozen=True)
class Source:
    """A recording that is to be transcribed."""

    name: str  # as messages call it
    path: Path | None  # None: standard input
    below: Path = Path()  # of the folder that was given, where it lies in one of that

    def folder(self, out: Path | None) -> Path:
        """Where its text goes: beside it, or into a folder, as deep as it lies in its own."""
        if out is not None:
            return out / self.below
        assert self.path is not None
        return self.path.parent

    @property
    def file(self) -> Path:
        return Path("stdin") if self.path is None else self.path


def find_recordings(audio: Sequence[str]) -> list[Source]:
    """The files that are meant, each once, in the order in which they were given.

    Of folders and patterns, those with an ending of sound; of a folder also what lies below it.

    Raises:
        UserError: names all that is not there, that is an address, or that holds no sound.
    """
    problems, found = Problems(), dict[Path | None, Source]()
    for given in audio:
        with problems.noted():
            if given == STANDARD_INPUT:
                found.setdefault(None, Source("standard input", None))
                continue
            folder = local_path(given)
            for path in _meant(given):
                below = path.parent.relative_to(folder) if folder.is_dir() else Path()
                found.setdefault(path, Source(short(path), path, below))
    problems.raise_any()
    if None in found and len(found) > 1:
        raise UserError(f"audio={STANDARD_INPUT}: standard input is read alone.")
    return list(found.values())


def _meant(given: str) -> list[Path]:
    path = local_path(given)
    if path.is_dir():
        return _below(path, given)
    if path.is_file():
        return [path]
    if path.exists():
        raise UserError(f"audio={given}: no regular file. audio=- reads what a program writes.")
    if ADDRESS.match(given):
        file = given.rstrip("/").rpartition("/")[2] or "FILE"
        raise UserError(
            f"audio={given}: an address, and files are read. Download it first:\n"
            f"curl -L -o {shlex.quote(file)} {shlex.quote(given)}"
        )
    if any(character in given for character in "*?["):
        files = [Path(one) for one in sorted(glob.glob(str(path), recursive=True))]
        files = [one for one in files if one.is_file()]
        if sounding := [one for one in files if one.suffix.lower() in SUFFIXES] or files:
            return sounding
        raise UserError(f"audio={given}: no file has such a name.")
    raise UserError(f"audio={given}: no such file or folder.")


def _below(folder: Path, given: str) -> list[Path]:
    found = sorted(path for path in folder.rglob("*") if _is_sound(path, folder))
    if not found:
        raise UserError(
            f"audio={given}: the folder holds no file with an ending of sound "
            f"({' '.join(sorted(SUFFIXES))}). Type the files' own names where theirs is another."
        )
    return found


def _is_sound(path: Path, folder: Path) -> bool:
    is_hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
    return path.suffix.lower() in SUFFIXES and not is_hidden and path.is_file()


def places(
    sources: Sequence[Source], out: Path | None, formats: Sequence[str], models: Sequence[str]
) -> Iterator[tuple[Source, str | None, dict[str, Path]]]:
    """Of each recording, and each model where there are several, where each format goes.

    `talk.wav` has its text in talk.txt; where a talk.mp3 lies beside it, in talk.wav.txt.

    Raises:
        UserError: two would go to the same place, or one to a recording's own.
    """
    taken: dict[Path, str] = {source.path: source.name for source in sources if source.path}
    stems = Counter(source.folder(out) / source.file.stem for source in sources)
    for model in models if len(models) > 1 else [None]:
        for source in sources:
            is_alone = stems[source.folder(out) / source.file.stem] == 1
            name = source.file.stem if is_alone else source.file.name
            names = [name] if model is None else [name, plain_name(model)]
            own = {
                format: source.folder(out) / ".".join([*names, ENDINGS[format]])
                for format in formats
            }
            for place in own.values():
                if place in taken:
                    raise UserError(
                        f"{source.name} and {taken[place]}: the text of one would lie where the "
                        f"other has its own, {place}. Give one of them another name, or transcribe "
                        "them with out=… of their own."
                    )
                taken[place] = source.name
            yield source, model, own
