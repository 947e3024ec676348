"""How numbers, years, clock times and days are read out."""

from random import Random

SMALL = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen"
).split()
TENS = "zero ten twenty thirty forty fifty sixty seventy eighty ninety".split()
ORDINALS = {
    "one": "first",
    "two": "second",
    "three": "third",
    "five": "fifth",
    "eight": "eighth",
    "nine": "ninth",
    "twelve": "twelfth",
    "twenty": "twentieth",
    "thirty": "thirtieth",
}


def below_hundred(number: int) -> str:
    """27 → `twenty seven`."""
    if number < 20:
        return SMALL[number]
    tens, ones = divmod(number, 10)
    return TENS[tens] if ones == 0 else f"{TENS[tens]} {SMALL[ones]}"


def cardinal(number: int, joiner: str = " ") -> str:
    """347 → `three hundred forty seven`; `joiner=" and "` reads it the British way. Up to 9999."""
    thousands, rest = divmod(number, 1000)
    hundreds, ones = divmod(rest, 100)
    parts = [f"{SMALL[thousands]} thousand"] if thousands else []
    parts += [f"{SMALL[hundreds]} hundred"] if hundreds else []
    head = " ".join(parts)
    if not head:
        return below_hundred(ones)
    return head if ones == 0 else f"{head}{joiner}{below_hundred(ones)}"


def year(number: int) -> str:
    """1987 → `nineteen eighty seven`, 1905 → `nineteen oh five`, 2007 → `two thousand seven`."""
    century, rest = divmod(number, 100)
    if century == 20 and rest < 10:
        return cardinal(number)
    if rest == 0:
        return f"{below_hundred(century)} hundred"
    return f"{below_hundred(century)} {'oh ' if rest < 10 else ''}{below_hundred(rest)}"


def ordinal(number: int) -> str:
    """21 → `twenty first`. Below one hundred."""
    *head, last = below_hundred(number).split()
    return " ".join([*head, ORDINALS.get(last, f"{last}th")])


def clock(hour: int, minute: int) -> str:
    """7, 5 → `seven oh five`."""
    return f"{SMALL[hour]} {'oh ' if minute < 10 else ''}{below_hundred(minute)}"


def spoken_number(number: int, random: Random) -> str:
    """Either of the two ways to read a number out; both are written alike."""
    return cardinal(number, random.choice((" ", " and ")))
