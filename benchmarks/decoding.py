"""How much audio a second evaluation decodes, beside a plain loop and Transformers' pipeline.

    python -m benchmarks.decoding SPEECH/metadata.jsonl path/to/whisper-tiny

Three sides decode the same clips, in float32, greedily:

    plain      `model.generate` clip by clip, features by `WhisperFeatureExtractor`
    pipeline   the automatic-speech-recognition pipeline of Transformers, at its best batch size
    ours       `evaluation.decoding.transcribe`, at the batch size of `evaluation.batch_size=null`

The model has the true shape of whisper-tiny and random weights, and what it says means nothing; so
that it takes the time that real texts take, every hypothesis is given as many tokens as the clip's
reference has, on all sides. Every side reads audio by the same function, within its time. The
others have as many of PyTorch's threads as suit them best (on a machine that has other work, they
are faster with one than with two), and the pipeline its best batch size; both are tried first.
Sides take turns by chunks of clips, so that other work disturbs them alike; ratios are medians over
the chunks. All texts are compared. How long the encoder takes for a window is measured as well, on
one thread: all sides have to run it on the padded 30 s, and a decoder that took no time at all
could not be faster. Results go to benchmarks/results/decoding.json.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
import math
import statistics
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    WhisperForConditionalGeneration,
    WhisperProcessor,
    pipeline,
)

from benchmarks.parts import train_config
from benchmarks.random_checkpoint import write_random_checkpoint
from benchmarks.results import write_result
from lora_whisper.data.audio import read_audio
from lora_whisper.data.dataset import Utterance
from lora_whisper.evaluation.decoding.decoder import DecodingResult, DecodingTask
from lora_whisper.evaluation.decoding.greedy import Rule
from lora_whisper.evaluation.decoding.transcribe import transcribe
from lora_whisper.evaluation.decoding.whisper import WhisperDecoder
from lora_whisper.evaluation.loading import scoring_batch_for_width
from lora_whisper.model.base import window_seconds
from lora_whisper.model.cpu_kernels import use_fast_products
from lora_whisper.model.features import LogMel
from lora_whisper.model.published import SAMPLING_RATE
from lora_whisper.model.tokenizer import read_special_tokens, text_tokens

LONGEST_SECONDS = 30.0
PROMPT_TOKENS = 4  # of a multilingual model: sot, language, task, <|notimestamps|>
THREADS = 2
PIPELINE_BATCHES = (4, 8, 16)
TRIED_CLIPS = 8  # to find the others' best number of threads and batch size, after one to warm up


@dataclasses.dataclass(frozen=True)
class Clip:
    """A clip of the manifest, and how many tokens its text has."""

    utterance: Utterance
    text_tokens: int

    def samples(self) -> Any:
        return read_audio(self.utterance.audio)


Side = Callable[[Sequence[Clip]], list[str]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("manifest", type=Path, help="JSON lines, as audiofolder's metadata")
    parser.add_argument("tokenizer", type=Path, help="folder of a checkpoint of that vocabulary")
    parser.add_argument("--shape", default="tiny")
    parser.add_argument("--clips", type=int, default=96)
    parser.add_argument("--chunk", type=int, default=32, help="clips that a side decodes in a turn")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "checkpoint"
        write_random_checkpoint(checkpoint, options.shape, options.tokenizer, 1, torch.float32)
        model = WhisperForConditionalGeneration.from_pretrained(checkpoint)
        processor = WhisperProcessor.from_pretrained(checkpoint)
    clips = read_clips(options.manifest, processor, options.clips)
    figures = measured(model.eval(), processor, clips, options.chunk)
    command = "python -m benchmarks.decoding SPEECH/metadata.jsonl path/to/whisper-tiny"
    path = write_result("decoding", command, {"shape": options.shape, **figures})
    print(json.dumps(figures, indent=2))
    print(f"written to {path}")


def measured(
    model: WhisperForConditionalGeneration,
    processor: WhisperProcessor,
    clips: Sequence[Clip],
    chunk: int,
) -> dict[str, Any]:
    """All figures of one model on these clips."""
    plains = {
        threads: with_threads(threads, plain(model, processor)) for threads in range(1, 1 + THREADS)
    }
    threads, plain_seconds = best(plains, clips)
    piped_sides = {
        size: with_threads(threads, piped(model, processor, size)) for size in PIPELINE_BATCHES
    }
    size, pipeline_seconds = best(piped_sides, clips)
    sides = {
        "plain": plains[threads],
        "pipeline": piped_sides[size],
        "ours": with_threads(THREADS, ours(model, processor)),
    }
    return {
        "clips": len(clips),
        "audio_seconds": round(audio_seconds(clips), 1),
        "text_tokens": sum(clip.text_tokens for clip in clips),
        "our_batch_size": scoring_batch_for_width(model.config.d_model),
        "plain_seconds_by_threads": plain_seconds,
        "pipeline_seconds_by_batch_size": pipeline_seconds,
        "others_threads": threads,
        "pipeline_batch_size": size,
        "encoder_seconds_a_window": round(encoder_seconds(model), 3),
        **compared(sides, clips, chunk),
    }


def best(sides: dict[int, Side], clips: Sequence[Clip]) -> tuple[int, dict[str, float]]:
    """Which of these is the fastest, and how long each takes for a few clips."""
    seconds = {}
    for key, side in sides.items():
        side(clips[:1])
        seconds[key] = round(timed(side, clips[:TRIED_CLIPS])[0], 2)
    return min(seconds, key=seconds.__getitem__), {str(key): one for key, one in seconds.items()}


def with_threads(threads: int, side: Side) -> Side:
    def limited(clips: Sequence[Clip]) -> list[str]:
        torch.set_num_threads(threads)
        return side(clips)

    return limited


def encoder_seconds(model: WhisperForConditionalGeneration) -> float:
    """Of one window on one thread; the median of five."""
    torch.set_num_threads(1)
    window = torch.zeros(1, model.config.num_mel_bins, 2 * model.config.max_source_positions)
    taken = []
    with torch.inference_mode():
        for _ in range(5):
            started = time.perf_counter()
            model.model.encoder(window)
            taken.append(time.perf_counter() - started)
    return statistics.median(taken)


def audio_seconds(clips: Sequence[Clip]) -> float:
    return sum(clip.utterance.duration_seconds for clip in clips)


def read_clips(manifest: Path, processor: WhisperProcessor, count: int) -> list[Clip]:
    """The first `count` clips that fit into a window, in the manifest's order."""
    clips = []
    for line in manifest.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if row["duration"] > LONGEST_SECONDS:
            continue
        name, text, language = row["file_name"], row["transcription"], row["language"]
        one = Utterance(
            manifest.parent / name,
            text,
            language,
            "transcribe",
            None,
            None,
            None,
            name,
            {},
            duration_seconds=row["duration"],
        )
        clips.append(Clip(one, len(text_tokens(processor.tokenizer, text, language))))
    return clips[:count]


def compared(sides: dict[str, Side], clips: Sequence[Clip], chunk: int) -> dict[str, Any]:
    """Let the sides take turns, chunk by chunk, the first of them changing."""
    names = list(sides)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    different = 0
    for number, start in enumerate(range(0, len(clips), chunk)):
        part, texts = clips[start : start + chunk], {}
        for turn in range(len(names)):
            name = names[(number + turn) % len(names)]
            spent, texts[name] = timed(sides[name], part)
            seconds[name].append(spent)
        different += sum(len(set(same)) > 1 for same in zip(*texts.values(), strict=True))
    return {
        "audio_seconds_a_second": {
            name: round(audio_seconds(clips) / sum(seconds[name]), 2) for name in names
        },
        "seconds": {name: [round(one, 2) for one in seconds[name]] for name in names},
        "ours_to_plain": round(median_ratio(seconds["plain"], seconds["ours"]), 2),
        "ours_to_pipeline": round(median_ratio(seconds["pipeline"], seconds["ours"]), 2),
        "different_texts": different,
    }


def median_ratio(slower: Sequence[float], faster: Sequence[float]) -> float:
    return statistics.median(a / b for a, b in zip(slower, faster, strict=True))


def timed(side: Side, clips: Sequence[Clip]) -> tuple[float, list[str]]:
    started = time.perf_counter()
    texts = side(clips)
    return time.perf_counter() - started, texts


class GivenLengths(LogitsProcessor):
    """Ends every row after as many tokens as it is given, and not before."""

    def __init__(self, batches: Iterator[Sequence[int]], eot: int, prompt_tokens: int):
        """`batches`: lengths of the rows of each call of `generate`."""
        self.batches, self.eot, self.prompt_tokens = batches, eot, prompt_tokens
        self.lengths = torch.zeros(0)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        step = input_ids.shape[1] - self.prompt_tokens
        if step == 0:
            self.lengths = torch.tensor(next(self.batches))
        scores[:, self.eot] = -math.inf
        due = (self.lengths <= step).nonzero()[:, 0]
        scores[due] = -math.inf
        scores[due, self.eot] = 0.0
        return scores


def given_lengths(
    clips: Sequence[Clip], batch_size: int, model: WhisperForConditionalGeneration
) -> LogitsProcessorList:
    """For calls of `generate` that decode the clips in this order."""
    lengths = [clip.text_tokens for clip in clips]
    batches = (lengths[at : at + batch_size] for at in range(0, len(lengths), batch_size))
    eot = model.config.eos_token_id
    assert isinstance(eot, int)
    return LogitsProcessorList([GivenLengths(batches, eot, PROMPT_TOKENS)])


def plain(model: WhisperForConditionalGeneration, processor: WhisperProcessor) -> Side:
    def side(clips: Sequence[Clip]) -> list[str]:
        texts = []
        for clip in clips:
            inputs = processor(clip.samples(), sampling_rate=SAMPLING_RATE, return_tensors="pt")
            tokens = model.generate(
                inputs.input_features,
                language=clip.utterance.language,
                task="transcribe",
                logits_processor=given_lengths([clip], 1, model),
            )
            texts.append(processor.decode(tokens[0], skip_special_tokens=True).strip())
        return texts

    return side


def piped(
    model: WhisperForConditionalGeneration, processor: WhisperProcessor, batch_size: int
) -> Side:
    recognize: Any = pipeline(
        "automatic-speech-recognition",
        model=model,
        tokenizer=processor.tokenizer,
        feature_extractor=processor.feature_extractor,
        batch_size=batch_size,
    )

    def side(clips: Sequence[Clip]) -> list[str]:
        (language,) = {clip.utterance.language for clip in clips}
        audio = ({"raw": clip.samples(), "sampling_rate": SAMPLING_RATE} for clip in clips)
        rules = given_lengths(clips, batch_size, model)
        asked = {"language": language, "task": "transcribe", "logits_processor": rules}
        asked["num_beams"] = 1  # it would take five
        return [found["text"].strip() for found in recognize(audio, generate_kwargs=asked)]

    return side


class GivenLengthDecoder(WhisperDecoder):
    """Ours, but that texts are as long as they are said to be."""

    lengths: dict[int, int]  # by the checksum of a row's name, of which a task's seed is made

    def decode_as_they_come(
        self, tasks: Iterator[DecodingTask], most: int
    ) -> Iterator[tuple[int, DecodingResult]]:
        limited = (  # and what random weights say goes round in a loop, which is not cut
            dataclasses.replace(task, most_tokens=self.lengths[task.seed[1]], most_letters=math.inf)
            for task in tasks
        )
        return super().decode_as_they_come(limited, most)

    def rules(self, prompt: Sequence[int]) -> list[Rule]:
        return [*super().rules(prompt), self._without_eot]

    def _without_eot(self, tokens: Tensor, scores: Tensor) -> Tensor:
        scores[:, self.special_tokens.eot] = -math.inf
        return scores


def ours(model: WhisperForConditionalGeneration, processor: WhisperProcessor) -> Side:
    config = model.config
    model = copy.deepcopy(model)  # the others' is as Transformers loads it
    use_fast_products(model)
    special_tokens = read_special_tokens(processor.tokenizer, model.generation_config, config)
    features = LogMel(config.num_mel_bins, window_seconds(config))
    decoder = GivenLengthDecoder(model, processor, special_tokens, features)
    batch_size = scoring_batch_for_width(config.d_model)
    settings = dataclasses.replace(train_config().evaluation, batch_size=batch_size)

    def side(clips: Sequence[Clip]) -> list[str]:
        decoder.lengths = {
            zlib.crc32(clip.utterance.row.encode()): clip.text_tokens for clip in clips
        }
        found = transcribe(decoder, [clip.utterance for clip in clips], settings)
        assert not found.bad, found.bad
        return list(found.texts)

    return side


if __name__ == "__main__":
    main()
