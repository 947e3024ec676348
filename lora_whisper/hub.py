"""What `push` sends: files by an explicit list, changed where a name means nothing elsewhere.

Whatever is not on the list stays here: checkpoints with the optimizer's state, logs, hypotheses,
audio, and files that somebody put into the folder. It goes up as one commit of one repository, and
each refusal of the hub is one message; `HF_ENDPOINT` is read when it is called, for mirrors.
"""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_whisper.environment import findings, own_folders, own_names
from lora_whisper.errors import UserError, listing
from lora_whisper.evaluation.run_summary import RunSummary, read_summary
from lora_whisper.files import read_json
from lora_whisper.lora.provenance import read_metadata
from lora_whisper.lora.recipe import require_current
from lora_whisper.lora.saved import CONFIG_FILE, WEIGHTS_FILE, open_adapter
from lora_whisper.model.weights import weight_names
from lora_whisper.paths import EMBEDDED, file_name, program
from lora_whisper.reports.model_card import (
    BASE_PLACE,
    CARD_FILE,
    HUB_TERMS,
    PLACE,
    adapter_card,
    adapter_record,
    is_of_hub,
    merged_card,
)
from lora_whisper.run_folder import METADATA_FILE, RunFolder
from lora_whisper.terminal import is_live

if TYPE_CHECKING:
    from huggingface_hub import HfApi

WEIGHTS = ("model.safetensors", "model-?????-of-?????.safetensors", "model.safetensors.index.json")
VOCABULARY = ("vocab.json", "merges.txt", "added_tokens.json", "normalizer.json", "tokenizer.json")
SMALL_FILES = (
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    *VOCABULARY,
)
SUBFOLDER = "adapter"  # of the adapter beside a whole model


@dataclass(frozen=True)
class Upload:
    """One file that is sent."""

    path: str  # in the repository
    source: Path  # that it is, or was made from
    text: str | None = None  # what is sent in its place, where it was changed for the hub

    @property
    def unit(self) -> str:
        """Of what is searched in it."""
        return "entry of its header" if self.source.suffix == ".safetensors" else "line"

    @property
    def size_bytes(self) -> int:
        is_file = self.text is None
        return self.source.stat().st_size if is_file else len((self.text or "").encode())


@dataclass(frozen=True)
class HubBase:
    """The base as others find it."""

    name: str | None  # hub id, or embedded:…; None: a folder that nobody else has
    revision: str | None  # commit on the hub
    is_given: bool = False  # it was typed, and stands in none of the run's files


def hub_base(given: str | None, summary: RunSummary) -> HubBase:
    """The base's hub id and commit; what is embedded in the package has its name there.

    Args:
        given: the hub id that was typed as `base`.

    Raises:
        UserError: the run knows a base on the hub, and another one was typed.
    """
    name = summary.checkpoint
    if not is_of_hub(summary) and not name.startswith(EMBEDDED):
        return HubBase(given, None, given is not None)
    if given not in (None, name):
        raise UserError(
            f"base={given}: the adapter was trained on {name}. Leave base= away: it is for "
            "runs whose base was a folder."
        )
    kind, _, commit = summary.checkpoint_fingerprint.partition(":")
    return HubBase(name, commit if kind == "commit" else None)


def require_base_name(base: HubBase, summary: RunSummary) -> str:
    """What an adapter for others calls its base.

    Raises:
        UserError: it lay in a folder, and no hub id was typed.
    """
    if base.name is None:
        raise UserError(
            f"The adapter was trained on the folder {file_name(summary.checkpoint)}, which "
            "nobody else has.\nType base=owner/name, the same model on the hub."
        )
    return base.name


def uploads_of(what: str, repo: str, run: RunFolder, base: HubBase) -> list[Upload]:
    """Everything that is asked for, as it is sent to `repo`; `what`: adapter, merged or both.

    Where both are sent, the merged model lies at the root and the adapter in `adapter/`: beside a
    whole model, an `adapter_config.json` makes Transformers put the adapter on it a second time.

    Raises:
        UserError: the run was not merged, or what was merged not scored; its base has no name on
            the hub; files are missing.
    """
    summary, found = read_summary(run), []
    if what in ("merged", "both"):
        found += _merged_uploads(what, repo, run, summary, base)
    if what == "adapter":
        found += _adapter_uploads(what, repo, run, summary, base, "")
    elif what == "both":
        found += _adapter_uploads(what, repo, run, summary, base, f"{SUBFOLDER}/")
    return found


# ── the adapter ──────────────────────────────────────────────────────────────────────────────


def _adapter_uploads(
    what: str, repo: str, run: RunFolder, summary: RunSummary, base: HubBase, prefix: str
) -> list[Upload]:
    require_base_name(base, summary)
    open_adapter(run.adapter)
    if summary.adapter is None and read_json(run.summary)["adapter"] is not None:
        raise UserError(
            f"{run.adapter} is not the adapter that was scored. Type {program()} evaluate "
            f"{shlex.quote(f'run={run.path}')} overwrite=true"
        )
    folder = run.adapter
    return [
        Upload(prefix + WEIGHTS_FILE, folder / WEIGHTS_FILE),
        Upload(prefix + CONFIG_FILE, folder / CONFIG_FILE, _peft_config(folder, base)),
        Upload(
            prefix + METADATA_FILE, folder / METADATA_FILE, _json(record_of(run, summary, base))
        ),
        Upload(
            prefix + CARD_FILE,
            folder / CARD_FILE,
            _card(what, repo, run, summary, base, "adapter"),
        ),
    ]


def _peft_config(folder: Path, base: HubBase) -> str:
    """PEFT's file, which names the base as others find it: PEFT and vLLM load what it says."""
    values = read_json(folder / CONFIG_FILE)
    values |= {"base_model_name_or_path": base.name, "revision": base.revision}
    return _json(values)


def record_of(run: RunFolder, summary: RunSummary, base: HubBase) -> dict[str, Any]:
    """The adapter's record, with the base as others find it."""
    record = read_metadata(run.adapter) or adapter_record(run, summary)  # which older runs lack
    record["base"] |= {"name": base.name}
    if base.is_given:
        record["base"] |= {"commit": base.revision}
    return record


def _json(values: Mapping[str, Any]) -> str:
    return json.dumps(values, indent=2, ensure_ascii=False) + "\n"


# ── the merged model ─────────────────────────────────────────────────────────────────────────


def _merged_uploads(
    what: str, repo: str, run: RunFolder, summary: RunSummary, base: HubBase
) -> list[Upload]:
    folder, given = run.merged, shlex.quote(f"run={run.path}")
    merge, evaluate = (f"{program()} {one} {given}" for one in ("merge", "evaluate"))
    if not folder.is_dir():
        raise UserError(f"what={what}: the run was not merged yet. Type {merge}")
    names = sorted(path.name for path in folder.iterdir() if path.is_file())
    missing = [name for name in ("config.json",) if name not in names]
    if not any(name.endswith(".safetensors") for name in weight_names(names)):
        missing.append("weights, model.safetensors or all of its shards")
    if missing:
        raise UserError(
            f"{folder} is not whole, {' and '.join(missing)} is missing. Type {merge} "
            "overwrite=true"
        )
    require_current(run)
    if summary.adapter is not None and summary.merged is None:
        raise UserError(
            f"{folder} was not scored, or on another test set than the adapter. Type {merge}, or, "
            f"where that changes nothing, {evaluate} overwrite=true"
        )
    listed = [name for name in names if is_listed(name)]
    card = _card(what, repo, run, summary, base, "merged")
    return [
        *(Upload(name, folder / name) for name in listed),
        Upload(CARD_FILE, folder / CARD_FILE, card),
    ]


def is_listed(name: str) -> bool:
    """Whether a file of a merged model goes up, beside its card."""
    return name in SMALL_FILES or is_model_weight(name)


def is_model_weight(name: str) -> bool:
    return any(fnmatch(name, pattern) for pattern in WEIGHTS)


# ── cards ────────────────────────────────────────────────────────────────────────────────────


def _card(
    what: str, repo: str, run: RunFolder, summary: RunSummary, base: HubBase, model: str
) -> str:
    """The card with the repository's name.

    Args:
        model: adapter or merged.
    """
    text = card_of(run, summary, base, model)
    if model == "merged" or what == "adapter":
        text = text.replace(PLACE, repo)
    else:  # PEFT finds a folder inside a repository, vLLM does not
        text = text.replace(f'"{PLACE}")', f'"{repo}", subfolder="{SUBFOLDER}")')
    if model == "merged" and what == "both":
        text += f"\nThe adapter alone lies in [{SUBFOLDER}/](./{SUBFOLDER})."
        text += " Its card says how it is loaded.\n"
    return text


def card_of(run: RunFolder, summary: RunSummary, base: HubBase, model: str) -> str:
    """The card as it lies in the run, edited or not, with the name of the base for others."""
    folder, render = {
        "adapter": (run.adapter, adapter_card),
        "merged": (run.merged, merged_card),
    }[model]
    path = folder / CARD_FILE
    text = path.read_text(encoding="utf-8") if path.is_file() else render(run, summary)
    return _with_base(text, summary, base, model) if base.is_given else text


def _with_base(text: str, summary: RunSummary, base: HubBase, model: str) -> str:
    """Name the base that was typed, in the metadata too, by which the hub shows one below another.

    Its commit is not known to be the one that was trained on, and the sha256 stays.
    """
    from huggingface_hub import ModelCard

    own = re.escape(f"`{file_name(summary.checkpoint)}`")
    link = f"[{base.name}](https://huggingface.co/{base.name})"
    text = re.sub(rf"{own}(?= \(sha256)", lambda _: link, text).replace(BASE_PLACE, str(base.name))
    card = ModelCard(text, ignore_metadata_errors=True)
    card.data["base_model"] = base.name
    card.data["base_model_relation"] = HUB_TERMS[model][1]
    return str(card)


# ── before anything is sent ──────────────────────────────────────────────────────────────────


def require_nothing_private(
    uploads: Sequence[Upload], run: RunFolder, public: Sequence[str]
) -> None:
    """See that no text names this machine or holds a token, nor do the weights' headers.

    Args:
        public: hub ids that were typed.

    Raises:
        UserError: names each file, line and what was found.
    """
    folders, names = own_folders(run.path), own_names(public)
    problems = [
        f"{upload.source}, {upload.unit} {number}: {what}"
        for upload in uploads
        for number, what in findings(
            _searched(upload),
            folders,
            () if upload.source.name in VOCABULARY else names,  # any name may be a token there
        )
    ]
    if problems:
        raise UserError(
            f"Nothing was sent: this must not be published.\n{listing(problems)}\n"
            "Take it out of these files, and type the command again."
        )


def _searched(upload: Upload) -> str:
    """A text, or what weights say beside the numbers."""
    if upload.text is not None:
        return upload.text
    if upload.source.suffix == ".safetensors":
        return "\n".join(_header(upload.source))
    return upload.source.read_text(encoding="utf-8")


def _header(path: Path) -> Iterator[str]:
    """The metadata of a safetensors file, an entry a line."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            for key, value in sorted((file.metadata() or {}).items()):
                yield f"{key}: {value}".replace("\n", " ")
    except SafetensorError as error:
        raise UserError(f"{path} is no safetensors file: {error}") from error


LOGIN = (
    "Type hf auth login, or set HF_TOKEN to a token with the right to write; "
    "https://huggingface.co/settings/tokens makes one."
)
UNCHANGED = "No file there has changed."


@dataclass(frozen=True)
class Found:
    """A repository that is there."""

    is_private: bool
    files: frozenset[str]


@dataclass(frozen=True)
class Published:
    """What the hub says of a model in one of its commits."""

    commit: str | None
    sha256: dict[str, str]  # by file, of those that the hub keeps apart for their size


def hub() -> HfApi:
    from huggingface_hub import HfApi

    return HfApi(endpoint=os.environ.get("HF_ENDPOINT", "").rstrip("/") or None)


def require_access() -> None:
    """See that something can be sent at all, before files are looked at.

    Raises:
        UserError: the hub is switched off, or there is no token.
    """
    from huggingface_hub import constants, get_token

    if constants.HF_HUB_OFFLINE:
        raise UserError(
            "The hub is switched off by HF_HUB_OFFLINE (or TRANSFORMERS_OFFLINE). Type unset "
            "HF_HUB_OFFLINE TRANSFORMERS_OFFLINE, or dry_run=true, which needs no network."
        )
    if get_token() is None:
        raise UserError(f"There is no access token of the hub. {LOGIN}")


def open_repository(repo: str, private: bool) -> Found:
    """Make the repository where it does not exist, and look at what it holds.

    Raises:
        UserError: it cannot be made or seen.
    """
    api = hub()
    with refusals_explained(repo):
        api.create_repo(repo, private=private, exist_ok=True)
        info = api.model_info(repo)
    files = frozenset(one.rfilename for one in info.siblings or ())
    return Found(bool(info.private), files)


def require_room(repo: str, found: Found, private: bool, uploads: Sequence[Upload]) -> None:
    """See that the repository is as private as was asked, and holds no model of another kind.

    Raises:
        UserError: it is public, or a whole model and an adapter would lie side by side.
    """
    if private and not found.is_private:
        raise UserError(
            f"repo={repo} exists and is public, and private=true was asked for. Nothing was sent.\n"
            f"Type private=false, or make it private at {hub().endpoint}/{repo}/settings"
        )
    sent = {upload.path for upload in uploads}
    if CONFIG_FILE in found.files and CONFIG_FILE not in sent:
        raise UserError(
            f"repo={repo} holds an adapter at its root, which Transformers would put on the merged "
            "model a second time. Nothing was sent. Type another repo=owner/name"
        )
    if CONFIG_FILE in sent and any(map(is_model_weight, found.files)):
        raise UserError(
            f"repo={repo} holds a whole model at its root, on which Transformers would put the "
            "adapter. Nothing was sent.\nType what=both, or another repo=owner/name"
        )


def stale_weights(found: Found, uploads: Sequence[Upload]) -> list[str]:
    """Weights of an earlier model that are not replaced: readers take one file before shards."""
    sent = {upload.path for upload in uploads}
    if not any(map(is_model_weight, sent)):
        return []
    return sorted(name for name in found.files - sent if is_model_weight(name))


def send(repo: str, uploads: Sequence[Upload], stale: Sequence[str], message: str) -> str:
    """Send everything in one commit, so that readers find the old files or the new ones.

    Returns:
        The commit's address.

    Raises:
        UserError: the hub refuses, or the network fails; no file is visible then.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete
    from huggingface_hub.utils import disable_progress_bars

    if not is_live():
        disable_progress_bars()
    operations: list[CommitOperationAdd | CommitOperationDelete] = [
        CommitOperationAdd(one.path, str(one.source) if one.text is None else one.text.encode())
        for one in uploads
    ]
    operations += [CommitOperationDelete(name) for name in stale]
    with refusals_explained(repo):
        return hub().create_commit(repo, operations, commit_message=message).commit_url


def published(base: str) -> Published:
    """What the hub holds of a base that was typed.

    Raises:
        UserError: it is not there, or nobody may see it.
    """
    with refusals_explained(base, "base"):
        info = hub().model_info(base, files_metadata=True)
    large = {one.rfilename: one.lfs.sha256 for one in info.siblings or () if one.lfs}
    return Published(info.sha, large)


@contextmanager
def refusals_explained(repo: str, key: str = "repo") -> Iterator[None]:
    """Turn whatever a request fails with into one message; the network library varies."""
    from huggingface_hub.errors import HfHubHTTPError

    try:
        yield
    except Exception as error:
        cause = error.__cause__ if isinstance(error, RuntimeError) and error.__cause__ else error
        if isinstance(cause, HfHubHTTPError):
            reason = _refusal(cause, f"{key}={repo}")
        else:
            said = (str(cause).strip().splitlines() or [""])[0]
            reason = (
                f"{key}={repo}: the hub ({hub().endpoint}) could not be reached, or the connection "
                f"broke: {type(cause).__name__}: {said}\nType the same command when there is a "
                "network, or dry_run=true, which needs none."
            )
        raise UserError(f"{reason}\n{UNCHANGED}") from error


def _refusal(error: Exception, given: str) -> str:
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", 0)
    said = getattr(error, "server_message", None) or str(error).strip().splitlines()[0]
    if status == 401:
        return f"{given}: the hub does not take the access token ({said}). {LOGIN}"
    if status == 403:
        return f"{given}: the access token has no right to write there ({said}). {LOGIN}"
    if status == 404:
        return f"{given}: the hub knows no such user, organization or repository ({said})."
    if status == 429:
        return f"{given}: the hub asks to wait ({said}). Type the same command later."
    if status >= 500:
        return f"{given}: the hub has a failure of its own ({said}). Type the same command later."
    return f"{given}: the hub refuses ({said})."
