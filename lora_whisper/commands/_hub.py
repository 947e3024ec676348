"""The hub as `push` needs it: one repository, one commit, and each of its refusals in one message.

`HF_ENDPOINT` is read when it is called, for who goes through a mirror.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lora_whisper.commands._uploading import Upload, is_model_weight
from lora_whisper.errors import UserError
from lora_whisper.lora.saved import CONFIG_FILE
from lora_whisper.terminal import is_live

if TYPE_CHECKING:
    from huggingface_hub import HfApi

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
