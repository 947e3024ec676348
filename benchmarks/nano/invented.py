"""Invented names of drugs, put together of syllables as real ones are, in a pharmacist's sentences.

    python -m benchmarks.nano.invented FOLDER --names 1000 --sentences-each 1 --seed 0

A name's end is that of a class of drugs, and its sound does not say how it is written (`cyl` or
`sil`, `phen` or `fen`): only a list of names does. None is one of the 44 of the dictation, nor
nearer to one than three edits.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from random import Random

from rapidfuzz.distance import Levenshtein

from benchmarks.nano.dictation import DRUGS, instruction
from benchmarks.nano.grammar import Phrase, as_sentence
from benchmarks.nano.make_speech import in_turn, write_set
from benchmarks.nano.synthesis import DICTATION_VOICES

FIRST = """ab ac al am ar as bel ben bri cal car cef cela cla cor cyl dal dex dro el em en er fen
flu fos gal gem gly hal hy ib in iso ka ket lam lev lin lor ly mel mor na nab ner nor ol or oxy
pal pen phen phyl pra quin ral rif ru sal sil sol syn tel tor tri ty ul val ver vi vor xan xe yel
zan zil zo""".split()
MIDDLE = """ba be bi bo bra ca ce ci co cla da de di do dro fa fe fi flu ga gli go la le li lo ly ma
me mi mo my na ne ni no pa pe phi phy po pra pro qui ra re ri ro sa se si so sta sy ta te thi to tra
ty va ve vi vo xa xi za ze zi zo""".split()
LAST = """bactam ban barbital caine cillin conazole coxib cycline cyn dine dipine done dronate fen
fibrate floxacin fungin gliflozin gliptin kast lamide line lone lukast mab mide mine mustine mycin
nib nidazole olol oxetine pam parin peridone phen phylline pine platin pramine prazole pril profen
quine rin rone sartan semide setron solone sone statin stigmine tadine tan taxel teplase terol
thiazide tidine tine triptan vir virine xaban xin zepine zide zine zolam zole zosin""".split()
FEWEST_EDITS = 3  # to any of the real names
LETTERS = range(6, 15)


def names(seed: int, count: int) -> list[str]:
    """`count` names, each once."""
    random = Random(seed)
    found: dict[str, None] = {}
    while len(found) < count:
        middle = "".join(random.choices(MIDDLE, k=random.choice((0, 1, 1, 2))))
        name = random.choice(FIRST) + middle + random.choice(LAST)
        edits = (Levenshtein.distance(name, drug, score_cutoff=FEWEST_EDITS) for drug in DRUGS)
        if len(name) in LETTERS and min(edits) >= FEWEST_EDITS:
            found[name] = None
    return list(found)


def sentences(seed: int, invented: Sequence[str], each: int) -> list[Phrase]:
    """`each` sentences with each name; in those with two, the other is invented, too."""
    random = Random(seed)
    found = [as_sentence(instruction(name, random, invented)) for name in invented * each]
    random.shuffle(found)
    return list({sentence.written: sentence for sentence in found}.values())


def write(folder: Path, seed: int, count: int, each: int) -> list[str]:
    """Write `train.jsonl` and its clips, in the voices of the dictation; return the names."""
    folder.mkdir(parents=True, exist_ok=True)
    invented = names(seed, count)
    said = sentences(seed, invented, each)
    write_set(folder / "train.jsonl", said, in_turn(DICTATION_VOICES, len(said)), seed, None)
    return invented


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--names", type=int, default=1000)
    parser.add_argument("--sentences-each", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    write(given.folder, given.seed, given.names, given.sentences_each)


if __name__ == "__main__":
    main()
