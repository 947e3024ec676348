"""The label doctor: from measured speech to findings about its transcripts."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from lora_whisper import terminal
from lora_whisper.config import CheckConfig, LabelsConfig
from lora_whisper.data.quality import SILENT_DBFS
from lora_whisper.data.quality_measures import Measured
from lora_whisper.evaluation.decoding.whisper import WhisperDecoder
from lora_whisper.evaluation.loading import decoder_of, identity
from lora_whisper.evaluation.models import ModelEntry, trained
from lora_whisper.labels import comparison, findings, folds
from lora_whisper.labels.evidence import Evidence, Kept
from lora_whisper.labels.findings import LabelFinding
from lora_whisper.labels.listening import BATCH_CLIPS, Clip, Listener, clip_of
from lora_whisper.model.base import Base
from lora_whisper.model.device import new_accelerator

log = logging.getLogger("lora_whisper")

FORMAT = 2  # raised when evidence is found in another way
TRIED_CLIPS = 24  # of which is told whether the base knows the language, and what all will take
KNOWN_SHARE = 0.75  # of these, that have to fit their own clip best, by text and by hypothesis


@dataclass(frozen=True)
class LabelReport:
    """What was listened to, by what, and what was found."""

    utterances: int  # that were listened to
    not_heard: Mapping[str, int]  # others, by reason
    listener: str  # what listened, in words
    findings: Sequence[LabelFinding]  # the surest first
    settings: Mapping[str, float]


def examine(config: CheckConfig, base: Base, measured: Mapping[str, Measured]) -> LabelReport:
    """Listen to all training speech, and say whose transcripts are wrong.

    Args:
        measured: of train, and of what is mixed into it.
    """
    labels = LabelsConfig() if isinstance(config.labels, bool) else config.labels
    clips, not_heard = clips_of(base, measured)
    silent = [clip for clip in clips if clip.loudest_dbfs < SILENT_DBFS]
    certain = [findings.of_silence(clip) for clip in silent]
    total, clips = len(clips), [clip for clip in clips if clip.loudest_dbfs >= SILENT_DBFS]
    if not clips:
        return LabelReport(total, not_heard, "nobody", certain, findings.settings())
    folds.require_parts((clip.utterance.text for clip in clips), labels)
    device = new_accelerator("auto").device
    train_config = folds.training_config(config, labels)
    ears: list[tuple[ModelEntry, Sequence[Clip]]] = []
    listener = ""
    if labels.folds in (None, 0):
        entry = trained(train_config, "base", None)
        with listening(entry, base, device) as one:
            listener = _tried(one, clips, config.seed, is_asked=labels.folds == 0)
            if listener:
                _listen(one, clips, clips)
                ears.append((entry, clips))
    if not ears:
        count = labels.folds or folds.USUAL_FOLDS
        listener = f"{count} adapters, each trained on the other parts"
        of_fold = folds.divide(clips, count)
        for fold in range(count):
            own = [clip for clip, at in zip(clips, of_fold, strict=True) if at == fold]
            log.info(
                "labels      adapter %d of %d: %d clips, after %g epochs of the others",
                *(fold + 1, count, len(own), labels.epochs),
            )
            entry = folds.train_without(train_config, base, measured, [*own, *silent])
            with listening(entry, base, device) as one:
                _listen(one, own, own)
            ears.append((entry, own))
    found = [*certain, *_found(ears, base, device)]
    return LabelReport(total, not_heard, listener, found, findings.settings())


def _found(
    ears: Sequence[tuple[ModelEntry, Sequence[Clip]]], base: Base, device: Any
) -> list[LabelFinding]:
    """What all models said, put together: another clip may be one that another model heard."""
    clips: list[Clip] = []
    evidence: list[Evidence] = []
    models: list[int] = []
    for number, (entry, own) in enumerate(ears):
        kept = kept_of(entry, device)
        for clip in own:
            if (said := kept.evidence(clip.pair_key)) is not None:
                clips.append(clip)
                evidence.append(said)
                models.append(number)
    if not clips:  # none of them could be read any more
        return []
    heard = comparison.compare(clips, evidence, np.array(models, int))
    pairs, fits = findings.wanted(heard), dict[tuple[str, str], float]()
    for entry, own in ears:  # by the model that was not trained on the clip
        keys = {clip.clip_key for clip in own}
        some = [pair for pair in pairs if pair[0].clip_key in keys]
        kept = kept_of(entry, device)
        if all(kept.fit(Listener.fit_key(*pair)) is not None for pair in some):
            fits |= {
                findings.pair_of(*pair): cast(float, kept.fit(Listener.fit_key(*pair)))
                for pair in some
            }
            continue
        with listening(entry, base, device) as ear, terminal.work("others", len(some)) as work:
            for done, pair in enumerate(some, 1):
                fits[findings.pair_of(*pair)] = ear.fit(*pair)
                work.update(done)
    return findings.find(heard, fits)


def clips_of(base: Base, measured: Mapping[str, Measured]) -> tuple[list[Clip], dict[str, int]]:
    """What can be listened to; how much cannot, by reason."""
    tokenizer, special_tokens = base.processor.tokenizer, base.special_tokens
    clips, not_heard = [], {"sound that cannot be used": 0, "longer than the window": 0}
    not_heard |= {"without a text": 0, "unknown language": 0, "text over the decoder's limit": 0}
    for split, one in measured.items():
        for number, record in enumerate(one.records):
            if record["problem"]:
                not_heard["sound that cannot be used"] += 1
            elif record["seconds"] > base.window_seconds:
                not_heard["longer than the window"] += 1
            elif not record["characters"]:
                not_heard["without a text"] += 1
            elif record["has_unknown_language"]:
                not_heard["unknown language"] += 1
            else:
                utterance = one.utterances[number]
                figures = int(record["fingerprint"]), float(record["seconds"])
                loudest = float(record["loudest_dbfs"])
                clip = clip_of(
                    tokenizer, special_tokens, utterance, split, number, *figures, loudest
                )
                if clip is None:
                    not_heard["text over the decoder's limit"] += 1
                else:
                    clips.append(clip)
    return clips, {reason: count for reason, count in not_heard.items() if count}


@contextmanager
def listening(entry: ModelEntry, base: Base, device: Any) -> Iterator[Listener]:
    """The model of an entry, as long as it listens."""
    with folds.opened(entry, device) as whisper:
        yield Listener(cast(WhisperDecoder, decoder_of(whisper, base)), kept_of(entry, device))


def kept_of(entry: ModelEntry, device: Any) -> Kept:
    return Kept(f"{FORMAT} {identity(entry, 'auto', device)}")


def _tried(listener: Listener, clips: Sequence[Clip], seed: int, is_asked: bool) -> str:
    """Listen to some clips first. What it is called that listens; "" if it must not be the base.

    It knows enough of a language where transcripts fit their own clips better than others', and
    where its hypotheses resemble their own transcripts most.
    """
    sample = _sample(clips, seed)
    unknown = sum(not listener.is_known(clip) for clip in sample)
    started = time.perf_counter()
    listener.listen(sample, clips)
    seconds = time.perf_counter() - started
    pairs = [(one, listener.kept.evidence(one.pair_key)) for one in sample]
    known = [(one, evidence) for one, evidence in pairs if evidence is not None]
    fitting, resembling = comparison.knows(*zip(*known, strict=True)) if known else (0.0, 0.0)
    told = (
        f"of {len(sample)} clips, {100 * fitting:.0f} % fit their transcripts better than others' "
        f"clips, and {100 * resembling:.0f} % of the hypotheses resemble theirs most"
    )
    is_known = min(fitting, resembling) >= KNOWN_SHARE
    verdict = "the base listens" if is_known or is_asked else "adapters listen, trained in turn"
    log.info("labels      %s: %s", verdict, told)
    if not (is_known or is_asked):
        return ""
    left = sum(not listener.is_known(clip) for clip in clips)
    if unknown and left:
        each = seconds / unknown
        log.info(
            "labels      %d clips, %.1f s each: %s",
            left,
            each,
            terminal.about(each * left),
        )
    return f"the base, by evidence: {told}" if is_known else f"the base, as asked: {told}"


def _sample(clips: Sequence[Clip], seed: int) -> list[Clip]:
    """Runs of clips of about one length, which are one another's other clips."""
    in_order = sorted(clips, key=lambda clip: clip.seconds)
    firsts = range(0, len(clips), BATCH_CLIPS)
    chosen = np.random.default_rng(seed).permutation(firsts)[: TRIED_CLIPS // BATCH_CLIPS]
    runs = [in_order[first : first + BATCH_CLIPS] for first in sorted(chosen.tolist())]
    return list(itertools.chain.from_iterable(runs))


def _listen(listener: Listener, clips: Sequence[Clip], among: Sequence[Clip]) -> None:
    done = 0
    with terminal.work("labels", len(clips)) as work:

        def on_done(count: int) -> None:
            nonlocal done
            done += count
            work.update(done)

        listener.listen(clips, among, on_done)
