"""What the files of a base have to say, looked at before anything of it is loaded or allocated.

A folder that somebody else made can hold anything: sizes that take all memory, ids beyond the
vocabulary, weights of another shape, names of code. Each file is read with a schema, sizes are
compared with the headers of the weights, and what is not known here is not taken from it. Neither
torch nor transformers is imported, so that all of it is answered at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers.pre_tokenizers import ByteLevel

from lora_whisper.json_files import (
    Check,
    flag,
    listed,
    named,
    number,
    one_of,
    optional,
    problems_with,
    read_bytes,
    read_object,
    shown,
    text,
    whole,
)
from lora_whisper.model.weights import EMBEDDINGS, FLOATS, TIED, Stored, is_tied, read_headers

CONFIG, GENERATION = "config.json", "generation_config.json"
EXTRACTOR, PROCESSOR = "preprocessor_config.json", "processor_config.json"
TOKENIZER, TOKENIZER_CONFIG = "tokenizer.json", "tokenizer_config.json"
VOCABULARY, MERGES = "vocab.json", "merges.txt"
# Of the tokenizer, and read by Transformers alone: an object each.
TOKENIZER_EXTRAS = ("special_tokens_map.json", "added_tokens.json", "normalizer.json")

INNER = "model."  # before the names of WhisperModel, in WhisperForConditionalGeneration's

POSITIONS_PER_SECOND = 50  # of the encoder, in every checkpoint
# What our log-mel computes, whatever a file says: another one would be heard after deployment.
LOG_MEL = {"n_fft": 400, "hop_length": 160, "sampling_rate": 16_000}
PUBLISHED_EXTRACTOR = LOG_MEL | {"feature_size": 80, "chunk_length": 30}  # where a key is missing

SIZES: Mapping[str, Check] = {
    "vocab_size": whole(1, 1_000_000),
    "num_mel_bins": whole(8, 149),  # with more, some filters lie between two frequencies
    "d_model": whole(2, 16_384),
    "encoder_layers": whole(1, 256),
    "decoder_layers": whole(1, 256),
    "encoder_attention_heads": whole(1, 1_024),
    "decoder_attention_heads": whole(1, 1_024),
    "encoder_ffn_dim": whole(1, 262_144),
    "decoder_ffn_dim": whole(1, 262_144),
    "max_source_positions": whole(1, 30_000),  # ten minutes
    "max_target_positions": whole(8, 65_536),
}
ACTIVATIONS = ("gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh", "quick_gelu", "relu", "silu")
DTYPES = ("float32", "float16", "bfloat16", "float64")

SHARE = number(0, 1)
TOKENIZER_SCHEMA: Mapping[str, Check] = {  # whatever else it has is looked at by Transformers
    "added_tokens_decoder": named(named(lambda _: None)),
    "add_prefix_space": flag,
    "model_max_length": optional(number(1, 1e31)),
    "tokenizer_class": optional(text),
    "processor_class": optional(text),
    "errors": optional(one_of("replace", "ignore", "strict")),
    "clean_up_tokenization_spaces": optional(flag),
    "language": optional(text),
    "task": optional(one_of("transcribe", "translate")),
    "predict_timestamps": optional(flag),
}
REDIRECTING = (  # keys by which tokenizer_config.json would have other things read than its folder
    "fast_tokenizer_files",
    "init_inputs",
    "vocab",
    "merges",
    "tokenizer_object",
    "gguf_file",
    "trust_remote_code",
)


def config_schema(vocabulary: int) -> dict[str, Check]:
    """Of config.json, beside the sizes; whatever else it has is not read."""
    token = optional(whole(0, vocabulary - 1))
    return {
        "activation_function": one_of(*ACTIVATIONS),
        "dropout": SHARE,
        "attention_dropout": SHARE,
        "activation_dropout": SHARE,
        "encoder_layerdrop": SHARE,
        "decoder_layerdrop": SHARE,
        "init_std": number(0, 100),
        "scale_embedding": flag,
        "tie_word_embeddings": one_of(True),
        "use_cache": flag,
        "dtype": optional(one_of(*DTYPES)),
        "torch_dtype": optional(one_of(*DTYPES)),
        "bos_token_id": token,
        "eos_token_id": _token_or_tokens(vocabulary),
        "pad_token_id": token,
        "decoder_start_token_id": whole(0, vocabulary - 1),
        "suppress_tokens": _tokens(vocabulary),
        "begin_suppress_tokens": _tokens(vocabulary),
        "max_length": optional(whole(1, 1_000_000)),
        "use_weighted_layer_sum": flag,
        "classifier_proj_size": whole(1, 65_536),
        "apply_spec_augment": flag,
        "mask_time_prob": SHARE,
        "mask_time_length": whole(1, 10_000),
        "mask_time_min_masks": whole(0, 10_000),
        "mask_feature_prob": SHARE,
        "mask_feature_length": whole(1, 10_000),
        "mask_feature_min_masks": whole(0, 10_000),
        "median_filter_width": whole(1, 999),
    }


def generation_schema(config: Mapping[str, Any]) -> dict[str, Check]:
    """Of generation_config.json; whatever else it has is not read."""
    vocabulary = config["vocab_size"]
    token, position = optional(whole(0, vocabulary - 1)), whole(0, 1_000)
    pair = listed(lambda _: None, 2)
    layer = whole(0, config["decoder_layers"] - 1)
    head = whole(0, config["decoder_attention_heads"] - 1)
    return {
        "bos_token_id": token,
        "eos_token_id": _token_or_tokens(vocabulary),
        "pad_token_id": token,
        "decoder_start_token_id": token,
        "no_timestamps_token_id": token,
        "prev_sot_token_id": token,
        "suppress_tokens": _tokens(vocabulary),
        "begin_suppress_tokens": _tokens(vocabulary),
        # [position, token], or null for a token that is detected
        "forced_decoder_ids": optional(
            listed(lambda value: pair(value) or position(value[0]) or token(value[1]))
        ),
        # [decoder layer, head], whose attention follows the sound
        "alignment_heads": optional(
            listed(lambda value: pair(value) or layer(value[0]) or head(value[1]))
        ),
        "lang_to_id": optional(named(whole(0, vocabulary - 1))),
        "task_to_id": optional(named(whole(0, vocabulary - 1))),
        "is_multilingual": optional(flag),
        "max_initial_timestamp_index": optional(whole(0, 1_000_000)),
        "return_timestamps": optional(flag),
        "max_length": optional(whole(1, 1_000_000)),
        "max_new_tokens": optional(whole(1, 1_000_000)),
        "num_beams": optional(whole(1, 100)),
        "no_repeat_ngram_size": optional(whole(0, 1_000)),
        "repetition_penalty": optional(number(0.01, 100)),
        "use_cache": optional(flag),
        "language": optional(text),
        "task": optional(one_of("transcribe", "translate")),
        "median_filter_width": optional(whole(1, 999)),
    }


def _tokens(vocabulary: int) -> Check:
    return optional(listed(whole(0, vocabulary - 1)))


def _token_or_tokens(vocabulary: int) -> Check:
    one, several = whole(0, vocabulary - 1), listed(whole(0, vocabulary - 1))
    return optional(lambda value: several(value) if isinstance(value, list) else one(value))


# ── the files ────────────────────────────────────────────────────────────────────────────────


def problems_of(folder: Path, weights: Sequence[str]) -> list[str]:
    """Everything that is unsound in the files of a base: file, key, what was expected and found.

    Args:
        weights: names of the files with its weights, none where only the others are there.
    """
    config, problems = _read(folder, CONFIG)
    problems = problems or config_problems(config)
    if problems:
        return problems  # everything else is measured by it
    if _is_there(folder / GENERATION):
        values, problems = _read(folder, GENERATION)
        problems = problems or problems_with(GENERATION, values, generation_schema(config))
        if not problems and len({*(values.get("suppress_tokens") or ())}) >= config["vocab_size"]:
            problems = [f"{GENERATION}: suppress_tokens: leaves no token that could be decoded"]
    return [
        *problems,
        *_extractor_problems(folder, config),
        *_tokenizer_problems(folder, config["vocab_size"]),
        *(weight_problems(folder, weights, config) if weights else ()),
    ]


def _read(folder: Path, name: str) -> tuple[dict[str, Any], list[str]]:
    try:
        return read_object(folder / name), []
    except ValueError as error:
        return {}, [f"{name}: {error}"]


def config_problems(config: Mapping[str, Any]) -> list[str]:
    """What is wrong with the values of config.json."""
    kind = config.get("model_type")
    if kind != "whisper":
        return [f"{CONFIG}: expected model_type 'whisper', found {kind!r:.60}"]
    if quantized := config.get("quantization_config"):
        return [
            f"{CONFIG}: quantization_config: expected weights in full precision, found "
            f"{shown(quantized)}: take the base as it was before, and type quantization=…"
        ]
    problems = problems_with(CONFIG, config, SIZES, SIZES)
    if problems:
        return problems
    needed = ("eos_token_id", "decoder_start_token_id")
    problems = problems_with(CONFIG, config, config_schema(config["vocab_size"]), needed)
    width = config["d_model"]
    if width % 2:
        problems.append(f"{CONFIG}: d_model: expected an even number, found {width}")
    problems += [
        f"{CONFIG}: {key}: expected a divisor of d_model={width}, found {config[key]}"
        for key in ("encoder_attention_heads", "decoder_attention_heads")
        if width % config[key]
    ]
    return problems


def _is_there(path: Path) -> bool:
    """Whatever it is, even a link to nowhere."""
    return path.is_symlink() or path.exists()


def extractor_of(folder: Path) -> Iterator[tuple[str, Mapping[str, Any], list[str]]]:
    """Each file that says how sound is looked at, its values, and what is wrong with the file."""
    if _is_there(folder / EXTRACTOR):
        yield EXTRACTOR, *_read(folder, EXTRACTOR)
    if _is_there(folder / PROCESSOR):
        values, problems = _read(folder, PROCESSOR)
        inner = values.get("feature_extractor", {})
        if not isinstance(inner, dict):
            problems = [f"{PROCESSOR}: feature_extractor: expected names with their values"]
        elif inner or problems or not _is_there(folder / EXTRACTOR):
            yield PROCESSOR, inner, problems
            return
        if problems:
            yield PROCESSOR, {}, problems


def _extractor_problems(folder: Path, config: Mapping[str, Any]) -> list[str]:
    seconds = config["max_source_positions"] / POSITIONS_PER_SECOND
    expected = LOG_MEL | {"feature_size": config["num_mel_bins"], "chunk_length": seconds}
    found = []
    for file, values, problems in extractor_of(folder):
        stated = PUBLISHED_EXTRACTOR | dict(values)
        kind = {"feature_extractor_type": optional(one_of("WhisperFeatureExtractor"))}
        more = {"padding_value": number(-1, 1), "dither": number(0, 1)}
        found += problems or [
            *problems_with(file, values, kind | more),
            *_differing(file, stated, expected),
        ]
    return found


def _differing(file: str, stated: Mapping[str, Any], expected: Mapping[str, Any]) -> Iterator[str]:
    for key, value in expected.items():
        found = stated[key]
        if isinstance(found, bool) or not isinstance(found, int | float) or found != value:
            yield f"{file}: {key}: expected {value:g}, found {shown(found)}"


# ── the tokenizer ────────────────────────────────────────────────────────────────────────────


def _tokenizer_problems(folder: Path, vocabulary: int) -> list[str]:
    problems: list[str] = []
    if _is_there(folder / TOKENIZER_CONFIG):
        values, problems = _read(folder, TOKENIZER_CONFIG)
        problems += [
            f"{TOKENIZER_CONFIG}: {key}: expected nothing, found {shown(values[key])}"
            for key in REDIRECTING
            if values.get(key)
        ]
        problems += problems_with(TOKENIZER_CONFIG, values, TOKENIZER_SCHEMA)
    for name in TOKENIZER_EXTRAS:
        if _is_there(folder / name):
            problems += _read(folder, name)[1]
    if _is_there(folder / TOKENIZER):
        values, unread = _read(folder, TOKENIZER)
        return problems + (unread or [*_tokenizer_json_problems(values, vocabulary)])
    ids, unread = _read(folder, VOCABULARY)
    try:
        read_bytes(folder / MERGES).decode("utf-8")
    except ValueError as error:
        unread.append(f"{MERGES}: {error}")
    return problems + (unread or [*_id_problems(VOCABULARY, "", ids, vocabulary)])


def _tokenizer_json_problems(values: Mapping[str, Any], vocabulary: int) -> Iterator[str]:
    """Of tokenizer.json: Whisper's byte-level BPE, by no expression of the file's own."""
    model = values.get("model")
    if not isinstance(model, dict):
        yield f"{TOKENIZER}: model: expected names with their values, found {shown(model)}"
        return
    if model.get("type", "BPE") != "BPE":
        yield f'{TOKENIZER}: model.type: expected "BPE", found {shown(model["type"])}'
        return
    if values.get("normalizer") is not None:
        yield f"{TOKENIZER}: normalizer: expected null, found {shown(values['normalizer'])}"
    for key in ("pre_tokenizer", "decoder"):
        part = values.get(key)
        kind = part.get("type") if isinstance(part, dict) else part
        if part is not None and kind != "ByteLevel":
            yield f'{TOKENIZER}: {key}: expected the type "ByteLevel", found {shown(kind)}'
    yield from _id_problems(TOKENIZER, "model.vocab: ", model.get("vocab"), vocabulary)
    merges, added = model.get("merges"), values.get("added_tokens", [])
    schema = {"id": whole(0, vocabulary - 1), "content": text}

    def pair(value: Any) -> str | None:
        is_pair = isinstance(value, str) or listed(text, 2)(value) is None
        return None if is_pair else "pairs of tokens"

    def token(value: Any) -> str | None:
        fits = isinstance(value, dict) and not problems_with("", value, schema, schema)
        return None if fits else f"a token with an id below {vocabulary:,}"

    if expected := listed(pair)(merges):
        yield f"{TOKENIZER}: model.merges: expected {expected}, found {shown(merges)}"
    if expected := listed(token)(added):
        yield f"{TOKENIZER}: added_tokens: expected {expected}, found {shown(added)}"


def _id_problems(file: str, key: str, ids: Any, vocabulary: int) -> Iterator[str]:
    if expected := named(whole(0, vocabulary - 1))(ids):
        yield f"{file}: {key}expected {expected}, found {shown(ids)}"
        return
    if len(set(ids.values())) < len(ids):
        yield f"{file}: {key}expected an id of its own for each token, found some twice"
    lost = [letter for letter in ByteLevel.alphabet() if letter not in ids]
    if lost:  # what is written with them would vanish from texts
        yield f"{file}: {key}expected a token for each of 256 bytes, found {256 - len(lost)}"


# ── the weights ──────────────────────────────────────────────────────────────────────────────


def weight_problems(
    folder: Path, weights: Sequence[str], config: Mapping[str, Any]
) -> Iterator[str]:
    """What is wrong with the tensors, by the headers of their files."""
    stored: dict[str, Stored] = {}
    unread = []
    for name in weights:
        try:
            found = read_headers(folder / name)
        except ValueError as error:
            unread.append(f"{name}: {error}")
            continue
        if twice := sorted(stored.keys() & found.keys()):
            yield f"{name}: {twice[0]}: expected it once, found it in another file as well"
        stored |= found
    if unread:
        yield from unread
        return
    problems = [*tensor_problems(stored, config)]
    yield from problems
    if not problems and TIED in stored:
        embeddings, projection = (folder / stored[name].file for name in (EMBEDDINGS, TIED))
        if not is_tied(embeddings, projection):
            yield f"{TIED}: expected the values of {EMBEDDINGS}, to which it is tied, found others"


def tensor_problems(stored: Mapping[str, Stored], config: Mapping[str, Any]) -> Iterator[str]:
    """Each tensor that is missing, is of another shape or kind than config.json says, or unknown.

    A layer more than config.json has would be left out in silence.
    """
    expected = expected_shapes(config)
    if not stored.keys() & expected.keys() - {TIED}:  # another program wrote them, or a part of it
        such = f"such as {shown(next(iter(stored)))}" if stored else "none"
        if {f"{INNER}{name}" for name in stored} & expected.keys():
            yield (
                f"weights: expected names that begin with {INNER}, found {such}: WhisperModel has "
                "saved them. Load the folder with Transformers' "
                "WhisperForConditionalGeneration.from_pretrained and save it with save_pretrained"
            )
        else:
            yield f"weights: expected names such as {[*expected][1]}, found {such}"
        return
    for name in expected:
        if name not in stored and name != TIED:
            yield f"{name}: missing"
    for name, tensor in stored.items():
        if name not in expected:
            yield f"{name}: {tensor.file}: no such tensor in a Whisper of this config.json"
        elif tensor.shape != expected[name]:
            shapes = f"expected {expected[name]} by config.json, found {tensor.shape}"
            yield f"{name}: {tensor.file}: {shapes}"
        elif tensor.dtype not in FLOATS.values():
            kinds = " or ".join(FLOATS.values())
            yield f"{name}: {tensor.file}: expected {kinds}, found {tensor.dtype}"


def expected_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """The tensors of a Whisper, by the names that Transformers gives them."""
    width, bins = config["d_model"], config["num_mel_bins"]
    vocabulary = (config["vocab_size"], width)
    shapes: dict[str, tuple[int, ...]] = {
        TIED: vocabulary,
        "model.encoder.conv1.weight": (width, bins, 3),
        "model.encoder.conv1.bias": (width,),
        "model.encoder.conv2.weight": (width, width, 3),
        "model.encoder.conv2.bias": (width,),
        "model.encoder.embed_positions.weight": (config["max_source_positions"], width),
        "model.decoder.embed_tokens.weight": vocabulary,
        "model.decoder.embed_positions.weight": (config["max_target_positions"], width),
    }
    for side, attentions in (("encoder", ["self"]), ("decoder", ["self", "encoder"])):
        top, hidden = f"model.{side}", config[f"{side}_ffn_dim"]
        shapes |= _norm(f"{top}.layer_norm", width)
        for layer in range(config[f"{side}_layers"]):
            path = f"{top}.layers.{layer}"
            for attention in (f"{path}.{kind}_attn" for kind in attentions):
                shapes |= _norm(f"{attention}_layer_norm", width)
                for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
                    shapes[f"{attention}.{name}.weight"] = (width, width)
                    if name != "k_proj":
                        shapes[f"{attention}.{name}.bias"] = (width,)
            shapes |= _norm(f"{path}.final_layer_norm", width)
            shapes |= {f"{path}.fc1.weight": (hidden, width), f"{path}.fc1.bias": (hidden,)}
            shapes |= {f"{path}.fc2.weight": (width, hidden), f"{path}.fc2.bias": (width,)}
    return shapes


def _norm(path: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{path}.weight": (width,), f"{path}.bias": (width,)}


def names_code(folder: Path) -> list[str]:
    """Files that name code to be run, which nothing here does."""
    files = (CONFIG, GENERATION, EXTRACTOR, PROCESSOR, TOKENIZER_CONFIG)
    return [name for name in files if "auto_map" in _read(folder, name)[0]]
