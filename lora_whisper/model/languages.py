"""What a language is called elsewhere, and Whisper's code for it.

Whisper knows ISO 639-1 codes, mostly, and English names. People bring locales (sw_KE, zh-Hant-TW),
codes of three letters (swh), older and newer codes (iw, jv) and a language's own name (Kiswahili).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache

from lora_whisper.model.unseen import without_unseen

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
