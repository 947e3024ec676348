"""Texts, languages and tasks as token ids: every id is read from the checkpoint's own files.

Whisper's three vocabularies (51864 `.en`, 51865, 51866 of large-v3) put languages, tasks and
timestamps at different ids, and a small vocabulary puts them elsewhere again.
"""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import regex

from lora_whisper.errors import UserError, listing
from lora_whisper.model.published import (
    ENGLISH_VOCABULARY,
    LANGUAGE_TOKEN,
    SECONDS_PER_TIMESTAMP,
    TASKS,
)

# That older checkpoints lack: those that have it, and the related one whose token it may borrow.
NEWER_LANGUAGES = {"yue": ("large-v3, turbo", "zh")}
# Written without spaces between words; Whisper's own transcripts of them begin without one.
SPACELESS_LANGUAGES = frozenset({"zh", "ja", "th", "lo", "my", "km", "yue"})


@dataclass(frozen=True)
class SpecialTokens:
    """The special tokens of one checkpoint and the sizes that bound a token sequence."""

    size: int  # rows of the decoder's embedding
    sot: int  # <|startoftranscript|>, the decoder's first input; not the tokenizer's bos
    eot: int  # <|endoftext|>, the last label; Whisper's bos, eos and padding at once
    previous: int  # <|startofprev|>, opens a prompt of earlier text
    no_speech: int
    no_timestamps: int
    timestamp_begin: int  # <|0.00|>; the next ids are 0.02 s apart
    languages: Mapping[str, int]  # "sw" → id of <|sw|>; empty for English-only checkpoints
    tasks: Mapping[str, int]  # "transcribe" → id; empty for English-only checkpoints
    multilingual: bool
    max_tokens: int  # decoder positions

    def start(self, language: str | None, task: str, timestamps: bool = False) -> list[int]:
        """What the decoder is given before the text; `language` is a code, None for `.en`.

        With `timestamps`, the first one comes next, in place of <|notimestamps|>.
        """
        last = [] if timestamps else [self.no_timestamps]
        if not self.multilingual:
            return [self.sot, *last]
        assert language is not None, "token_language() gives every utterance its language first"
        return [self.sot, self.languages[language], self.tasks[task], *last]

    @property
    def room_tokens(self) -> int:
        """What the decoder has room for after a start without <|notimestamps|>."""
        return self.max_tokens - (3 if self.multilingual else 1)

    @property
    def prompt_tokens(self) -> int:
        """What decoders give a prompt room for, beside <|startofprev|>: 223 of 448."""
        return self.max_tokens // 2 - 1

    def timestamp(self, seconds: float) -> int:
        """The token of the nearest multiple of 0.02 s from the window's beginning."""
        return self.timestamp_begin + round(seconds / SECONDS_PER_TIMESTAMP)


def read_special_tokens(
    tokenizer: Any, generation_config: Any | None, model_config: Any
) -> SpecialTokens:
    """Read the ids from the tokenizer and check them against the configurations.

    `generation_config` may be None: not every folder has one.

    Raises:
        UserError: names each token that is missing and each id that the files disagree about.
    """
    ids: Mapping[str, int] = tokenizer.get_vocab()
    problems = list(_problems(ids, generation_config, model_config))
    if problems:
        raise UserError(
            "The checkpoint's tokenizer does not belong to its model:\n" + listing(problems) + "\n"
            "Take tokenizer, config and generation config from the same checkpoint."
        )
    # `.en` vocabularies hold the language tokens too, so their presence says nothing.
    declared = getattr(generation_config, "is_multilingual", None)
    by_size = model_config.vocab_size != ENGLISH_VOCABULARY  # as openai/whisper tells `.en`
    multilingual = by_size if declared is None else declared
    languages = {}
    if multilingual:  # those that generation does not know are no use to anyone
        usable = getattr(generation_config, "lang_to_id", None) or ids
        codes = {token: LANGUAGE_TOKEN.fullmatch(token) for token in ids if token in usable}
        languages = {match[1]: ids[token] for token, match in codes.items() if match}
    return SpecialTokens(
        size=model_config.vocab_size,
        sot=ids["<|startoftranscript|>"],
        eot=ids["<|endoftext|>"],
        previous=ids["<|startofprev|>"],
        # large-v3 calls the token by another name than the checkpoints before it.
        no_speech=ids["<|nospeech|>"] if "<|nospeech|>" in ids else ids["<|nocaptions|>"],
        no_timestamps=ids["<|notimestamps|>"],
        timestamp_begin=ids["<|notimestamps|>"] + 1,
        languages=languages,
        tasks={task: ids[f"<|{task}|>"] for task in TASKS} if multilingual else {},
        multilingual=multilingual,
        max_tokens=model_config.max_target_positions,
    )


def _problems(
    ids: Mapping[str, int], generation_config: Any | None, model_config: Any
) -> Iterator[str]:
    names = ["startoftranscript", "endoftext", "startofprev", "notimestamps", *TASKS]
    # `tokenizer.convert_tokens_to_ids` would answer <|endoftext|> for a token that is not there.
    for token in (f"<|{name}|>" for name in names):
        if token not in ids:
            yield f"{token}: not in the tokenizer"
    if "<|nospeech|>" not in ids and "<|nocaptions|>" not in ids:
        yield "<|nospeech|>: not in the tokenizer, nor is <|nocaptions|>"
    yield from _disagreements(ids, "generation_config.json", generation_config)
    yield from _disagreements(ids, "config.json", model_config)
    # Generation takes the id after <|notimestamps|> for the first timestamp.
    first = ids.get("<|0.00|>")  # older tokenizer files hold no timestamps
    if first is not None and first - 1 != ids.get("<|notimestamps|>"):
        yield f"<|0.00|>: {first} in the tokenizer, expected right after <|notimestamps|>"
    highest, size = max(ids, key=ids.__getitem__), model_config.vocab_size
    if ids[highest] >= size:
        yield f"{highest}: {ids[highest]} in the tokenizer, but vocab_size is {size} in config.json"


def _disagreements(ids: Mapping[str, int], file: str, config: Any | None) -> Iterator[str]:
    """Ids that `config` states and that the tokenizer gives to another token, or to none."""
    stated = {
        "<|startoftranscript|>": getattr(config, "decoder_start_token_id", None),
        "<|endoftext|>": getattr(config, "eos_token_id", None),
        "<|notimestamps|>": getattr(config, "no_timestamps_token_id", None),
        "<|startofprev|>": getattr(config, "prev_sot_token_id", None),
        **(getattr(config, "lang_to_id", None) or {}),
    }
    tasks = getattr(config, "task_to_id", None) or {}
    stated |= {f"<|{task}|>": index for task, index in tasks.items()}
    for token, index in stated.items():
        if isinstance(index, int) and index != ids.get(token):
            found = f"{ids[token]} in the tokenizer" if token in ids else "not in the tokenizer"
            yield f"{token}: {index} in {file}, {found}"


def language_code(special_tokens: SpecialTokens, language: str | None) -> str | None:
    """Whisper's code for a language given by code, locale or name, in any case.

    Returns None for English-only checkpoints, which have no language token.

    Raises:
        UserError: a language that the checkpoint does not know, or none where one is needed.
    """
    if not special_tokens.multilingual:
        if language is not None and code_of(language) != "en":
            raise UserError(
                f"The checkpoint reads English only, but the language is {language!r}. "
                "Choose a multilingual one (model=small, not model=small.en) or say "
                "data.language=en."
            )
        return None
    if language is None:
        raise UserError(
            "A multilingual checkpoint has to be told the language: say data.language=sw (or "
            'data.language=swahili), or give each row of the manifest a "language".'
        )
    code = code_of(language)
    if code not in special_tokens.languages:
        raise UserError(_unknown_language(special_tokens, language, code))
    return code


def check_task(special_tokens: SpecialTokens, task: str) -> None:
    """Raise UserError when the checkpoint has not learnt `task`."""
    if task != "transcribe" and task not in special_tokens.tasks:
        raise UserError(
            f"The checkpoint reads English only and cannot {task}. Choose a multilingual one "
            "(model=small, not model=small.en) or say data.task=transcribe."
        )


def _unknown_language(special_tokens: SpecialTokens, language: str, code: str) -> str:
    from transformers.models.whisper.tokenization_whisper import LANGUAGES, TO_LANGUAGE_CODE

    if code in NO_LANGUAGE:
        return (
            f"{language!r} stands for {NO_LANGUAGE[code]}, and Whisper has to be told which is "
            "spoken: say data.language=CODE, such as sw, or give each row its own."
        )
    if code in NEWER_LANGUAGES and code not in special_tokens.languages:
        known = ", ".join(NEWER_LANGUAGES[code][1:])
        return (
            f"The checkpoint does not know the language {language!r} ({LANGUAGES.get(code, code)}),"
            f" which came with large-v3: say model=large-v3 or model=turbo. Any other multilingual "
            f"one can borrow the token of a related language: data.language_token={known}."
        )
    names = [name for name, known in TO_LANGUAGE_CODE.items() if known in special_tokens.languages]
    near = difflib.get_close_matches(language.lower(), [*names, *special_tokens.languages], n=3)
    codes = [TO_LANGUAGE_CODE.get(one, one) for one in near]
    named = [one if one == of else f"{one} ({of})" for one, of in zip(near, codes, strict=True)]
    examples = ", ".join(named or sorted(special_tokens.languages)[:10])
    kind = "the nearest being" if near else "such as"
    return (
        f"The checkpoint does not know the language {language!r}; it knows "
        f"{len(special_tokens.languages)}, {kind} {examples}. Say data.language=CODE with "
        "one of them; a language that Whisper was not trained on borrows the token of a related "
        "one: data.language_token=CODE."
    )


def text_tokens(tokenizer: Any, text: str, language: str | None) -> list[int]:
    """Token ids of a transcript, in Whisper's own convention.

    NFC, nothing that is not seen, single spaces, and one in front unless `language` (a code) is
    written without. Nothing in the text can become a special token, whatever it looks like: the
    text goes past the tokenizer's list of added tokens (`split_special_tokens` would still let
    timestamps through, which are added but not special), straight to its byte-level BPE.
    """
    words = " ".join(without_unseen(text).split())
    spaced = words if not words or language in SPACELESS_LANGUAGES else f" {words}"
    backend = tokenizer.backend_tokenizer
    pieces = backend.pre_tokenizer.pre_tokenize_str(spaced)
    return [token.id for piece, _ in pieces for token in backend.model.tokenize(piece)]


# ── characters that nobody sees ───────────────────────────────────────────────────────────────────
# One rule for what is trained on, compared and checked. A soft hyphen, a mark of direction or of
# byte order stands in a text by accident, and a text with it looks like one without. What is not
# seen and yet a letter's own in its script stays:
#
# - joiners beside the letters of scripts that are joined or stacked (Persian, Indic and Sinhala
#   texts, Mongolian, …): The Unicode Standard, 23.2, and Unicode Annex 31, 2.3, which allows them
#   after these letters alone, since there they tell words apart;
# - the zero width space of scripts that part words by it (Thai, Lao, Khmer, Burmese, Javanese, …);
# - joiners within emoji, which are one picture by them, and selectors after a letter or a picture
#   that has several forms (Han, Mongolian, emoji).

JOINED_SCRIPTS = (
    "Arabic Syriac Mandaic Mongolian Nko Adlam Hanifi_Rohingya Phags_Pa "
    "Devanagari Bengali Gurmukhi Gujarati Oriya Tamil Telugu Kannada Malayalam Sinhala Myanmar "
    "Khmer Balinese Javanese Sundanese Meetei_Mayek Newa Tirhuta"
).split()
UNSPACED_SCRIPTS = "Thai Lao Khmer Myanmar Tibetan Javanese Balinese Tai_Tham New_Tai_Lue".split()
ZERO_WIDTH_SPACE = "\u200b"


# Classes of the letters and marks of these scripts.
JOINABLE, UNSPACED = (
    "[" + "".join(rf"\p{{Script={name}}}" for name in scripts) + "]"
    for scripts in (JOINED_SCRIPTS, UNSPACED_SCRIPTS)
)
# Control characters but for those that part words, format characters, variation selectors, and
# what is drawn as nothing: Hangul fillers, the grapheme joiner (Default_Ignorable_Code_Point).
UNSEEN = regex.compile(
    r"[[\p{Cc}--[\s\x1c-\x1f]]\p{Variation_Selector}\p{Default_Ignorable_Code_Point}"
    r"[\p{Cf}--\p{Prepended_Concatenation_Mark}]]",
    regex.V1,
)
ACCIDENTAL = regex.compile(
    rf"(?<={JOINABLE}\p{{M}}*)[\u200c\u200d](?=[\p{{L}}\p{{M}}])(*SKIP)(*FAIL)"
    rf"|(?<={JOINABLE}\p{{M}}*)\u200d(*SKIP)(*FAIL)"
    rf"|(?:(?<={UNSPACED})\u200b|\u200b(?={UNSPACED}))(*SKIP)(*FAIL)"
    r"|(?<=[\p{Extended_Pictographic}\p{Emoji_Modifier}\ufe0f])\u200d"
    r"(?=\p{Extended_Pictographic})(*SKIP)(*FAIL)"
    r"|(?<=\p{Emoji})[\ufe0e\ufe0f](*SKIP)(*FAIL)"
    r"|(?<=\p{Script=Mongolian})[\u180b-\u180f](*SKIP)(*FAIL)"
    r"|(?<=\p{Script=Han})\p{Variation_Selector}(*SKIP)(*FAIL)"
    rf"|{UNSEEN.pattern}",
    regex.V1,
)


def without_unseen(text: str) -> str:
    """The text as it is seen, in Unicode's composed form (NFC)."""
    text = unicodedata.normalize("NFC", text)
    if not _may_hold_unseen(text):
        return text
    return unicodedata.normalize("NFC", ACCIDENTAL.sub("", text))  # what it parted may compose


def unseen(text: str) -> list[str]:
    """What `without_unseen` would take away, each character once: `U+200B`."""
    found = dict.fromkeys(ACCIDENTAL.findall(text)) if _may_hold_unseen(text) else {}
    return [f"U+{ord(one):04X}" for one in found]


def _may_hold_unseen(text: str) -> bool:
    """A quick look: most of a million texts have nothing of the kind."""
    return not (text.isascii() and text.isprintable()) and UNSEEN.search(text) is not None


# ── what a language is called elsewhere ───────────────────────────────────────────────────────────
# Whisper knows ISO 639-1 codes, mostly, and English names. People bring locales (sw_KE,
# zh-Hant-TW), codes of three letters (swh), older and newer codes (iw, jv) and a language's own
# name (Kiswahili).


# Whisper's code, then codes of ISO 639-1 and 639-3 that mean it (of a macrolanguage, that of its
# main form, too), then its own name and others, words joined by _: https://iso639-3.sil.org/code_tables/639/data
TABLE = """
af afr; afrikaans
am amh; አማርኛ amharigna
ar ara arb arz ary apc ajp acm; العربية
as asm; অসমীয়া
az aze azj; azərbaycan azərbaycanca azeri
ba bak; башҡорт башҡортса
be bel; беларуская belarussian
bg bul; български
bn ben; বাংলা bangla
bo bod tib; བོད་ཡིག
br bre; brezhoneg
bs bos; bosanski
ca cat; català
cs ces cze; čeština cesky
cy cym wel; cymraeg
da dan; dansk
de deu ger; deutsch
el ell gre; ελληνικά ellinika
en eng; anglais englisch
es spa; español espanol
et est ekk; eesti
eu eus baq; euskara
fa fas per pes prs; فارسی farsi dari
fi fin; suomi
fo fao; føroyskt
fr fra fre; français francais
gl glg; galego
gu guj; ગુજરાતી
ha hau; هَوُسَا
haw; hawaiʻi
he iw heb; עברית ivrit
hi hin; हिन्दी
hr hrv; hrvatski
ht hat; kreyòl kreyol creole
hu hun; magyar
hy hye arm; հայերեն
id in ind; bahasa_indonesia
is isl ice; íslenska
it ita; italiano
ja jpn jp; 日本語 nihongo
jw jv jav; jawa basa_jawa
ka kat geo; ქართული
kk kaz; қазақ қазақша
km khm; ខ្មែរ
kn kan; ಕನ್ನಡ
ko kor; 한국어
la lat; latina
lb ltz; lëtzebuergesch
ln lin; lingála
lo lao; ລາວ
lt lit; lietuvių
lv lav lvs; latviešu
mg mlg plt; malagasy
mi mri mao; māori te_reo
mk mkd mac; македонски
ml mal; മലയാളം
mn mon khk; монгол
mr mar; मराठी
ms msa may zsm; bahasa_melayu melayu
mt mlt; malti
my mya bur; မြန်မာ burmese
ne nep npi; नेपाली
nl nld dut; nederlands
nn nno; nynorsk norsk_nynorsk
no nb nor nob; norsk bokmål bokmal norsk_bokmål false
oc oci; occitan
pa pan pnb; ਪੰਜਾਬੀ
pl pol; polski
ps pus pbt pst; پښتو
pt por; português portugues
ro mo ron rum mol; română
ru rus; русский russkij
sa san; संस्कृतम्
sd snd; سنڌي
si sin; සිංහල
sk slk slo; slovenčina
sl slv; slovenščina slovene
sn sna; chishona
so som; soomaali
sq sqi alb als; shqip
sr srp; српски srpski
su sun; basa_sunda
sv swe; svenska
sw swa swh; kiswahili
ta tam; தமிழ்
te tel; తెలుగు
tg tgk; тоҷикӣ
th tha; ไทย
tk tuk; türkmen
tl fil tgl; filipino pilipino
tr tur; türkçe turkce
tt tat; татар татарча
uk ukr; українська
ur urd; اردو
uz uzb uzn; oʻzbek o'zbek
vi vie; tiếng_việt
yi ji yid ydd; ייִדיש
yo yor; yorùbá
yue zh-yue; 粵語 粤语 广东话 廣東話
zh zho chi cmn; 中文 汉语 普通话 putonghua
"""  # noqa: RUF001
NO_LANGUAGE = {  # ISO 639-2's codes for what is no language, and what is written in its place
    "mul": "several languages",
    "und": "an unknown language",
    "mis": "a language without a code",
    "zxx": "no language",
    "none": "none",
    "null": "none",
    "nan": "none",
    "unknown": "an unknown language",
    "auto": "whichever is heard",
}
LOCALE = re.compile(r"([a-z]{2,3})(?:[_-]\w+)+(?:\.[\w-]+)?(?:@\w+)?")  # sw_ke, zh-Hant-TW
ENCODED = re.compile(r"([a-z]{2,3})[.@][\w-]+")  # sw.UTF-8


def code_of(language: str) -> str:
    """Whisper's code for a language, however it is called; any other stays as it is called.

    YAML 1.1 reads `no` as false, and so do some who write JSON; no language is called so.
    """
    name = " ".join(without_unseen(language).split()).lower()
    known = _codes()
    if name in known:
        return known[name]
    locale = LOCALE.fullmatch(name) or ENCODED.fullmatch(name)
    if locale is None:
        return name
    if re.match(r"zh[_-]yue\b", name):
        return "yue"
    return known.get(locale[1], locale[1])


@cache
def _codes() -> Mapping[str, str]:
    """Codes by whatever a language is called; imported late, so that a typo is answered at once."""
    from transformers.models.whisper.tokenization_whisper import LANGUAGES, TO_LANGUAGE_CODE

    codes: dict[str, str] = {}
    for line in filter(None, TABLE.splitlines()):
        code, *others = line.replace(";", "").split()
        codes |= dict.fromkeys((name.replace("_", " ") for name in others), code)
    return codes | dict(TO_LANGUAGE_CODE) | {code: code for code in LANGUAGES}
