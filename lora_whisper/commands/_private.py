"""What must not be published: paths of this machine, names of its user and host, access tokens.

A search over texts before they are sent. It finds what is written as it is, or escaped in JSON; it
is the last net below files that are made without such things in the first place.
"""

from __future__ import annotations

import getpass
import json
import os
import re
import socket
from collections.abc import Collection, Iterator
from pathlib import Path

from lora_whisper.commands._environment import CHECKOUT

# Accounts and hosts that many have, and words that stand in every card: they name nobody.
NOBODYS = frozenset(
    "root user users admin ubuntu debian fedora ec2 vagrant docker jovyan runner worker colab "
    "kaggle localhost local home whisper openai lora peft adapter model models speech audio data "
    "train test base python transformers".split()
)
CACHES = ("HF_HOME", "HF_HUB_CACHE")  # a base's path may begin with these
SHORTEST_NAME = 3  # letters; shorter ones stand in any text
HUB_ADDRESS = "https://huggingface.co/"
TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{16,}")
HOME_OF_SOMEBODY = re.compile(r"(?<![\w.])/(?:home|Users)/[\w.-]+|\b[A-Z]:\\+Users\\+[\w.-]+")
BEFORE_PATH, AFTER_PATH = r"(?<![\w.~-])", r"(?![\w-])"  # "/data" is not in "owner/data-2"


def own_folders(run: Path) -> list[str]:
    """Folders of this machine that nobody else has: the longest first."""
    caches = [Path(os.environ[name]) for name in CACHES if os.environ.get(name)]
    given = [run, Path.home(), Path.cwd(), CHECKOUT, *caches]
    found = {str(path) for each in given for path in (each.absolute(), each.resolve())}
    return sorted((path for path in found if path != "/"), key=len, reverse=True)


def own_names(public: Collection[str] = ()) -> list[str]:
    """The user's name and the host's, unless they say nothing.

    Args:
        public: hub ids that were typed, such as the repository's: what stands in them is known to
            everybody who may see what is sent.
    """
    known = {word.lower() for name in public for word in re.split(r"[\W_]+", name)}
    host = socket.gethostname()
    found = {_user(), *_users_of_home(), host, host.partition(".")[0]}
    return sorted(
        name
        for name in found
        if len(name) >= SHORTEST_NAME and name.lower() not in NOBODYS | known | set(public)
    )


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user without an entry
        return ""


def _users_of_home() -> Iterator[str]:
    """Of a home folder such as /home/anna, which `su` and containers keep under another user."""
    home = Path.home()
    if home.parent.name in ("home", "Users"):
        yield home.name


def findings(
    text: str, folders: Collection[str], names: Collection[str]
) -> Iterator[tuple[int, str]]:
    """What must not be published, such as `the path /home/anna`, each with its line's number."""
    for number, line in enumerate(_unescaped(text).splitlines(), start=1):
        for what in _in_line(line, folders, names):
            yield number, what


def _in_line(line: str, folders: Collection[str], names: Collection[str]) -> Iterator[str]:
    token = TOKEN.search(line)
    if token:  # its end is not shown: the message may go into a log
        yield f"an access token ({token[0][:6]}…)"
    paths = [f"{BEFORE_PATH}{re.escape(folder)}{AFTER_PATH}" for folder in folders]
    found = next((hit for path in paths if (hit := re.search(path, line))), None)
    found = found or HOME_OF_SOMEBODY.search(line)
    if found:
        yield f"the path {found[0]}"
        return
    yield from (f"the name {name}" for name in names if _names(line, name))


def _names(line: str, name: str) -> bool:
    """Whether the name stands there, other than as the owner of something on the hub.

    That one stands before a slash and behind none: anna/speech, but not /mnt/anna/speech.
    """
    word, line = re.escape(name), line.replace(HUB_ADDRESS, "")
    return re.search(rf"(?<!\w){word}(?!\w)(?!/\w)|[/~]{word}/", line) is not None


def _unescaped(text: str) -> str:
    """With the letters that JSON has escaped: a home folder may be /home/andr\\u00e9."""
    plain = text.replace("\\/", "/")
    return re.sub(r"(?:\\u[0-9a-fA-F]{4})+", lambda hit: _decoded(hit[0]), plain)


def _decoded(escapes: str) -> str:
    decoded: str = json.loads(f'"{escapes}"')
    return decoded if decoded.isprintable() else escapes
