"""A pharmacist's dictation: the domain that an adapter has to learn.

44 drug names, doses and instructions. None of the drug names and few of the instructions' words
stand in the base's grammar; its numbers do. `compose(seed, count)` uses every drug equally often
(to within one).
"""

from collections.abc import Sequence
from random import Random

from benchmarks.nano.grammar import Phrase, as_sentence, words
from benchmarks.nano.numbers import cardinal

DRUGS = """metformin lisinopril atorvastatin amlodipine omeprazole losartan gabapentin sertraline
simvastatin montelukast furosemide prednisone tramadol citalopram trazodone pantoprazole
escitalopram rosuvastatin bupropion duloxetine clonazepam carvedilol meloxicam clopidogrel
allopurinol warfarin glipizide zolpidem ibuprofen amoxicillin azithromycin ciprofloxacin
doxycycline naproxen diclofenac venlafaxine lamotrigine quetiapine risperidone propranolol
spironolactone methotrexate tamsulosin levothyroxine""".split()
DOSES_MG = (5, 10, 15, 20, 25, 30, 40, 50, 75, 80, 100, 150, 200, 250, 300, 400, 500, 600, 750)
SUPPLIES = (14, 20, 28, 30, 40, 56, 60, 84, 90)
STARTS = "give dispense prescribe refill continue".split()
CHANGES = "increase reduce".split()
FORMS = "tablets capsules drops".split()
TIMES = (
    "once daily",
    "twice daily",
    "every morning",
    "every evening",
    "at bedtime",
    "with meals",
)


def dose(random: Random) -> Phrase:
    """`250 mg`, spoken `two hundred fifty milligrams`"""
    milligrams = random.choice(DOSES_MG)
    return Phrase(f"{milligrams} mg", f"{cardinal(milligrams)} milligrams")


def read(number: int) -> Phrase:
    return Phrase(str(number), cardinal(number))


def two_drugs(drug: str, random: Random, drugs: Sequence[str] = DRUGS) -> Phrase:
    """A change from one drug to another, a warning or an allergy."""
    name, other = words(drug), words(random.choice([d for d in drugs if d != drug]))
    shape = random.randrange(3)
    if shape == 0:
        return words("replace") + name + words("with") + other + dose(random)
    if shape == 1:
        return words("never give") + name + words("with") + other
    return words("the patient is allergic to") + name + words("and") + other


def instruction(drug: str, random: Random, drugs: Sequence[str] = DRUGS) -> Phrase:
    """An order, a change, a supply, a direction or a record; or a sentence on two drugs."""
    name, times = words(drug), words(random.choice(TIMES))
    form = words(random.choice(FORMS))
    start = words(random.choice(STARTS))
    shape = random.randrange(8)
    if shape == 0:
        return start + name + dose(random) + times
    if shape == 1:
        return (
            start + name + dose(random) + words("for") + read(random.randint(3, 14)) + words("days")
        )
    if shape == 2:
        return words(random.choice(CHANGES)) + name + words("to") + dose(random) + times
    if shape == 3:
        supply = read(random.choice(SUPPLIES))
        return words("dispense") + supply + form + words("of") + name + dose(random)
    if shape == 4:
        return words("take") + read(random.randint(2, 4)) + name + form + times
    if shape == 5:
        return words("the patient takes") + name + dose(random) + times
    return two_drugs(drug, random, drugs)


def compose(seed: int, count: int, avoid: frozenset[str] = frozenset()) -> list[Phrase]:
    """`count` sentences, none of them twice and none in `avoid`, in a mixed order."""
    random, seen = Random(seed), set(avoid)
    sentences: list[Phrase] = []
    while len(sentences) < count:
        drug = DRUGS[len(sentences) % len(DRUGS)]
        sentence = as_sentence(instruction(drug, random))
        if sentence.written not in seen:
            seen.add(sentence.written)
            sentences.append(sentence)
    random.shuffle(sentences)
    return sentences


def vocabulary() -> list[str]:
    """Every word of the dictation, without numbers."""
    phrases = [*STARTS, *CHANGES, *FORMS, *TIMES, "take replace with never give and"]
    phrases += ["the patient is allergic to of for days mg takes"]
    return sorted({*DRUGS, *" ".join(phrases).split()})
