"""Writes everything of `nano` but its weights: the tokenizer and the configurations.

    python -m benchmarks.nano.make_nano lora_whisper/quickstart/nano

The vocabulary is a byte-level BPE of 1,024 ordinary tokens trained on the grammar's own text,
then every special token in the order of Whisper's 51,865-token vocabulary, with timestamps as far
as the window goes.
"""

import argparse
import json
import re
import string
from functools import partial
from itertools import islice
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import GenerationConfig, WhisperConfig, WhisperFeatureExtractor
from transformers.models.whisper.tokenization_whisper import LANGUAGES

from benchmarks.nano.synthesis import SAMPLE_RATE_HZ, WINDOW_SECONDS
from benchmarks.nano.texts import pretraining_composer

ORDINARY_TOKENS = 1_024
TOKENIZER_SENTENCES = 20_000
PRIVATE = 0xE000  # code point of the first private character
SECONDS_PER_POSITION = 0.02
POSITIONS = round(WINDOW_SECONDS / SECONDS_PER_POSITION)
MAX_TARGET_TOKENS = 128
WIDTH, HEADS, ENCODER_LAYERS, DECODER_LAYERS = 160, 4, 4, 2

# What `tokenizer.normalize` respells: British words of the grammar as the texts have them.
BRITISH_SPELLINGS = {
    "neighbour": "neighbor",
    "neighbours": "neighbors",
    "harbour": "harbor",
    "theatre": "theater",
    "grey": "gray",
    "metres": "meters",
    "travelled": "traveled",
    "aeroplane": "airplane",
    "aeroplanes": "airplanes",
}


def special_tokens() -> list[str]:
    """`<|endoftext|>` … `<|notimestamps|>` in Whisper's own order."""
    languages = [
        f"<|{code}|>" for code in LANGUAGES if code != "yue"
    ]  # Cantonese came with large-v3
    ends = ["<|endoftext|>", "<|startoftranscript|>"]
    tasks = ["<|translate|>", "<|transcribe|>"]
    marks = ["<|startoflm|>", "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>"]
    return [*ends, *languages, *tasks, *marks]


def timestamp_tokens() -> list[str]:
    """`<|0.00|>` … the window's end, one for every encoder position."""
    return [f"<|{SECONDS_PER_POSITION * position:.2f}|>" for position in range(POSITIONS + 1)]


def tokenizer_words() -> list[str]:
    """Words with their leading space, of numbers single digits, so that no merge joins two digits.

    The space and the first character are one private character: see `train_vocabulary`."""
    found = []
    for sentence in islice(pretraining_composer(), TOKENIZER_SENTENCES):
        for word in re.sub(r"(?<=\d)(?=\d)", " ", sentence.written).split():
            whole = word.rstrip(".?")
            mark = word[len(whole) :]
            found.append(chr(PRIVATE + ord(whole[0])) + whole[1:])
            found += [mark] if mark else []
    return found


def train_vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Tokens and merges of a byte-level BPE in which every word begins with a token of its own.

    The first merges join the space to a letter or digit. Without them some words would begin with
    a lone space, which every Whisper decoder forbids as the first token of a text."""
    tokenizer = Tokenizer(models.BPE())
    starts = string.ascii_letters + string.digits
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    size = ORDINARY_TOKENS - len(starts)
    private = [chr(PRIVATE + ord(start)) for start in starts]
    trainer = trainers.BpeTrainer(
        vocab_size=size + len(starts), initial_alphabet=[*alphabet, *private], show_progress=False
    )
    tokenizer.train_from_iterator(([word] for word in tokenizer_words()), trainer)
    trained = json.loads(tokenizer.to_str())["model"]["merges"]

    def public(token: str) -> str:
        return "".join(f"Ġ{chr(ord(c) - PRIVATE)}" if ord(c) > PRIVATE else c for c in token)

    merges = [("Ġ", start) for start in starts]
    merges += [(public(left), public(right)) for left, right in trained]
    tokens = [*alphabet, *("".join(pair) for pair in merges)]
    return {token: number for number, token in enumerate(tokens)}, merges


def train_tokenizer() -> Tokenizer:
    """A tokenizer like Whisper's, small."""
    vocabulary, merges = train_vocabulary()
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = [AddedToken(token, normalized=False, special=True) for token in special_tokens()]
    tokenizer.add_special_tokens(special)
    tokenizer.add_tokens([AddedToken(token, normalized=True) for token in timestamp_tokens()])
    names = ("<|startoftranscript|>", "<|notimestamps|>", "<|endoftext|>")
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{names[0]} {names[1]} $A {names[2]}",
        pair=f"{names[0]} {names[1]} $A $B:1 {names[2]}:1",
        special_tokens=[(name, tokenizer.token_to_id(name)) for name in names],
    )
    return tokenizer


def write_json(path: Path, content: object) -> None:
    text = json.dumps(content, ensure_ascii=False, indent=2) + "\n"
    path.write_text(text, encoding="utf-8")


def write_tokenizer(folder: Path, tokenizer: Tokenizer) -> None:
    """Every file that some reader of Whisper checkpoints asks for."""
    tokenizer.save(str(folder / "tokenizer.json"))
    state = json.loads(tokenizer.to_str())
    merges = [" ".join(pair) for pair in state["model"]["merges"]]
    merges_text = "\n".join(["#version: 0.2", *merges]) + "\n"
    (folder / "merges.txt").write_text(merges_text, encoding="utf-8")
    added = {token["content"]: token["id"] for token in state["added_tokens"]}
    write_json(folder / "vocab.json", state["model"]["vocab"])
    write_json(folder / "added_tokens.json", added)
    write_json(folder / "normalizer.json", BRITISH_SPELLINGS)
    write_json(folder / "tokenizer_config.json", tokenizer_config(state["added_tokens"]))
    names = dict.fromkeys(("bos_token", "eos_token", "pad_token", "unk_token"), "<|endoftext|>")
    names_and_more = names | {"additional_special_tokens": special_tokens()}
    write_json(folder / "special_tokens_map.json", names_and_more)


def tokenizer_config(added_tokens: list[dict]) -> dict[str, object]:
    kept = {
        str(token["id"]): {k: v for k, v in token.items() if k != "id"} for token in added_tokens
    }
    names = dict.fromkeys(("bos_token", "eos_token", "pad_token", "unk_token"), "<|endoftext|>")
    return names | {
        "add_bos_token": False,
        "add_prefix_space": False,
        "added_tokens_decoder": kept,
        # The last must be the one before <|0.00|>: stock decoding counts timestamps from it.
        "additional_special_tokens": special_tokens(),
        "clean_up_tokenization_spaces": False,
        "errors": "replace",
        "model_max_length": MAX_TARGET_TOKENS,
        "processor_class": "WhisperProcessor",
        "return_attention_mask": False,
        "tokenizer_class": "WhisperTokenizer",
    }


def token_id(tokenizer: Tokenizer, token: str) -> int:
    """The id of a token that must exist."""
    number = tokenizer.token_to_id(token)
    if number is None:
        raise KeyError(f"no token {token} in a vocabulary of {tokenizer.get_vocab_size()}")
    return number


def model_config(tokenizer: Tokenizer) -> WhisperConfig:
    end = token_id(tokenizer, "<|endoftext|>")
    return WhisperConfig(
        vocab_size=tokenizer.get_vocab_size(),
        num_mel_bins=80,
        d_model=WIDTH,
        encoder_layers=ENCODER_LAYERS,
        decoder_layers=DECODER_LAYERS,
        encoder_attention_heads=HEADS,
        decoder_attention_heads=HEADS,
        encoder_ffn_dim=4 * WIDTH,
        decoder_ffn_dim=4 * WIDTH,
        max_source_positions=POSITIONS,
        max_target_positions=MAX_TARGET_TOKENS,
        dropout=0.0,
        pad_token_id=end,
        bos_token_id=end,
        eos_token_id=end,
        decoder_start_token_id=token_id(tokenizer, "<|startoftranscript|>"),
        begin_suppress_tokens=begin_suppressed(tokenizer),
        suppress_tokens=suppressed(tokenizer),
        architectures=["WhisperForConditionalGeneration"],
        dtype="float32",
    )


def begin_suppressed(tokenizer: Tokenizer) -> list[int]:
    """A lone space and an empty text."""
    return [token_id(tokenizer, "Ġ"), token_id(tokenizer, "<|endoftext|>")]


def suppressed(tokenizer: Tokenizer) -> list[int]:
    """The marks that never stand inside a text; Whisper's list of odd symbols has no use here."""
    names = "startoftranscript translate transcribe startoflm startofprev nospeech".split()
    return sorted(token_id(tokenizer, f"<|{name}|>") for name in names)


def generation_config(tokenizer: Tokenizer) -> GenerationConfig:
    number = partial(token_id, tokenizer)
    languages = special_tokens()[2:-6]
    return GenerationConfig(
        bos_token_id=number("<|endoftext|>"),
        eos_token_id=number("<|endoftext|>"),
        pad_token_id=number("<|endoftext|>"),
        decoder_start_token_id=number("<|startoftranscript|>"),
        begin_suppress_tokens=begin_suppressed(tokenizer),
        suppress_tokens=suppressed(tokenizer),
        is_multilingual=True,
        lang_to_id={token: number(token) for token in languages},
        task_to_id={task: number(f"<|{task}|>") for task in ("transcribe", "translate")},
        no_timestamps_token_id=number("<|notimestamps|>"),
        prev_sot_token_id=number("<|startofprev|>"),
        max_initial_timestamp_index=50,
        max_length=MAX_TARGET_TOKENS,
        return_timestamps=False,
        alignment_heads=[[DECODER_LAYERS - 1, head] for head in range(HEADS)],
    )


def write_feature_config(folder: Path) -> None:
    """`preprocessor_config.json` as stock readers expect it; they compute the mel filters."""
    extractor = WhisperFeatureExtractor(
        feature_size=80, sampling_rate=SAMPLE_RATE_HZ, chunk_length=int(WINDOW_SECONDS)
    )
    content = extractor.to_dict() | {"processor_class": "WhisperProcessor"}
    write_json(folder / "preprocessor_config.json", content)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = train_tokenizer()
    write_tokenizer(folder, tokenizer)
    model_config(tokenizer).save_pretrained(folder)
    generation_config(tokenizer).save_pretrained(folder)
    write_feature_config(folder)


if __name__ == "__main__":
    main()
