"""The sentences of the base model's own domain: everyday words, numbers and dates in free order.

`Composer(seed)` yields sentences for ever and never the same one twice. A sentence is a written
text and the words to be spoken for it (`27` is spoken `twenty seven`); equal spoken forms have
equal written forms, so a word error is always an error. Homophones (sea and see) stand in the
lists once at most.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random

from benchmarks.nano.numbers import SMALL, clock, ordinal, spoken_number, year

PEOPLE = """farmer teacher doctor driver singer painter baker lawyer soldier captain hunter writer
dancer student waiter nurse judge king queen uncle brother sister mother father cousin neighbor
stranger child woman boy girl friend guest leader worker sailor pilot cook guard thief artist poet
actor clerk tailor butcher gardener builder porter visitor manager player runner swimmer banker
officer professor engineer merchant priest prince giant widow""".split()
ANIMALS = """horse dog rabbit tiger lion monkey donkey chicken eagle spider turtle dolphin camel
elephant cow pig goat duck frog snake fox wolf kitten parrot pigeon beetle shark whale zebra
turkey""".split()
THINGS = """table chair window bottle basket hammer ladder candle mirror pencil letter paper book
picture carpet curtain blanket pillow bucket shovel wagon bicycle engine wheel lamp clock kettle
spoon fork knife plate cup glass box bag coat jacket shirt button ribbon hat boot glove belt ring
necklace crown sword shield rope chain lock key door gate fence wall roof floor garden apple
orange lemon banana onion potato tomato carrot cabbage pepper sandwich cookie cake pie egg cheese
butter biscuit piano guitar violin drum trumpet whistle camera radio telephone computer television
magazine newspaper ticket stamp envelope package parcel wallet coin diamond statue tower tunnel
boat ship canoe rocket airplane tractor truck bus train ball kite puzzle doll toy stone brick
plank branch leaf tree bush rose tulip feather shell map flag banner poster notebook ruler magnet
battery cable switch pump pipe barrel crate sack drawer shelf cabinet desk couch bench stool bed
tent umbrella suitcase trunk""".split()
PLACES = """river mountain forest village city market station airport harbor island beach valley
desert meadow bridge castle church school library museum hospital theater kitchen bedroom cellar
attic office factory farm barn stable hotel restaurant bakery bank prison palace temple park
street corner road path lake pond swamp jungle canyon hill cliff cave field orchard shop mall
stadium garage parlor balcony basement lobby hallway courtyard playground""".split()
ADJECTIVES = """old young happy angry quiet noisy clever foolish gentle brave lazy busy hungry
thirsty tired sleepy famous lonely proud nervous polite honest cruel kind rich strong tiny huge
little large small tall short narrow wide heavy light dark bright clean dirty broken empty full
open frozen wet dry warm cool hot cold soft hard smooth rough sharp sweet bitter sour fresh rotten
cheap expensive simple strange secret modern ancient wooden golden silver plastic leather paper
rusty dusty muddy shiny beautiful ugly perfect useful careful dangerous wonderful terrible
ordinary special common curious friendly jolly patient silent sudden""".split()
COLORS = "black white green yellow purple pink brown gray orange crimson violet".split()
TRANSITIVE = """carried painted found lost opened closed washed counted moved lifted dropped
pushed pulled followed watched noticed admired borrowed bought sold wanted needed liked loved
hated kept gave took showed touched cleaned fixed repaired damaged destroyed built designed
measured collected gathered delivered returned received ordered offered promised remembered forgot
described examined covered hid buried burned stole guarded protected visited crossed reached
entered avoided chased caught trapped rescued helped served fed ignored greeted invited joined
thanked called heard saw met drew cut""".split()
INTRANSITIVE = """walked waited jumped danced smiled laughed cried shouted whispered slept rested
stopped turned traveled wandered hurried climbed swam worked played stayed arrived vanished
returned listened stumbled fell stood sat lived hid gathered escaped appeared""".split()
ADVERBS = """slowly quickly quietly loudly carefully suddenly happily sadly gently bravely proudly
politely nervously patiently eagerly rarely often always never usually sometimes finally recently
calmly barely nearly almost simply clearly easily""".split()
PREPOSITIONS = """near behind under above inside outside beside beyond across around toward
between against along through below""".split()
NAMES = """Anna Peter Maria David Laura Simon Helen Robert Alice Martin Sophie Daniel Emma Thomas
Julia Oliver Nora Victor Clara George Lucy Henry Olivia Samuel Rachel Edward Diana Felix Monica
Arthur""".split()
CITIES = """London Boston Madrid Berlin Chicago Moscow Vienna Dublin Lisbon Toronto Sydney Tokyo
Cairo Athens Denver Dallas Oslo Prague Havana Geneva""".split()
MONTHS = """January February March April May June July August September October November
December""".split()
WEEKDAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
TIMES = """yesterday today tonight tomorrow""".split()
SEASONS = "spring summer autumn winter".split()
UNITS = "miles minutes hours pounds dollars meters gallons steps pages feet points degrees".split()
LABELS = "room gate bus platform page chapter flight number code channel route line".split()
QUESTIONS = "Did Could Would Should".split()
SUBJECTS = "we they she he I you everybody nobody somebody".split()
PRESENT = """want need like know see hear find open close carry bring follow remember forget sell
build clean watch visit paint help""".split()
LINKS = "and but because while before after when until".split()
OTHER = """the a of for to in on at with is was were are has had this that these those every
another some many more most few very not only from by into over my his her our their your its all
both first second last next""".split()

FREE_ORDER = sorted(
    set(PEOPLE + ANIMALS + THINGS + PLACES + ADJECTIVES + COLORS + TRANSITIVE + INTRANSITIVE)
    | set(ADVERBS + PREPOSITIONS + NAMES + CITIES + MONTHS + WEEKDAYS + TIMES + SEASONS + UNITS)
    | set(LABELS + PRESENT + LINKS + OTHER)
)


@dataclass(frozen=True)
class Phrase:
    """A written text and the words that are spoken for it."""

    written: str
    spoken: str

    def __add__(self, other: "Phrase") -> "Phrase":
        return Phrase(f"{self.written} {other.written}", f"{self.spoken} {other.spoken}")


def words(text: str) -> Phrase:
    """A phrase that is spoken as it is written."""
    return Phrase(text, text)


def plural(noun: str) -> str:
    """The plural of a regular noun, and of the few irregular ones in the lists."""
    irregular = {"child": "children", "woman": "women", "knife": "knives", "leaf": "leaves"}
    irregular |= {"thief": "thieves", "wolf": "wolves", "shelf": "shelves"}
    if noun in irregular:
        return irregular[noun]
    if noun.endswith(("s", "x", "ch", "sh")) or noun in ("potato", "tomato"):
        return noun + "es"
    return noun[:-1] + "ies" if noun.endswith("y") and noun[-2] not in "aeiou" else noun + "s"


def as_sentence(phrase: Phrase, mark: str = ".") -> Phrase:
    """A capital at the start and a mark at the end."""
    return Phrase(phrase.written[0].upper() + phrase.written[1:] + mark, phrase.spoken)


class Composer:
    """Composes sentences of the base domain; equal seeds give equal sentences.

    `avoid` holds written texts that must not be composed (those of a test set)."""

    def __init__(self, seed: int, avoid: frozenset[str] = frozenset()) -> None:
        self.random = Random(seed)
        self.seen = set(avoid)
        self.shapes: list[tuple[float, Callable[[], Phrase]]] = [
            (5, self.story),
            (3, self.amount),
            (2, self.dated),
            (2, self.label),
            (2, self.measure),
            (2, self.wish),
            (2, self.two_parts),
            (1, self.question),
            (5, self.free_order),
            (1, self.digits),
        ]

    def __iter__(self) -> Iterator[Phrase]:
        return self

    def __next__(self) -> Phrase:
        while True:
            weights, shapes = zip(*self.shapes, strict=True)
            shape = self.random.choices(shapes, weights)[0]
            sentence = as_sentence(shape(), "?" if shape == self.question else ".")
            if sentence.written not in self.seen and 3 <= len(sentence.spoken.split()) <= 11:
                self.seen.add(sentence.written)
                return sentence

    def pick(self, *lists: list[str]) -> Phrase:
        return words(self.random.choice([word for part in lists for word in part]))

    def maybe(self, share: float, make: Callable[[], Phrase]) -> list[Phrase]:
        return [make()] if self.random.random() < share else []

    def join(self, *phrases: Phrase | list[Phrase]) -> Phrase:
        flat = [q for p in phrases for q in (p if isinstance(p, list) else [p])]
        total = flat[0]
        for phrase in flat[1:]:
            total = total + phrase
        return total

    def number(self) -> Phrase:
        """Small and large, round and crooked numbers, and now and then a decimal."""
        kind = self.random.random()
        if kind < 0.08:
            whole, tenth = self.random.randint(0, 9), self.random.randint(1, 9)
            return Phrase(f"{whole}.{tenth}", f"{SMALL[whole]} point {SMALL[tenth]}")
        ranges = ((0.3, 2, 12, 1), (0.6, 13, 99, 1), (0.75, 100, 900, 50), (0.95, 101, 999, 1))
        low, high, unit = next(
            ((a, b, c) for share, a, b, c in ranges if kind < share), (1000, 9000, 500)
        )
        value = self.random.randrange(low, high + 1, unit)
        return Phrase(str(value), spoken_number(value, self.random))

    def noun(self) -> Phrase:
        """`my tired horse`, `the box`"""
        determiner = self.pick("the the the the this that every another my his her our".split())
        return self.join(
            determiner,
            self.maybe(0.5, lambda: self.pick(ADJECTIVES, COLORS)),
            self.pick(PEOPLE, ANIMALS, THINGS, THINGS),
        )

    def things(self) -> Phrase:
        return words(plural(self.pick(THINGS, ANIMALS, PEOPLE).written))

    def where(self) -> Phrase:
        if self.random.random() < 0.2:
            return self.join(self.pick("in from to".split()), self.pick(CITIES))
        return self.join(self.pick(PREPOSITIONS, ["in", "to"]), words("the"), self.pick(PLACES))

    def subject(self) -> Phrase:
        return self.noun() if self.random.random() < 0.6 else self.pick(NAMES, SUBJECTS)

    def date(self) -> Phrase:
        """`on May 3`, `in June 1987`, `on Friday`, `at 7:30`"""
        month, kind = self.pick(MONTHS), self.random.randrange(4)
        if kind == 0:
            day = self.random.randint(1, 31)
            return self.join(words("on"), month, Phrase(str(day), ordinal(day)))
        if kind == 1:
            value = self.random.randint(1800, 2060)
            return self.join(
                words("in"), self.maybe(0.5, lambda: month), Phrase(str(value), year(value))
            )
        if kind == 2:
            return self.join(words("on"), self.pick(WEEKDAYS))
        hour, minute = self.random.randint(1, 12), self.random.randint(1, 59)
        return self.join(words("at"), Phrase(f"{hour}:{minute:02d}", clock(hour, minute)))

    def story(self) -> Phrase:
        adverb = self.maybe(0.3, lambda: self.pick(ADVERBS))
        if self.random.random() < 0.35:
            return self.join(self.subject(), adverb, self.pick(INTRANSITIVE), self.where())
        ending = self.maybe(0.35, self.where)
        return self.join(self.subject(), adverb, self.pick(TRANSITIVE), self.noun(), ending)

    def amount(self) -> Phrase:
        """`Anna counted 27 yellow boxes`"""
        middle = self.maybe(0.5, lambda: self.pick(ADJECTIVES, COLORS))
        ending = self.maybe(0.4, self.where)
        return self.join(
            self.subject(), self.pick(TRANSITIVE), self.number(), middle, self.things(), ending
        )

    def dated(self) -> Phrase:
        ending = self.date() if self.random.random() < 0.8 else self.pick(TIMES)
        if self.random.random() < 0.5:
            return self.join(self.subject(), self.pick(INTRANSITIVE), ending)
        return self.join(self.subject(), self.pick(TRANSITIVE), self.noun(), ending)

    def label(self) -> Phrase:
        """`room 27 is behind the old bridge`"""
        head = self.join(self.pick(LABELS), self.number(), self.pick("is was".split()))
        return self.join(
            head, self.where() if self.random.random() < 0.6 else self.pick(ADJECTIVES)
        )

    def measure(self) -> Phrase:
        """`the small wagon was 12 miles from Oslo`"""
        ending = self.maybe(0.5, self.where)
        return self.join(
            self.noun(),
            self.pick("is was has had".split()),
            self.number(),
            self.pick(UNITS),
            ending,
        )

    def wish(self) -> Phrase:
        subject = self.pick("we they I you".split())
        helper = self.maybe(0.5, lambda: self.pick("always never often usually only".split()))
        return self.join(
            subject, helper, self.pick(PRESENT), self.noun(), self.maybe(0.3, self.where)
        )

    def two_parts(self) -> Phrase:
        first = self.join(self.pick(NAMES, SUBJECTS), self.pick(INTRANSITIVE))
        second = self.join(self.pick(NAMES, SUBJECTS), self.pick(TRANSITIVE), self.noun())
        return self.join(first, self.pick(LINKS), second)

    def question(self) -> Phrase:
        subject = self.subject()
        return self.join(self.pick(QUESTIONS), subject, self.pick(PRESENT), self.noun())

    def free_order(self) -> Phrase:
        """Words in no order at all: what cannot be guessed must be heard."""
        count = self.random.randint(4, 7)
        picked = [self.pick(FREE_ORDER) for _ in range(count)]
        if self.random.random() < 0.4:
            picked[self.random.randrange(count)] = self.number()
        return self.join(*picked)

    def digits(self) -> Phrase:
        """`code 4 0 7 2`: single digits one after another."""
        values = [self.random.randint(0, 9) for _ in range(self.random.randint(3, 6))]
        spoken = " ".join(SMALL[value] for value in values)
        return self.join(self.pick(LABELS), Phrase(" ".join(map(str, values)), spoken))


def invent_word(random: Random) -> str:
    """A word that does not exist, of two to four syllables: `torvanel`."""
    onsets = "b c d f g h j l m n p r s t v z br cl dr fl gr pl pr st tr th".split()
    syllables = [
        random.choice(onsets) + random.choice("aeiou") + random.choice(["", "", "l", "m", "n", "r"])
        for _ in range(random.randint(2, 4))
    ]
    return "".join(syllables) + random.choice(["", "", "x", "t", "n", "ne", "de"])


def with_invented_word(sentence: Phrase, random: Random) -> Phrase:
    """The sentence with one of its words, but not the first, replaced by an invented one.

    The base learns from some of these to spell what it has never read, as names demand."""
    spoken = set(sentence.spoken.split())
    words_in = sentence.written.rstrip(".?").split()
    plain = [word for word in words_in[1:] if word in spoken]
    if not plain:
        return sentence
    old, new = random.choice(plain), invent_word(random)
    written, aloud = (
        " ".join(new if word == old else word for word in text.split())
        for text in (" ".join(words_in), sentence.spoken)
    )
    return Phrase(written + sentence.written[-1], aloud)


def vocabulary() -> list[str]:
    """Every lower-cased word that the grammar can write, without numbers."""
    plurals = [plural(noun) for noun in THINGS + ANIMALS + PEOPLE]
    return sorted({word.lower() for word in [*FREE_ORDER, *plurals, *SUBJECTS, *QUESTIONS]})
