"""What something was made with: the machine and the software, but no name of a person or a host.

And what must not be published: paths of this machine, names of its user and host, access tokens.
Texts are searched for them before they are sent, as they are or escaped in JSON.
"""

from __future__ import annotations

import contextlib
import functools
import getpass
import importlib.metadata
import json
import os
import platform
import re
import socket
import subprocess
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from lora_whisper import __version__

LIBRARIES = ("torch", "transformers", "peft", "accelerate", "bitsandbytes", "tokenizers", "jiwer")
CHECKOUT = Path(__file__).parents[1]  # of the repository, where the package is not installed


def versions() -> dict[str, str]:
    """Of lora_whisper, Python and the libraries that could change a result."""
    libraries = {name: importlib.metadata.version(name) for name in LIBRARIES}
    return {"lora_whisper": __version__, "python": platform.python_version(), **libraries}


def environment() -> dict[str, Any]:
    """The machine, as far as it could explain a result or its speed."""
    import torch

    count = torch.cuda.device_count()
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(number) for number in range(count)],
        "cuda": torch.version.cuda,  # that torch is built for; None: for the CPU alone
        "commit": _commit(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        return platform.processor()
    return next((line.split(": ")[1] for line in lines if line.startswith("model name")), "")


def _commit() -> str | None:
    """Of lora_whisper's own checkout, "-dirty" where it was changed; None of an installed one."""
    if not (CHECKOUT / ".git").exists():  # a repository further up would be somebody else's
        return None
    command = ["git", "-C", str(CHECKOUT), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        done = subprocess.run([*command, "--exclude=*"], capture_output=True, text=True)
    except OSError:  # no git
        return None
    return done.stdout.strip() or None


# Accounts and hosts that many have, and words that stand in every card: they name nobody.
NOBODYS = frozenset(
    "root user users admin ubuntu debian fedora ec2 vagrant docker jovyan runner worker colab "
    "kaggle localhost local home whisper openai lora peft adapter model models speech audio data "
    "train test base python transformers".split()
)
CACHES = ("HF_HOME", "HF_HUB_CACHE")  # a base's path may begin with these
SHORTEST_NAME = 3  # letters; shorter ones stand in any text
HUB_ADDRESS = "https://huggingface.co/"
TOKEN = r"\bhf_[A-Za-z0-9]{16,}"
HOME_OF_SOMEBODY = r"(?<![\w.])/(?:home|Users)/[\w.-]+|\b[A-Z]:\\+Users\\+[\w.-]+"
NEVER = "(?!)"
BEFORE_PATH, AFTER_PATH = r"(?<![\w.~-])", r"(?![\w-])"  # "/data" is not in "owner/data-2"


def own_folders(run: Path) -> list[str]:
    """Folders of this machine that nobody else has: the longest first."""
    caches = [Path(os.environ[name]) for name in CACHES if os.environ.get(name)]
    given = [run, Path.home(), Path.cwd(), CHECKOUT, *caches]
    folders = {str(path) for each in given for path in (each.absolute(), each.resolve())}
    return sorted((path for path in folders if path != "/"), key=len, reverse=True)


def own_names(public: Collection[str] = ()) -> list[str]:
    """The user's name and the host's, unless they say nothing.

    Args:
        public: hub ids that were typed, such as the repository's: what stands in them is known to
            everybody who may see what is sent.
    """
    known = {word.lower() for name in public for word in re.split(r"[\W_]+", name)}
    host, home = socket.gethostname(), Path.home()
    names = {host, host.partition(".")[0]}
    with contextlib.suppress(OSError, KeyError):  # a container's user without an entry
        names.add(getpass.getuser())
    if home.parent.name in ("home", "Users"):  # `su` and containers keep it under another user
        names.add(home.name)
    return sorted(
        name
        for name in names
        if len(name) >= SHORTEST_NAME and name.lower() not in NOBODYS | known | set(public)
    )


def findings(
    text: str, folders: Collection[str], names: Collection[str]
) -> Iterator[tuple[int, str]]:
    """What must not be published, such as `the path /home/anna`, each with its line's number."""
    # With the letters that JSON has escaped: a home folder may be /home/andr\u00e9.
    plain = text.replace("\\/", "/")
    plain = re.sub(r"(?:\\u[0-9a-fA-F]{4})+", lambda escapes: _unescaped(escapes[0]), plain)
    searched = plain.replace(HUB_ADDRESS, "")
    for hit in _pattern(tuple(folders), tuple(names)).finditer(searched):
        number = searched.count("\n", 0, hit.start()) + 1
        if hit["token"]:  # its end is not shown: the message may go into a log
            yield number, f"an access token ({hit['token'][:6]}…)"
        else:
            kind = "path" if hit["path"] else "name"
            yield number, f"the {kind} {hit[kind]}"


@functools.cache
def _pattern(folders: tuple[str, ...], names: tuple[str, ...]) -> re.Pattern[str]:
    """All at once, since a vocabulary has hundreds of thousands of lines."""
    own = [f"{BEFORE_PATH}{re.escape(folder)}{AFTER_PATH}" for folder in folders]
    kinds = [f"(?P<token>{TOKEN})", f"(?P<path>{'|'.join([*own, HOME_OF_SOMEBODY])})"]
    # Before a slash and behind none, a name is the owner of something on the hub: anna/speech, but
    # not /mnt/anna/speech.
    words = "|".join(map(re.escape, names)) or NEVER
    kinds.append(rf"(?P<name>(?<!\w)(?:{words})(?!\w)(?!/\w)|(?<=[/~])(?:{words})(?=/))")
    return re.compile("|".join(kinds))


def _unescaped(escapes: str) -> str:
    letters: str = json.loads(f'"{escapes}"')
    return letters if letters.isprintable() else escapes
