"""Which sentences go where: no text stands in two of these sets."""

from functools import cache
from itertools import islice

from benchmarks.nano import dictation
from benchmarks.nano.grammar import Composer, Phrase

TRAIN_SENTENCES, TEST_SENTENCES, VALIDATION_SENTENCES, REHEARSAL_SENTENCES = 300, 100, 40, 1_000


@cache
def general_sentences() -> dict[str, list[Phrase]]:
    """The base's own domain: `test` and `rehearsal`."""
    composer = Composer(seed=11)
    test = list(islice(composer, TEST_SENTENCES))
    return {"test": test, "rehearsal": list(islice(composer, REHEARSAL_SENTENCES))}


def general_texts() -> frozenset[str]:
    return frozenset(s.written for part in general_sentences().values() for s in part)


@cache
def dictation_sentences() -> dict[str, list[Phrase]]:
    """The pharmacist's dictation: `train`, `validation` and `test`."""
    train = dictation.compose(seed=31, count=TRAIN_SENTENCES)
    avoid = frozenset(s.written for s in train)
    test = dictation.compose(seed=32, count=TEST_SENTENCES, avoid=avoid)
    avoid |= {s.written for s in test}
    validation = dictation.compose(seed=33, count=VALIDATION_SENTENCES, avoid=avoid)
    return {"train": train, "validation": validation, "test": test}


def pretraining_composer(avoid: frozenset[str] = frozenset()) -> Composer:
    """The endless sentences that the base is trained on; none stands in a committed set."""
    return Composer(seed=41, avoid=avoid | general_texts())
