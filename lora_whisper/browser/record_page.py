"""The page of `record`: a thin face of a `Collection`; its parts are in static/recorder.*."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lora_whisper.browser.server import new_blocks, static
from lora_whisper.errors import UserError
from lora_whisper.recording.collection import Collection, Row
from lora_whisper.recording.takes import LONGEST_SECONDS

if TYPE_CHECKING:
    import gradio

LOWEST_RATE, HIGHEST_RATE = 8_000, 192_000  # samples a second, of microphones
MOST_SECONDS = LONGEST_SECONDS + 10  # that are looked at, in order to say that they are too many
MOST_BYTES = 1_000_000  # of an upload, of which this page has none
Answer = dict[str, Any]


def record_page(
    collection: Collection, speaker: str | None, command: Callable[[], str]
) -> gradio.Blocks:
    """The page.

    Args:
        speaker: who begins; None: the page asks.
        command: what trains on all that was recorded so far.
    """
    import gradio

    answers = Answers(collection, speaker, command)
    asked = (answers.state, answers.take, answers.skip, answers.back, answers.sound)
    with new_blocks("Record a data set") as blocks:
        gradio.HTML(
            html_template=static("recorder.html"),
            js_on_load=static("recorder.js"),
            server_functions=[checked(one) for one in asked],
            apply_default_css=False,
            elem_id="recorder",
        )
    return blocks


def checked(answer: Callable[[Mapping[str, Any]], Answer]) -> Callable[[Any], Answer]:
    """What the browser asks is checked as anybody's would be; what is wrong is said."""

    def answered(asked: Any) -> Answer:
        given = asked[0] if isinstance(asked, list) and len(asked) == 1 else asked
        try:
            return answer(given if isinstance(given, dict) else {})
        except UserError as error:
            return {"error": str(error)}

    answered.__name__ = answer.__name__  # by which the page calls it
    return answered


@dataclass(frozen=True)
class Answers:
    """To what the page asks; see `record_page`."""

    collection: Collection
    speaker: str | None
    command: Callable[[], str]

    def state(self, given: Mapping[str, Any]) -> Answer:
        name = str(given.get("speaker") or self.speaker or "")
        known = list(dict.fromkeys(row.speaker for row in self.collection.rows))
        if not name:
            return {"speakers": known, "longest_seconds": LONGEST_SECONDS}
        progress = asdict(self.collection.progress(name))
        return progress | {"longest_seconds": LONGEST_SECONDS, "command": self.command()}

    def take(self, given: Mapping[str, Any]) -> Answer:
        name, text, rate = str(given.get("speaker")), str(given.get("text")), given.get("rate")
        if not isinstance(rate, int) or not LOWEST_RATE <= rate <= HIGHEST_RATE:
            raise UserError(f"A microphone with {rate} samples a second is not known here.")
        samples = samples_of(str(given.get("samples", "")), rate)
        judged = self.collection.keep(name, text, samples, rate)
        return {"take": asdict(judged)} | self.state(given)

    def skip(self, given: Mapping[str, Any]) -> Answer:
        self.collection.skip(str(given.get("speaker")), str(given.get("text")))
        return self.state(given)

    def back(self, given: Mapping[str, Any]) -> Answer:
        row = self.collection.before(str(given.get("speaker")), given.get("text"))
        return {"row": row and shown(row)}

    def sound(self, given: Mapping[str, Any]) -> Answer:
        data = self.collection.sound(str(given.get("speaker")), str(given.get("text")))
        return {"flac": data and base64.b64encode(data).decode()}


def samples_of(encoded: str, rate: int) -> np.ndarray:
    """(samples,) float32 of base64 of signed 16-bit little-endian samples.

    Raises:
        UserError: they are none, or too many.
    """
    most_bytes = round(2 * MOST_SECONDS * rate)
    if len(encoded) * 3 / 4 > most_bytes + 4:
        raise UserError(f"A take may last {LONGEST_SECONDS:.0f} s, and this one is longer.")
    try:
        data = base64.b64decode(encoded, validate=True)
    except ValueError:
        raise UserError("The browser sent no samples.") from None
    whole = np.frombuffer(data[: len(data) // 2 * 2], "<i2")
    return whole.astype(np.float32) / 32_768


def shown(row: Row) -> Answer:
    """What the page is told of a take."""
    return {"text": row.text, "seconds": row.duration, "warnings": list(row.warnings)}
