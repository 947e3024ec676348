"""`lora-whisper push`: put a run's adapter, its merged model or both on the hub.

    lora-whisper push run=outputs/mine repo=owner/name dry_run=true
    lora-whisper push run=outputs/mine repo=owner/name

Private unless `private=false` is typed. What goes up is on a list, is searched for names and paths
of this machine before, and arrives in one commit: all of it or nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lora_whisper import __version__
from lora_whisper.cli.command import Command
from lora_whisper.config import PushConfig
from lora_whisper.evaluation.run_summary import RunSummary, read_summary
from lora_whisper.hub import (
    HubBase,
    Upload,
    hub_base,
    open_repository,
    published,
    require_access,
    require_nothing_private,
    require_room,
    send,
    stale_weights,
    uploads_of,
)
from lora_whisper.locks import locked
from lora_whisper.lora.provenance import require_trained_adapter
from lora_whisper.lora.resolve import resolve_run
from lora_whisper.reports.tables import Column, Table
from lora_whisper.run_folder import RunFolder
from lora_whisper.terminal import console, file_size

log = logging.getLogger("lora_whisper")
SENT = {"adapter": "Adapter", "merged": "Merged model", "both": "Merged model and adapter"}


@dataclass(frozen=True)
class PushPlan:
    """What of which run is sent."""

    config: PushConfig
    folder: RunFolder
    base: HubBase


def prepare(config: PushConfig, path: Path) -> PushPlan:
    """Find everything that would stop it here, before the hub is asked for anything.

    Raises:
        UserError: no complete run, or another adapter in it; files are missing or name this
            machine; or there is no token.
    """
    run = resolve_run(config.run, "push")
    require_trained_adapter(run)
    base = hub_base(config.base, read_summary(run))
    require_nothing_private(uploads_of(config.what, config.repo, run, base), run, _public(config))
    if not config.dry_run:
        require_access()
    return PushPlan(config, run, base)


def run(plan: PushPlan) -> None:
    """Show what goes up, and send it."""
    config, folder, base = plan.config, plan.folder, plan.base
    with locked(folder.path):
        summary = read_summary(folder)
        if base.is_given and not config.dry_run:
            base = _pinned(base, summary)
        uploads = uploads_of(config.what, config.repo, folder, base)
        require_nothing_private(uploads, folder, _public(config))
        console.print(upload_table(uploads, config.repo).terminal())
        _say_who_sees_it(config)
        if config.dry_run:
            log.info("dry run     nothing was sent; without dry_run=true it is")
            return
        found = open_repository(config.repo, config.private)
        require_room(config.repo, found, config.private, uploads)
        stale = stale_weights(found, uploads)
        for name in stale:
            log.warning("replaced    %s of an earlier model is deleted there", name)
        if found.is_private and not config.private:
            log.warning("private     the repository exists and is private, and stays so")
        message = f"{SENT[config.what]} {summary.name}, by lora_whisper {__version__}"
        log.info("sent        %s", send(config.repo, uploads, stale, message))


def upload_table(uploads: Sequence[Upload], repo: str) -> Table:
    """Each file with its size, and all of them."""
    total = sum(upload.size_bytes for upload in uploads)
    files = Column("file", is_text=True, footer=f"{len(uploads)} files")
    table = Table([files, Column("size", footer=file_size(total))], repo)
    for upload in uploads:
        table.add(upload.path, file_size(upload.size_bytes))
    return table


def _say_who_sees_it(config: PushConfig) -> None:
    if config.private:
        log.info("private     only you and whom you let in see it; private=false is for everybody")
    else:
        log.warning("PUBLIC      everybody can read and copy it, and copies cannot be taken back")


def _pinned(base: HubBase, summary: RunSummary) -> HubBase:
    """The base that was typed, in the commit that it has now, where that is what was trained on.

    Only whole files can be compared: other shards or another dtype may still be the same model.
    """
    found = published(str(base.name))
    trained = summary.checkpoint_fingerprint.removeprefix("sha256:")
    if trained in found.sha256.values():
        return HubBase(base.name, found.commit, is_given=True)
    log.warning(
        "base        no file of %s is, byte for byte, the weights that were trained on (sha256 "
        "%s…), so that no commit of it is named",
        base.name,
        trained[:12],
    )
    return base


def _public(config: PushConfig) -> list[str]:
    return [config.repo, *([config.base] if config.base else [])]


COMMAND = Command("push", PushConfig, prepare, run)
