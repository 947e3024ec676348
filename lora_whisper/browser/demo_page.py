"""The page of `demo`: a thin face of a `Comparer`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_whisper.browser.comparison import Comparer, Comparison
from lora_whisper.browser.server import new_blocks, static
from lora_whisper.config import TranscriptionConfig
from lora_whisper.errors import UserError
from lora_whisper.reports.html import render
from lora_whisper.run_folder import RunFolder

if TYPE_CHECKING:
    import gradio

ANY_LANGUAGE = "detect it"
MOST_SCALE = 2.0  # of what an adapter adds, on the slider


@dataclass(frozen=True)
class Example:
    """A recording that is tried by a click, with what is said in it."""

    audio: Path
    reference: str = ""


@dataclass(frozen=True)
class DemoParts:
    """What the page has beside the model."""

    model: str  # what to call it
    adapters: Mapping[str, Path]  # folders, by name
    language: str | None = None
    examples: Sequence[Example] = ()
    queue: int = 20  # of people who wait
    about: str = field(default="", compare=False)


@dataclass(frozen=True)
class Controls:
    """What the visitor fills in, and the button that asks for a transcript of it."""

    audio: gradio.Audio
    adapter: gradio.Radio
    scale: gradio.Slider
    language: gradio.Dropdown
    reference: gradio.Textbox
    button: gradio.Button

    @property
    def given(self) -> list[Any]:
        """As `transcribed` takes them."""
        return [self.audio, self.adapter, self.scale, self.language, self.reference]


def demo_page(comparer: Comparer, parts: DemoParts) -> gradio.Blocks:
    """The page; examples lie where Gradio may read them, see `own_folder`."""
    import gradio

    with new_blocks(f"{parts.model}: try it") as blocks:
        gradio.HTML(render("demo_head.html.j2", title=parts.model, about=parts.about))
        with gradio.Tab("Transcribe"):
            with gradio.Row(equal_height=False):
                controls = _controls(comparer, parts)
            result = gradio.HTML(
                js_on_load=static("demo.js"), apply_default_css=False, elem_id="result"
            )
            if parts.examples:
                gradio.Examples(
                    [[str(one.audio), one.reference] for one in parts.examples],
                    inputs=[controls.audio, controls.reference],
                    label="Examples",
                    api_visibility="private",
                )
        _answer(comparer, controls, result)
        if any(RunFolder(folder.parent).is_run() for folder in parts.adapters.values()):
            _scores_tab(parts, controls.adapter)
    blocks.queue(max_size=parts.queue, default_concurrency_limit=1)
    return blocks


def _controls(comparer: Comparer, parts: DemoParts) -> Controls:
    """Two columns: what was said, and what shall write it."""
    import gradio

    with gradio.Column(scale=3, min_width=300):
        audio = gradio.Audio(
            sources=["upload", "microphone"],
            type="filepath",
            label="Recording",
            buttons=[],
            elem_id="audio",
        )
        reference = gradio.Textbox(
            label="What is said, to be scored",
            placeholder="may stay empty",
            lines=2,
            elem_id="reference",
        )
    with gradio.Column(scale=2, min_width=260):
        adapter, scale = _adapter_choice(list(parts.adapters))
        languages: list[Any] = [ANY_LANGUAGE, *named_languages(comparer.transcriber.languages)]
        language = gradio.Dropdown(
            languages,
            value=parts.language or ANY_LANGUAGE,
            label="Language",
            visible=len(languages) > 1,
            elem_id="language",
        )
        button = gradio.Button("Transcribe", variant="primary", elem_id="transcribe")
    return Controls(audio, adapter, scale, language, reference, button)


def _adapter_choice(names: Sequence[str]) -> tuple[gradio.Radio, gradio.Slider]:
    """Which one, and how much of it; neither is shown where the base is alone."""
    import gradio

    adapter = gradio.Radio(
        names,
        value=names[0] if names else None,
        label="Adapter",
        visible=bool(names),
        elem_id="adapter",
    )
    scale = gradio.Slider(
        0,
        MOST_SCALE,
        value=1.0,
        step=0.05,
        label="Scale",
        info="of what it adds: 0 is the base, 1 all of it",
        visible=bool(names),
        elem_id="scale",
    )
    return adapter, scale


def _answer(comparer: Comparer, controls: Controls, result: gradio.HTML) -> None:
    """What the button does; and what else does the same, once a transcript was asked for."""
    import gradio

    def transcribe(
        audio: str | None,
        adapter: str | None,
        scale: float,
        language: str,
        reference: str,
        progress: Any = gradio.Progress(),  # noqa: B008  (Gradio finds it by its default)
    ) -> tuple[str, bool]:
        return transcribed(comparer, audio, adapter, scale, language, reference, progress)

    def again(was_shown: bool, *given: Any) -> Any:
        return transcribe(*given) if was_shown else (gradio.skip(), gradio.skip())

    was_shown = gradio.State(False)
    into: dict[str, Any] = {"outputs": [result, was_shown], "api_visibility": "private"}
    controls.button.click(transcribe, controls.given, concurrency_id="model", **into)
    changes = [
        controls.scale.release,
        controls.adapter.change,
        controls.language.change,
        controls.reference.submit,
        controls.reference.blur,
    ]
    gradio.on(
        changes,
        again,
        [was_shown, *controls.given],
        concurrency_id="model",
        trigger_mode="always_last",
        **into,
    )
    controls.audio.clear(lambda: ("", False), None, **into)


def transcribed(
    comparer: Comparer,
    audio: str | None,
    adapter: str | None,
    scale: float,
    language: str,
    reference: str,
    progress: Callable[[float], None],
) -> tuple[str, bool]:
    """What is shown, as HTML, and whether that is a transcript."""
    if not audio:
        text = "Record, upload or choose something first."
        return render("message.html.j2", kind="wrong", text=text), False
    path = Path(audio)
    options = TranscriptionConfig(language=None if language == ANY_LANGUAGE else language)
    try:
        found = comparer.compare(
            path, path.name, adapter, scale, options, reference or "", progress
        )
    except UserError as error:
        return render("message.html.j2", kind="wrong", text=str(error)), False
    return shown(found, path, path.name), True


def _scores_tab(parts: DemoParts, adapter: gradio.Radio) -> None:
    import gradio

    def report(adapter: str | None) -> str:
        page = report_of(parts.adapters, adapter)
        if page is None:
            text = "Of this one there is no run here, and so no scores and curves."
            return render("message.html.j2", kind="soft", text=text)
        return render("framed.html.j2", page=page)

    with gradio.Tab("Scores and curves") as tab:
        scores = gradio.HTML(apply_default_css=False, elem_id="scores")
    tab.select(report, adapter, scores, api_visibility="private")


def named_languages(codes: Sequence[str]) -> list[tuple[str, str]]:
    """English names with Whisper's codes, by name."""
    from transformers.models.whisper.tokenization_whisper import LANGUAGES

    return sorted((LANGUAGES.get(code, code).title(), code) for code in codes)


def shown(comparison: Comparison, audio: Path, name: str) -> str:
    """Both texts as HTML, with the recording as the browser sent it."""
    transcript = comparison.sides[-1].transcript
    about = [f"{transcript.seconds:.1f} s"]
    if transcript.language is not None:
        share = transcript.language_probability
        how = "" if share is None else f", detected ({100 * share:.0f} %)"
        about.append(f"{transcript.language}{how}")
    return render(
        "side_by_side.html.j2",
        shown=comparison,
        sound=f"gradio_api/file={audio}",
        name=Path(name).stem,
        about=" · ".join(about),
        clock=minutes,
    )


def minutes(seconds: float) -> str:
    """`1:05.3`"""
    whole, rest = divmod(round(seconds, 1), 60)
    return f"{whole:.0f}:{rest:04.1f}"


def report_of(adapters: Mapping[str, Path], adapter: str | None) -> str | None:
    """The report of the adapter's run, if it lies in one."""
    folder = adapters.get(adapter or "")
    if folder is None:
        return None
    run = RunFolder(folder.parent)
    is_there = run.is_run() and run.adapter == folder and run.report.is_file()
    return run.report.read_text(encoding="utf-8") if is_there else None
