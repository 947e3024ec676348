"""The base checkpoint: where it lies, whether it is whole, and what names its weights exactly.

`locate` is the one door for folders that somebody else made, whichever command they were given to:
it looks at all of their files (`base_files`) without importing torch, so that what is not there or
not sound is reported at once. A hub checkpoint is read from its cached snapshot: everything below
`snapshot` sees a local folder. Classes are named outright, so that nothing in that folder is ever
run as code, nor asked for.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
import os
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from lora_whisper.config import ModelConfig
from lora_whisper.errors import UserError, listing
from lora_whisper.json_files import read_object, shown
from lora_whisper.model import base_files
from lora_whisper.model.weights import (
    is_pickled,
    missing_shards,
    require_allowed,
    weight_names,
)
from lora_whisper.paths import EMBEDDED, local_path
from lora_whisper.run_folder import MERGED_FILES

log = logging.getLogger("lora_whisper")

SMALL_FILES = ("*.json", "*.txt")  # configurations and tokenizer
WHOLE_FILES = ("model.safetensors", "pytorch_model.bin")  # weights in one file

# Transformers takes such a file for the whole checkpoint, whatever else is there.
SHARD_OF_A_PROCESS = re.compile(r"shard-[0-9]{5}-model-")

WEIGHTS = "weights, model.safetensors or all of its shards"

CHECKPOINT_KEY = "model.checkpoint"


@dataclass(frozen=True)
class Checkpoint:
    """A Whisper checkpoint that `locate` has seen."""

    path: str  # absolute folder, or hub id
    revision: str | None  # branch, tag or commit on the hub; None for a folder
    name: str  # as the user gave it
    has_weights: bool = True  # else only its small files are looked for, and fetched
    allow_pickle: bool = False  # read weights from files that can run code
    key: str = CHECKPOINT_KEY  # that it was typed for, or can be, such as "base"
    named_in: str = ""  # a file that names it, where nobody typed it

    @property
    def given(self) -> str:
        """What the user typed, or where it comes from."""
        if self.named_in:
            return f"{self.name}, the base that {self.named_in} names"
        return f"{self.key}={self.name}"


def locate(
    config: ModelConfig, with_weights: bool = True, key: str = CHECKPOINT_KEY, named_in: str = ""
) -> Checkpoint:
    """Find the checkpoint: an embedded one, a folder, or a hub id.

    Args:
        with_weights: without them, tokenizer and configurations suffice.
        key: that it was typed for.
        named_in: the file that names it, where nobody typed it.

    Raises:
        UserError: neither a folder nor in the hub's cache nor reachable; or not a complete Whisper.
    """
    name = config.checkpoint
    folder = local_path(name)
    if folder.is_dir():
        path = str(folder.resolve())
        found = Checkpoint(path, None, name, with_weights, config.allow_pickle, key, named_in)
        _require_whisper(folder, found)
        return found
    if name.startswith(EMBEDDED):
        raise UserError(f"{key}={name}: no such model in the package, at {folder}")
    checkpoint = Checkpoint(
        name, config.revision, name, with_weights, config.allow_pickle, key, named_in
    )
    cached = _cached_snapshot(checkpoint)
    if cached is None:
        cached_config = _reach(checkpoint)
        _raise_for(checkpoint, _config_problems(cached_config))
    else:
        _require_whisper(cached, checkpoint)
    return checkpoint


def snapshot(checkpoint: Checkpoint) -> Path:
    """Return the folder with the checkpoint's files, downloaded from the hub at first use.

    A cached copy is used as it is, without asking the hub whether its branch has moved: a run that
    is resumed goes on with the base that it began with.
    """
    from huggingface_hub import HfApi, snapshot_download

    if Path(checkpoint.path).is_dir():
        return Path(checkpoint.path)
    cached = _cached_snapshot(checkpoint)
    if cached is not None:
        return cached
    patterns = [*SMALL_FILES]
    if checkpoint.has_weights:
        names = HfApi().list_repo_files(checkpoint.path, revision=checkpoint.revision)
        patterns += _weight_names(checkpoint, names)  # not the TensorFlow and fp32 copies
    folder = Path(
        snapshot_download(checkpoint.path, revision=checkpoint.revision, allow_patterns=patterns)
    )
    _require_whisper(folder, checkpoint)
    return folder


def at_hand(name: str, revision: str | None) -> Checkpoint | None:
    """A checkpoint in a folder or in the hub's cache, found without asking the hub."""
    try:
        is_cached = _cached_snapshot(Checkpoint(name, revision, name)) is not None
        if is_cached or local_path(name).is_dir():
            return locate(ModelConfig(name, revision, "auto", "auto", allow_pickle=False))
    except UserError:  # such as a folder of something else
        pass
    return None


def weight_files(checkpoint: Checkpoint) -> list[Path]:
    """The files with the checkpoint's weights, all shards in their order."""
    folder = snapshot(checkpoint)
    return [folder / name for name in _weight_names(checkpoint, os.listdir(folder))]


def _weight_names(checkpoint: Checkpoint, names: Collection[str]) -> list[str]:
    found = weight_names(names)
    if is_pickled(found):
        require_allowed(checkpoint.given, checkpoint.allow_pickle, checkpoint.key)
    return found


def locate_config(config: ModelConfig) -> Checkpoint:
    """Find a folder that need not hold anything but config.json.

    Raises:
        UserError: what it holds is not sound.
    """
    folder = local_path(config.checkpoint)
    checkpoint = Checkpoint(str(folder.resolve()), None, config.checkpoint, has_weights=False)
    if _missing_files(folder, with_weights=False):
        _raise_for(checkpoint, _config_problems(folder / base_files.CONFIG))
    else:
        _require_whisper(folder, checkpoint)
    return checkpoint


def fingerprint(checkpoint: Checkpoint) -> str:
    """Name the weights exactly: the hub's commit, or the sha256 of a folder's weight files."""
    folder = snapshot(checkpoint)
    if str(folder) != checkpoint.path:
        return f"commit:{folder.name}"  # the cache names a snapshot by its commit
    return f"sha256:{weights_sha256(checkpoint)}"


def weights_sha256(checkpoint: Checkpoint) -> str:
    """Of the weight files, which names the weights wherever they were taken from."""
    return sha256(*weight_files(checkpoint))


def merged_hashes(folder: Path) -> dict[str, str]:
    """What names a merged model exactly: of its weights, and of the files that say what they mean.

    Another activation function or tokenizer makes another model of the same weights.
    """
    found = {}
    files = [folder / name for name in weight_names([one.name for one in folder.iterdir()])]
    if files and all(one.is_file() for one in files):
        found["checkpoint"] = sha256(*files)
    beside = [folder / name for name in MERGED_FILES if (folder / name).is_file()]
    names = " ".join(one.name for one in beside)
    found["settings"] = hashlib.sha256(f"{names} {sha256(*beside)}".encode()).hexdigest()
    return found


def sha256(*paths: Path) -> str:
    """Of files one after the other, which are read once as long as they stay the same."""
    stats = [path.stat() for path in paths]
    return _sha256(paths, tuple((stat.st_size, stat.st_mtime_ns) for stat in stats))


@functools.lru_cache
def _sha256(paths: tuple[Path, ...], states: tuple[tuple[int, int], ...]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def weights_bytes(checkpoint: Checkpoint) -> int:
    """Size of the checkpoint's weight files, what an adapter's size is compared with."""
    return sum(path.stat().st_size for path in weight_files(checkpoint))


def open_to_readers(folder: Path) -> None:
    """Give weights the permissions of the files beside them.

    safetensors 0.8 makes its files readable by their owner alone, whatever the umask says; a
    server that runs as somebody else could then not load what was trained.
    """
    permissions = next(folder.glob("*.json")).stat().st_mode
    for path in folder.glob("*.safetensors"):
        path.chmod(permissions)


def _cached_snapshot(checkpoint: Checkpoint) -> Path | None:
    """Look the hub id up in the local cache; None unless everything needed is there."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        folder = snapshot_download(
            checkpoint.path,
            revision=checkpoint.revision,
            allow_patterns=["config.json"],
            local_files_only=True,
        )
    except (HFValidationError, LocalEntryNotFoundError):
        return None
    is_complete = not _missing_files(Path(folder), checkpoint.has_weights)
    return Path(folder) if is_complete else None


def _reach(checkpoint: Checkpoint) -> Path:
    """Fetch config.json from the hub, after one HEAD that fails fast where there is no network."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.errors import HFValidationError

    path, revision = checkpoint.path, checkpoint.revision
    try:
        get_hf_file_metadata(hf_hub_url(path, "config.json", revision=revision), timeout=5)
        return Path(hf_hub_download(path, "config.json", revision=revision))
    except HFValidationError:
        reason = "not a folder, and not of the form of a hub id (owner/name)"
    except Exception as error:  # every way in which a request can fail; the network library varies
        reason = f"no such folder, not in the hub's cache, and the hub gives: {first_line(error)}"
    hints = [
        f"a folder: {checkpoint.key}=path/to/folder",
        "without network: on a machine that has it, hf download OWNER/NAME --local-dir NAME; "
        "copy NAME here and give it as the folder",
    ]
    if checkpoint.key == CHECKPOINT_KEY:
        sizes = "a published size by its name: model=tiny … model=large-v3"
        packaged = "without network and without any download: model=nano, which is in the package"
        hints = [sizes, *hints, packaged]
    raise UserError(f"{checkpoint.given}: {reason}\n{listing(hints)}")


def first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def _require_whisper(folder: Path, checkpoint: Checkpoint) -> None:
    """Raise for a folder that lacks files or holds another architecture, naming all problems."""
    problems = _missing_files(folder, checkpoint.has_weights)
    if (folder / base_files.CONFIG).exists():
        problems += _stray_files(folder)
        if problems:
            problems += _config_problems(folder / base_files.CONFIG)
        else:  # weights are looked at where they are, needed or not
            names = weight_names(os.listdir(folder))
            if checkpoint.has_weights:
                names = _weight_names(checkpoint, names)
            elif is_pickled(names) and not checkpoint.allow_pickle:
                names = []
            problems = list(_problems_of(folder, tuple(names), _state_of(folder)))
    _raise_for(checkpoint, problems)


def _state_of(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """By which it is known that the files are still the same."""
    found = []
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        state = entry.stat(follow_symlinks=False)
        with contextlib.suppress(OSError):  # a link to nowhere
            state = entry.stat()
        found.append((entry.name, state.st_size, state.st_mtime_ns))
    return tuple(found)


@functools.lru_cache
def _problems_of(
    folder: Path, weights: tuple[str, ...], state: tuple[tuple[str, int, int], ...]
) -> tuple[str, ...]:
    if code := base_files.names_code(folder):
        log.warning("not run     code that %s in %s names", " and ".join(code), folder)
    return tuple(base_files.problems_of(folder, weights))


def _raise_for(checkpoint: Checkpoint, problems: list[str]) -> None:
    if problems:
        raise UserError(f"{checkpoint.given} is no Whisper checkpoint:\n{listing(problems)}")


def _missing_files(folder: Path, with_weights: bool) -> list[str]:
    """Name every kind of file that a checkpoint needs and `folder` lacks."""
    names = os.listdir(folder)
    if "adapter_config.json" in names and "config.json" not in names:
        return ["found an adapter; expected a whole model: give its base, or merge it first"]
    needed = {
        "config.json": "config.json" in names,
        WEIGHTS: (not with_weights or bool(weight_names(names))),
        "tokenizer.json, or vocab.json and merges.txt": (
            "tokenizer.json" in names or {"vocab.json", "merges.txt"} <= set(names)
        ),
        "preprocessor_config.json": bool(
            {"preprocessor_config.json", "processor_config.json"} & set(names)
        ),
    }
    found = ", ".join(sorted(names)[:8]) or "an empty folder"
    if not needed[WEIGHTS] and (shards := missing_shards(names)):
        del needed[WEIGHTS]
        more = f" and {len(shards) - 3} more" if len(shards) > 3 else ""
        lacking = [f"{', '.join(shards[:3])}{more}: missing. Download or copy them as well"]
    else:
        lacking = []
    return lacking + [
        f"{kind}: missing; found {found}" for kind, there in needed.items() if not there
    ]


def _stray_files(folder: Path) -> list[str]:
    """Name what Transformers would read beside the weights that `weight_names` chose, or in their
    place: what is measured has to be what is merged.
    """
    names = os.listdir(folder)
    if "adapter_config.json" in names:
        return [
            "found an adapter beside the whole model, which would be loaded with it: take "
            "adapter_config.json out of the folder"
        ]
    if of_processes := [name for name in names if SHARD_OF_A_PROCESS.match(name)]:
        return [f"found {of_processes[0]}, which would be loaded in place of the weights"]
    chosen = weight_names(names)
    if not chosen or chosen[0] in WHOLE_FILES:
        return []
    index = WHOLE_FILES[0 if not is_pickled(chosen) else 1] + ".index.json"
    if not (folder / index).exists():
        return [
            f"{index}: missing; it says which of the {len(chosen)} files has which weights. "
            "Download or copy it as well"
        ]
    try:
        files = read_object(folder / index).get("weight_map")
    except ValueError as error:
        return [f"{index}: {error}"]
    if not isinstance(files, dict):
        return [f"{index}: weight_map: expected names with their files, found {shown(files)}"]
    found = set(map(str, files.values()))
    if found == set(chosen):
        return []
    return [f"{index}: expected {len(chosen)} files of its folder, found {sorted(found)!a:.200}"]


def _config_problems(path: Path) -> list[str]:
    """Say what is wrong with config.json, if anything."""
    try:
        return base_files.config_problems(read_object(path))
    except ValueError as error:
        return [f"config.json: {error}"]


def is_hub_id(given: str) -> bool:
    """Whether a text has the form OWNER/NAME."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(given)
    except HFValidationError:
        return False
    return given.count("/") == 1
