"""The capability card: what an adaptation kept of what its base could, lost, and gained.

A verdict is by the interval of the difference on the same clips, never by two numbers:

- lost, gained: all of the interval is on that side of zero (the paired test of `significance`);
- kept: no more can be lost than its tolerance, which each row names;
- not lost: the same, where more than the tolerance is likely gained, though not for certain;
- not certain: anything else; more clips would tell;
- not measured: there is nothing to measure it by, or nothing that could be lost.

Each verdict is at 5 %, so of twenty capabilities that are as they were one is called lost or gained
by chance.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from lora_whisper import processes
from lora_whisper.config import EvaluationConfig
from lora_whisper.data.dataset import Utterances
from lora_whisper.evaluation.capability_findings import WORDS, Findings, find_or_reuse
from lora_whisper.evaluation.capability_material import new_material
from lora_whisper.evaluation.capability_questions import (
    FARTHEST_SECONDS,
    HUNDREDTHS,
    NO_CLIPS,
    Counted,
    Finding,
)
from lora_whisper.evaluation.decoding.decoder import Decoder
from lora_whisper.evaluation.results import (
    Capability,
    CapabilityCard,
    Comparison,
    Interval,
    Kept,
    ScoredUtterance,
)
from lora_whisper.evaluation.significance import (
    LEAST_UNITS,
    SIGNIFICANCE,
    compare_counts,
    sampling_units,
    unseen_share,
)
from lora_whisper.evaluation.text_style import SHARES
from lora_whisper.terminal import counted


@dataclass(frozen=True)
class Trait:
    """A capability, and how what is found of it is counted."""

    name: str
    how: str
    tolerance: float  # in the row's unit
    unit: Literal["share", "rate", "seconds"] = "share"
    is_better_higher: bool = True
    scale: int = 1  # that one of the unit is counted in
    widest: float = 1.0  # most that two models may differ in a clip


SHARE, RATE, SECONDS = 0.10, 0.05, 0.25  # what may be lost where a capability counts as kept
TRAITS = {
    WORDS: Trait("words", "word error rate of all clips", RATE, "rate", False),
    "language": Trait(
        "language found", "the likeliest after <|startoftranscript|> is the one spoken", SHARE
    ),
    "timestamps": Trait(
        "timestamps",
        "by the rules of all programs: all text between pairs that go forward and end with the "
        "sound",
        SHARE,
    ),
    "boundaries": Trait(
        "boundaries",
        "seconds from the pause between two joined clips to the nearest timestamp, 2 at most",
        SECONDS,
        "seconds",
        False,
        HUNDREDTHS,
        FARTHEST_SECONDS,
    ),
    "long": Trait(
        "long recordings",
        "word error rate of clips joined to a window and a half",
        RATE,
        "rate",
        False,
    ),
    "left-out": Trait(
        "left out of them",
        "words left out of joined clips, less those left out of each by itself",
        RATE,
        "rate",
        False,
    ),
    "silence": Trait(
        "text in silence", "of generated silence and noise, clips with any text", SHARE, "share",
        False,
    ),
    "silence-thresholds": Trait(
        "silence past filters",
        "the same behind those of openai-whisper, <|nospeech|> over 0.6 at a mean log-probability "
        "under -1",
        SHARE,
        "share",
        False,
    ),
    "spelling": Trait(
        "prompted spelling", "words written with the doubled letter that a prompt has", SHARE
    ),
    "capitals-prompt": Trait(
        "prompted capitals", "texts in capitals after a previous text in capitals", SHARE
    ),
    "translation": Trait(
        "translation", "texts in English where a translation is asked for", SHARE
    ),
    "translation-chrf": Trait(
        "translation, chrF", "chrF2 with the column translation", SHARE, scale=SHARES
    ),
    "punctuation": Trait("punctuation", "F1 of each text's marks", SHARE, scale=SHARES),
    "capitals": Trait("capitals", "F1 of each text's capitals", SHARE, scale=SHARES),
    "sentences": Trait(
        "sentences", "texts that begin with a capital and end in a mark", SHARE
    ),
}  # fmt: skip


class CardMaker:
    """Asks models one after the other, and holds each against another one."""

    def __init__(
        self,
        speech: Mapping[str, Utterances],
        window_seconds: float,
        settings: EvaluationConfig,
        seed: int,
        is_brief: bool = False,
    ):
        """`speech`: the test set, and what must not get worse; see `new_material` for the rest."""
        self.material = new_material(speech, window_seconds, seed, is_brief)
        self.settings = settings
        self._findings: dict[str, Findings] = {}  # by model
        self._seconds: dict[str, float] = {}  # that they took

    def ask(
        self,
        name: str,
        exactly: str,
        decoder: Callable[[], Decoder],
        written: Mapping[str, Sequence[ScoredUtterance]],
        reuse: bool = True,
    ) -> None:
        """See `find_or_reuse`; the main process does, and the others wait.

        Args:
            exactly: names the model, see `loading.identity`.
        """

        def found() -> tuple[Findings, float]:
            started, title = time.perf_counter(), f"asking {name} for its card"
            given = (self.material, written, self.settings, title, reuse)
            return find_or_reuse(exactly, decoder, *given), time.perf_counter() - started

        self._findings[name], self._seconds[name] = processes.from_main(found)

    def has(self, *names: str) -> bool:
        """Whether all of these were asked, and none was broken."""
        return set(names) <= self._findings.keys()

    def card(self, against: str, name: str) -> CapabilityCard:
        """What one model kept of another one."""
        seconds = self._seconds[against] + self._seconds[name]
        before, after = (self._findings[one] for one in (against, name))
        seed, is_brief = self.material.seed, self.material.is_brief
        return new_card(against, before, after, seed, seconds, is_brief)


def new_card(
    against: str,
    base: Findings,
    adapter: Findings,
    seed: int,
    seconds: float,
    is_brief: bool = False,
) -> CapabilityCard:
    """Every capability in the order of TRAITS, on every set that it was asked about.

    Args:
        seconds: that both models took to decode.
        is_brief: leave out what nothing is known of.
    """
    sets = list(dict.fromkeys(name for _, name in base))
    rows = []
    for key, trait in TRAITS.items():
        asked = [name for name in sets if (key, name) in base]
        for name in asked:
            if (key, name) in adapter:
                label = trait.name if asked == sets[:1] else f"{trait.name}, {name}"
                found = base[key, name], adapter[key, name]
                row = judge(trait, *found, seed=seed, name=label)
                if row.base is not None or not is_brief:
                    rows.append(row)
    return CapabilityCard(against=against, rows=tuple(rows), seconds=round(seconds, 1))


def judge(trait: Trait, base: Finding, adapter: Finding, seed: int, name: str = "") -> Capability:
    """What became of a capability, from what both models made of the same clips."""
    about = {
        "name": name or trait.name,
        "how": trait.how,
        "unit": trait.unit,
        "is_better_higher": trait.is_better_higher,
        "tolerance": trait.tolerance,
    }
    if isinstance(base, str) or isinstance(adapter, str):
        why = base if isinstance(base, str) else adapter
        return Capability(**about, verdict="not measured", why=str(why))  # type: ignore[arg-type]
    if not base.of:
        return Capability(**about, verdict="not measured", why=NO_CLIPS)  # type: ignore[arg-type]
    assert list(base.of) == list(adapter.of), "the same clips, in the same order"
    units = sampling_units(base.speakers)
    more = [other - one for one, other in zip(base.found, adapter.found, strict=True)]
    comparison = compare_counts(units, more, base.of, seed)
    drawn = len(set(units.numbers.tolist()))
    ci95 = _interval(trait, comparison, more, base.of)
    verdict, why = _verdict(trait, comparison, ci95)
    if drawn < LEAST_UNITS:
        verdict, why = "not certain", f"{counted(drawn, base.noun)} are too few to tell"
    elif verdict not in ("lost", "gained") and _is_at_its_worst(trait, base):
        fails = "does not do it" if trait.is_better_higher else "fails here already"
        verdict, why = "not measured", f"the base {fails}: nothing to lose"
    elif verdict == "not certain":
        noun = "speaker" if units.resampled == "speakers" else base.noun
        why = f"{counted(drawn, noun)} do not tell"
    of = max(sum(base.of), 1) * trait.scale
    return Capability(
        **about,  # type: ignore[arg-type]
        base=sum(base.found) / of,
        adapter=sum(adapter.found) / of,
        ci95=ci95,
        counted=counted(len(base.of), base.noun),
        verdict=verdict,
        why=why,
    )


def _is_at_its_worst(trait: Trait, base: Counted) -> bool:
    """Whether there is nothing that could be lost."""
    worst = 0 if trait.is_better_higher else trait.scale * sum(base.of)
    return trait.unit == "share" and sum(base.found) == worst


def _interval(
    trait: Trait, comparison: Comparison, more: Sequence[int], of: Sequence[int]
) -> Interval | None:
    """In the row's unit; no narrower than so many clips without an exception allow."""
    if comparison.ci95 is None:
        return None
    low, high = (end / trait.scale for end in comparison.ci95)
    shares = {round(one / size, 9) for one, size in zip(more, of, strict=True) if size}
    if len(shares) <= 1:  # all differ alike, or none does
        spread = trait.widest * unseen_share(sum(of))
        low, high = low - spread, high + spread
        if comparison.p_value < SIGNIFICANCE:  # zero stays outside
            is_less = comparison.difference < 0
            low, high = (low, min(high, 0.0)) if is_less else (max(low, 0.0), high)
    if not (math.isfinite(low) and math.isfinite(high)):  # too few of them have anything to count
        return None
    if trait.unit == "share":
        low, high = max(low, -1.0), min(high, 1.0)
    return low, high


def _verdict(trait: Trait, comparison: Comparison, ci95: Interval | None) -> tuple[Kept, str]:
    if ci95 is None:
        return "not certain", ""
    if comparison.p_value < SIGNIFICANCE:
        return ("gained" if (comparison.difference > 0) == trait.is_better_higher else "lost"), ""
    most_lost = -ci95[0] if trait.is_better_higher else ci95[1]
    if most_lost >= trait.tolerance:
        return "not certain", ""
    more = comparison.difference / trait.scale
    gain = more if trait.is_better_higher else -more
    return ("not lost" if gain > trait.tolerance else "kept"), ""
