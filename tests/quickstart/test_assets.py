"""The embedded base model and speech: whole, consistent, small, and never a text in two sets."""

import json
from itertools import islice
from random import Random

import pytest
import soundfile
import torch
from safetensors import safe_open
from transformers import GenerationConfig, WhisperForConditionalGeneration, WhisperProcessor

from benchmarks.nano import QUICKSTART, dictation, grammar, invented, numbers, texts
from benchmarks.nano.make_nano import special_tokens, timestamp_tokens
from benchmarks.nano.synthesis import (
    BASE_VOICES,
    DICTATION_UNHEARD_VOICES,
    DICTATION_VOICES,
    UNHEARD_VOICES,
    draw_base_voice,
)

NANO, SPEECH = QUICKSTART / "nano", QUICKSTART / "speech"
COUNTS = {
    "dictation/train": 300,
    "dictation/validation": 40,
    "dictation/test": 100,
    "general/test": 100,
    "rehearsal/train": 1_000,
}
MOST_BYTES = 15_000_000


def rows(name: str) -> list[dict]:
    lines = (SPEECH / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def processor() -> WhisperProcessor:
    return WhisperProcessor.from_pretrained(NANO)


@pytest.fixture(scope="module")
def model() -> WhisperForConditionalGeneration:
    return WhisperForConditionalGeneration.from_pretrained(NANO).eval()


def test_weights_and_speech_together_stay_below_the_limit():
    files = [*SPEECH.rglob("*.opus"), NANO / "model.safetensors"]
    assert sum(file.stat().st_size for file in files) < MOST_BYTES


def test_the_word_list_has_every_drug_and_each_is_in_the_test():
    listed = (SPEECH / "dictation/drugs.txt").read_text(encoding="utf-8").splitlines()
    assert listed == dictation.DRUGS
    said = {
        word.strip(".").lower() for row in rows("dictation/test") for word in row["text"].split()
    }
    assert set(listed) <= said


def test_sets_have_their_counts_and_every_clip_its_row():
    assert {name: len(rows(name)) for name in COUNTS} == COUNTS
    listed = {(SPEECH / name).parent / row["audio"] for name in COUNTS for row in rows(name)}
    assert listed == set(SPEECH.rglob("*.opus"))


def test_no_text_stands_in_two_sets_or_twice_in_one():
    written = [row["text"] for name in COUNTS for row in rows(name)]
    assert len(written) == len(set(written)) == sum(COUNTS.values())


def test_pretraining_never_reads_a_committed_text():
    committed = {row["text"] for name in COUNTS for row in rows(name)}
    assert committed.isdisjoint(s.written for s in islice(texts.pretraining_composer(), 24_000))


@pytest.mark.parametrize("name", COUNTS)
def test_every_clip_decodes_is_as_long_as_stated_and_fits_the_window(name, processor):
    extractor = processor.feature_extractor
    for row in rows(name):
        samples, rate = soundfile.read((SPEECH / name).parent / row["audio"])
        assert rate == extractor.sampling_rate
        assert samples.ndim == 1
        assert abs(samples).max() > 0.1
        assert len(samples) / rate == pytest.approx(row["duration"], abs=0.01)
        assert len(samples) < extractor.n_samples


def test_forty_drugs_are_new_to_the_base_and_often_enough_in_training():
    known = set(grammar.vocabulary())
    new = [drug for drug in dictation.DRUGS if drug not in known]
    heard = " ".join(row["text"].lower() for row in rows("dictation/train"))
    assert len(set(new)) >= 40
    assert min(heard.count(drug) for drug in new) >= 5


def test_the_base_knows_600_words_and_its_sentences_use_no_others():
    known = set(grammar.vocabulary())
    assert len(known) >= 600
    for sentence in islice(grammar.Composer(seed=3), 500):
        spelled = [word.lower().strip(".?") for word in sentence.written.split()]
        assert {word for word in spelled if not word[0].isdigit()} <= known


def test_the_grammar_is_deterministic_and_never_repeats_itself():
    first = list(islice(grammar.Composer(seed=7), 3_000))
    assert first == list(islice(grammar.Composer(seed=7), 3_000))
    assert first != list(islice(grammar.Composer(seed=8), 3_000))
    assert len({sentence.written for sentence in first}) == 3_000


def test_an_invented_word_stands_alike_in_both_forms_and_is_never_a_drug():
    random = Random(2)
    for sentence in islice(grammar.Composer(seed=6), 2_000):
        changed = grammar.with_invented_word(sentence, random)
        new = set(changed.spoken.split()) - set(sentence.spoken.split())
        assert len(new) <= 1
        assert new <= set(changed.written.strip(".?").split())
        assert new.isdisjoint(dictation.DRUGS)


def test_sentences_with_invented_drugs_name_none_of_the_real_ones():
    names = invented.names(seed=0, count=300)
    assert names == invented.names(seed=0, count=300)
    assert len({*names}) == 300
    said = invented.sentences(0, names, each=1)
    words = {word.strip(".").lower() for one in said for word in one.written.split()}
    assert {*names} <= words
    assert words.isdisjoint(dictation.DRUGS)
    written = {one.written for part in texts.dictation_sentences().values() for one in part}
    assert written.isdisjoint(one.written for one in said)


def test_one_spoken_form_has_one_written_form():
    written: dict[str, str] = {}
    sentences = [*islice(grammar.Composer(seed=5), 5_000), *dictation.compose(seed=5, count=500)]
    for sentence in sentences:
        bare = sentence.written.lower().strip(".?")
        assert written.setdefault(sentence.spoken.lower(), bare) == bare


@pytest.mark.parametrize(
    ("spoken", "expected"),
    [
        (numbers.cardinal(347), "three hundred forty seven"),
        (numbers.cardinal(5000), "five thousand"),
        (numbers.spoken_number(20, Random(0)), "twenty"),
        (numbers.year(1905), "nineteen oh five"),
        (numbers.year(2007), "two thousand seven"),
        (numbers.ordinal(21), "twenty first"),
        (numbers.ordinal(12), "twelfth"),
        (numbers.clock(7, 5), "seven oh five"),
    ],
)
def test_numbers_are_read_out(spoken, expected):
    assert spoken == expected


def test_voices_are_in_one_group_only_and_rows_say_who_is_known():
    groups = [BASE_VOICES, UNHEARD_VOICES, DICTATION_VOICES, DICTATION_UNHEARD_VOICES]
    voices = [voice for group in groups for voice in group]
    assert len(voices) == len(set(voices))
    assert {row["speaker"] for row in rows("dictation/train")} == set(DICTATION_VOICES)
    test = rows("dictation/test")
    unheard = [row for row in test if row["voices"] == "unheard"]
    assert len(unheard) == len(test) // 2
    assert {row["speaker"] for row in unheard} == set(DICTATION_UNHEARD_VOICES)
    for row in rows("general/test"):
        assert row["voices"] == ("heard" if row["speaker"] in BASE_VOICES else "unheard")
    assert {row["speaker"] for row in rows("rehearsal/train")} <= set(BASE_VOICES)


def test_texts_and_voices_of_the_rehearsal_are_those_that_its_script_draws():
    """They follow the test's in the same draw: a longer rehearsal begins with a shorter one."""
    random = Random(54)
    half = len(rows("general/test")) // 2
    heard = [draw_base_voice(random) for _ in range(half)]
    assert [row["speaker"] for row in rows("general/test")[:half]] == heard
    written = [sentence.written for sentence in texts.general_sentences()["rehearsal"]]
    voices = [draw_base_voice(random) for _ in written]
    assert [(row["text"], row["speaker"]) for row in rows("rehearsal/train")] == list(
        zip(written, voices, strict=True)
    )


def test_every_special_token_has_the_same_id_everywhere(processor, model):
    number = processor.tokenizer.convert_tokens_to_ids
    expected = [*special_tokens(), *timestamp_tokens()]
    first = number("<|endoftext|>")
    assert [number(token) for token in expected] == list(range(first, first + len(expected)))
    assert len(processor.tokenizer) == model.config.vocab_size == first + len(expected)
    generation = GenerationConfig.from_pretrained(NANO)
    assert generation.decoder_start_token_id == number("<|startoftranscript|>")
    assert generation.no_timestamps_token_id == number("<|notimestamps|>")
    assert generation.prev_sot_token_id == number("<|startofprev|>")
    assert len(generation.lang_to_id) == 99
    assert all(number(token) == value for token, value in generation.lang_to_id.items())
    assert generation.task_to_id == {t: number(f"<|{t}|>") for t in ("transcribe", "translate")}
    assert generation.eos_token_id == model.config.eos_token_id == first
    assert processor.tokenizer.all_special_ids[-1] == number("<|0.00|>") - 1


def test_vocabulary_files_agree(processor):
    vocabulary = json.loads((NANO / "vocab.json").read_text(encoding="utf-8"))
    added = json.loads((NANO / "added_tokens.json").read_text(encoding="utf-8"))
    assert {**vocabulary, **added} == processor.tokenizer.get_vocab()
    for row in rows("dictation/test") + rows("general/test"):
        tokens = processor.tokenizer(row["text"], add_special_tokens=False).input_ids
        assert processor.tokenizer.decode(tokens) == row["text"]


def test_the_model_is_a_whisper_of_two_to_five_million_parameters(model, processor):
    assert type(model) is WhisperForConditionalGeneration
    assert 2_000_000 <= model.num_parameters() <= 5_000_000
    assert model.dtype == torch.float32
    assert processor.feature_extractor.nb_max_frames == 2 * model.config.max_source_positions
    with safe_open(NANO / "model.safetensors", "pt") as weights:
        names = weights.keys()
        assert all(torch.isfinite(weights.get_tensor(name)).all() for name in names)


def test_an_adapter_can_tell_the_tokens_of_the_dictation_apart(model, processor):
    """Tokens that pre-training never wrote had cosines of 0.99, and no adapter could write them."""
    texts_read = [" " + row["text"] for row in rows("dictation/train")]
    ids = processor.tokenizer(texts_read, add_special_tokens=False).input_ids
    tokens = sorted({token for sentence in ids for token in sentence})
    embedding = torch.nn.functional.normalize(model.get_output_embeddings().weight[tokens], dim=1)
    cosines = embedding @ embedding.T - torch.eye(len(tokens))
    assert cosines.max() < 0.9


def test_stock_generation_reads_a_known_voice(model, processor):
    """Half of the words right is far from what is measured, and far from chance."""
    heard = [row for row in rows("general/test") if row["voices"] == "heard"][:6]
    clips = [soundfile.read(SPEECH / "general" / row["audio"])[0] for row in heard]
    features = processor(clips, sampling_rate=16_000, return_tensors="pt").input_features
    tokens = model.generate(features, language="en", task="transcribe", max_new_tokens=60)
    found = total = 0
    for row, text in zip(
        heard, processor.batch_decode(tokens, skip_special_tokens=True), strict=True
    ):
        wanted = row["text"].lower().split()
        found += len(set(wanted) & set(text.lower().split()))
        total += len(set(wanted))
    assert found / total > 0.5
