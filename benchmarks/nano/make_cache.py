"""Speech for the pre-training of `nano`: shards of 4,000 sentences and dev sets, in a cache.

    python -m benchmarks.nano.make_cache CACHE --shards 6 --processes 2

A shard is `audio.i16` (all samples one after another, 16 kHz) and `rows.jsonl`, a row per
sentence: first sample, samples, text, phonemes (for the CTC head), voice.
"""

import argparse
import json
from collections.abc import Callable
from functools import cache, partial
from itertools import islice
from multiprocessing import Pool
from pathlib import Path
from random import Random

import numpy as np

from benchmarks.nano.grammar import Composer, Phrase, with_invented_word
from benchmarks.nano.synthesis import (
    BASE_VOICES,
    UNHEARD_VOICES,
    draw_base_voice,
    phonemes,
    read_out,
)
from benchmarks.nano.texts import general_texts, pretraining_composer

SHARD_SENTENCES = 4_000
DEV_SENTENCES = 150
INVENTED_SENTENCES = 3_500

cached_phonemes = cache(phonemes)


def spoken_phonemes(spoken: str) -> list[str]:
    """The phonemes of all words, `|` between words."""
    parts = [[*cached_phonemes(word), "|"] for word in spoken.split()]
    return [phoneme for part in parts for phoneme in part][:-1]


def read_sentence(job: tuple[Phrase, str, int]) -> tuple[np.ndarray, dict[str, object]]:
    """Samples as int16 and the row without its place in the shard."""
    sentence, voice, seed = job
    samples = read_out(sentence.spoken, voice, Random(seed))
    row: dict[str, object] = {
        "text": sentence.written,
        "phonemes": spoken_phonemes(sentence.spoken),
        "voice": voice,
    }
    return (samples * 32767).astype(np.int16), row


def write_shard(
    folder: Path,
    sentences: list[Phrase],
    seed: int,
    draw_voice: Callable[[Random], str],
    processes: int,
) -> None:
    """Synthesises all sentences; equal seeds give equal shards whatever the number of processes."""
    folder.mkdir(parents=True, exist_ok=True)
    jobs = [(s, draw_voice(Random(seed + i)), seed + i) for i, s in enumerate(sentences)]
    start_samples, rows = 0, []
    with Pool(processes) as pool, (folder / "audio.i16").open("wb") as audio:
        for samples, row in pool.imap(read_sentence, jobs, chunksize=16):
            audio.write(samples.tobytes())
            rows.append({"start": start_samples, "samples": len(samples), **row})
            start_samples += len(samples)
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "rows.jsonl").write_text(lines, encoding="utf-8")


def write_invented(folder: Path, processes: int) -> None:
    """A smaller shard of sentences that have one invented word each, read by espeak-ng only."""
    random = Random(42)
    sentences = islice(Composer(seed=42, avoid=general_texts()), INVENTED_SENTENCES)
    invented = [with_invented_word(sentence, random) for sentence in sentences]
    voices = [voice for voice in BASE_VOICES if voice.startswith("espeak")]
    write_shard(folder / "shard_invented", invented, 3 * 10**6, partial(pick, voices), processes)


def pick(voices: list[str], random: Random) -> str:
    return random.choice(voices)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--shards", type=int, default=6)
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    dev = list(islice(Composer(seed=21, avoid=general_texts()), 2 * DEV_SENTENCES))
    heard, unheard = dev[:DEV_SENTENCES], dev[DEV_SENTENCES:]
    draw_unheard = partial(pick, list(UNHEARD_VOICES))
    write_shard(options.folder / "dev_heard", heard, 10**6, draw_base_voice, options.processes)
    write_shard(options.folder / "dev_unheard", unheard, 2 * 10**6, draw_unheard, options.processes)
    write_invented(options.folder, options.processes)
    composer = pretraining_composer(avoid=frozenset(s.written for s in dev))
    for shard in range(options.shards):
        folder = options.folder / f"shard_{shard:02d}"
        sentences = list(islice(composer, SHARD_SENTENCES))
        if not (folder / "rows.jsonl").exists():
            seed = 10**7 + shard * SHARD_SENTENCES
            write_shard(folder, sentences, seed, draw_base_voice, options.processes)
            print(folder, flush=True)


if __name__ == "__main__":
    main()
