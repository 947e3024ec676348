"""The sets that `evaluate` scores: tests, what must not be forgotten, a sample of training.

Also what each is broken down by, and what it shares with the training set of a run.
"""

from __future__ import annotations

import bisect
import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from lora_whisper.config import (
    DECODING,
    DataConfig,
    EvaluateConfig,
    EvaluationConfig,
    TestDataConfig,
    TestSetConfig,
    TrainConfig,
)
from lora_whisper.data.contents import Recordings, Texts
from lora_whisper.data.corpus import Corpus, load_corpus, sample
from lora_whisper.data.dataset import Utterance, Utterances
from lora_whisper.data.durations import measure
from lora_whisper.data.sources import beside, read_split, resolved
from lora_whisper.data.speech import train_rows
from lora_whisper.errors import UserError
from lora_whisper.evaluation.results import Leaks, Role
from lora_whisper.paths import local_path, plain_name
from lora_whisper.run_folder import OWN_SET
from lora_whisper.schema import given_in

log = logging.getLogger("lora_whisper")


TRAINING_SET = "training"
# Keys of `data` that decide on a test set, beside its place; and those of a decoding.
READ = ("source", "revision", "columns", "language", "language_token", "task")
DECIDE = (*DECODING, "max_utterances")
TRAINING_UTTERANCES = 50  # of the run's training set, that are scored beside the test


@dataclass(frozen=True)
class TestSet:
    """Rows to be scored, before their audio is looked at."""

    __test__ = False  # tells pytest that this is not a class of tests
    name: str  # of its folder below evaluation/MODEL/
    role: Role
    rows: Utterances
    data: DataConfig  # how they are read


def read_test_sets(
    config: EvaluateConfig, trained: TrainConfig | None, settings: EvaluationConfig, seed: int
) -> list[TestSet]:
    """Read the rows of all sets.

    Args:
        trained: the run whose own test set and training set are meant.
        settings, seed: what the sets are decoded with.

    Raises:
        UserError: a set cannot be read or is given twice, or there is none.
    """
    data = data_to_score(config.data, trained)
    sets = [*_main_set(config, data, trained, settings, seed)]
    sets += [_further_set(entry, data, "test") for entry in config.sets]
    if not sets:
        raise UserError("There is no test set. Type data.test=FILE.jsonl, or sets=[A.jsonl,B.csv]")
    sets += [_further_set(entry, data, "retention") for entry in config.evaluation.retention]
    places = [_place(one.data) for one in sets]
    for one, place in zip(sets, places, strict=True):
        if places.count(place) > 1:
            raise UserError(f"The set {one.data.test or one.data.path} is given twice.")
    if trained is not None and config.evaluation.diagnostics:
        sets += _training_set(trained)
    return _with_own_names(sets)


def _with_own_names(sets: Sequence[TestSet]) -> list[TestSet]:
    """Sets of the same folder's and file's name are numbered from the second on."""
    named: list[TestSet] = []
    for one in sets:
        before = sum(each.name.partition("#")[0] == one.name for each in named)
        named.append(dataclasses.replace(one, name=f"{one.name}#{before + 1}") if before else one)
    return [dataclasses.replace(one, name=one.name.replace("#", "-")) for one in named]


def _place(data: DataConfig) -> tuple[object, ...]:
    """What decides on the rows of a test set, and on what is made of them."""
    test = place_of(data.test) if data.test else None
    read = (getattr(data, name) for name in READ)
    return (test, *(() if isinstance(test, Path) else (data.path, data.config)), *read)


def data_to_score(given: TestDataConfig, trained: TrainConfig | None) -> DataConfig:
    """The run's speech, or without a run the defaults, with what was given instead."""
    usual = DataConfig()
    data = trained.data if trained else usual
    if given.path is not None:  # another source has other splits and columns, and the same speech
        spoken = {name: getattr(data, name) for name in ("language", "language_token", "task")}
        data = dataclasses.replace(usual, **spoken)
    if given.test is not None and given.source is None and isinstance(place_of(given.test), Path):
        data = beside(dataclasses.replace(data, test=given.test))
    return _changed(data, given)


def _changed(data: DataConfig, given: TestDataConfig | TestSetConfig) -> DataConfig:
    """`data` with all that is not null in `given`."""
    changes = given_in(given)
    columns = changes.pop("columns", None)
    named = given_in(columns) if columns else {}
    return dataclasses.replace(data, **changes, columns=dataclasses.replace(data.columns, **named))


def _main_set(
    config: EvaluateConfig,
    data: DataConfig,
    trained: TrainConfig | None,
    settings: EvaluationConfig,
    seed: int,
) -> list[TestSet]:
    """What `data` says; the run's own test set only where no other sets are listed."""
    is_asked_for = any(value is not None for value in (config.data.test, config.data.path))
    if config.sets and not is_asked_for:
        return []
    rows = read_split(data, "test") if data.test or data.path else None
    if rows is None:
        of_run = (
            f"The run {config.run} has no data.test." if config.run else "There is no test set."
        )
        raise UserError(f"{of_run} Type data.test=FILE.jsonl")
    if config.run is None or trained is None:
        name = name_of(data)
    else:
        name = _name_beside_own(config, data, trained, settings, seed)
    return [TestSet(name, "test", rows, data)]


def _name_beside_own(
    config: EvaluateConfig,
    data: DataConfig,
    trained: TrainConfig,
    settings: EvaluationConfig,
    seed: int,
) -> str:
    """`test` only for what a run's summary.json speaks of.

    Scores of other speech, or of other beams or another sample of it, do not compare with those.
    """
    if _place(data) == _place(trained.data):
        name = OWN_SET
    else:
        place = place_of(data.test) if data.test else None
        is_of_own = isinstance(place, str) and config.data.path is None
        name = plain_name(str(place)) if is_of_own else name_of(data)
        name = name_of(data) if name in (OWN_SET, TRAINING_SET) else name
    changed = {key: getattr(settings, key) for key in DECIDE}
    own = {key: getattr(trained.evaluation, key) for key in DECIDE}
    if settings.max_utterances or settings.temperature_fallback:
        changed["seed"], own["seed"] = seed, trained.seed
    changed["dtype"], own["dtype"] = config.dtype, "auto"
    return name + "".join(f"-{key}-{changed[key]}" for key in changed if changed[key] != own[key])


def _further_set(entry: TestSetConfig, data: DataConfig, role: Role) -> TestSet:
    """A set that says of itself what is not as in `data`.

    Another source has its own usual columns, and another language does not borrow the token.
    """
    place = place_of(entry.test) if entry.test else None
    if entry.path or isinstance(place, Path):
        usual = dict.fromkeys(vars(data.columns))
        data = dataclasses.replace(
            data,
            source=entry.source or "manifest",
            streaming=False,
            path=None,
            train=None,
            validation=None,
            test=None,
            config=None,
            revision=None,
            columns=dataclasses.replace(data.columns, **usual),
        )
    if entry.language:
        data = dataclasses.replace(data, language_token=None)
    data = _changed(data, entry)
    rows = read_split(data, "test")
    if rows is None:
        raise UserError(f"{entry.path} has no test set. Type test=NAME beside path={entry.path}")
    return TestSet(name_of(data), role, rows, data)


def _training_set(trained: TrainConfig) -> list[TestSet]:
    """A sample of what the run was trained on; none where it is not there any more."""
    if trained.data.streaming:
        return []
    try:
        rows = train_rows(trained.data)
    except UserError:
        return []
    chosen = sample(rows, TRAINING_UTTERANCES, trained.seed)
    data = dataclasses.replace(trained.data, bad_audio="drop")
    return [TestSet(TRAINING_SET, "training", chosen, data)]


def place_of(test: str) -> Path | str:
    """A file, wherever it is named from, or the name of a split."""
    path = local_path(test)
    return path if path.is_file() else test


def name_of(data: DataConfig) -> str:
    """`speech-test` of speech/test.jsonl; else what holds the split, and the split.

    `another` of ./another.jsonl: the folder that one works in says nothing about its speech.
    """
    place = place_of(data.test) if data.test else None
    if isinstance(place, Path):
        is_here = place.absolute().parent == Path.cwd()
        is_enough = is_here and plain_name(place.stem) not in (OWN_SET, TRAINING_SET)
        return plain_name(place.stem if is_enough else f"{place.parent.name}-{place.stem}")
    holder = "-".join(Path(data.path).parts[-2:]) if data.path else None
    return plain_name("-".join(filter(None, (holder, data.config, place))))


@dataclass(frozen=True)
class LoadedSet:
    """A set whose audio is there."""

    set: TestSet
    corpus: Corpus

    @property
    def name(self) -> str:
        return self.set.name

    @property
    def role(self) -> Role:
        return self.set.role


def load_sets(sets: Sequence[TestSet], most: int | None, seed: int) -> list[LoadedSet]:
    """Look at the audio of all sets; recordings of any length are decoded.

    Args:
        most: utterances of a set, drawn; None: all.

    Raises:
        UserError: audio that is missing, where `data.bad_audio` is "fail".
    """
    loaded = []
    for one in sets:
        rows = one.rows if one.role == "training" else sample(one.rows, most, seed)
        try:
            loaded.append(LoadedSet(one, load_corpus(rows, "test", one.data, float("inf"))))
        except UserError as error:
            if one.role != "training":
                raise
            log.warning("training    is not scored: %s", error)
    return loaded


# ── groups: columns of the manifest, and what is known without one ───────────────────────────

NO_GROUP = "none"  # label of utterances of which the column says nothing
LIMITS_SECONDS = (2, 5, 10, 20, 30)  # the last is Whisper's window
DURATIONS = (
    f"up to {LIMITS_SECONDS[0]} s",
    *(f"{low} to {high} s" for low, high in pairwise(LIMITS_SECONDS)),
    f"over {LIMITS_SECONDS[-1]} s",
)


def group_labels(utterances: Sequence[Utterance], names: Sequence[str]) -> dict[str, list[str]]:
    """For each name of `evaluation.group_by`, a label an utterance. No audio is read.

    A name is a column of the manifest. Without such a column it may be `duration` (by length),
    `speaker` or `language`, which are known whatever the manifest calls them. A column `duration`
    of numbers counts as none, because every number would be a group of its own.

    Raises:
        UserError: no row has the column, and it is not known otherwise either.
    """
    if not names:
        return {}
    rows = list(utterances)  # each is made when it is asked for
    return {
        name: [NO_GROUP if value in (None, "") else str(value) for value in _values(rows, name)]
        for name in names
    }


def has_group(utterances: Utterances, name: str) -> bool:
    """Whether a set can be broken down by a column."""
    try:
        group_labels(utterances, (name,))
    except UserError:
        return False
    return True


def _values(rows: Sequence[Utterance], name: str) -> list[object]:
    if any(name in row.columns for row in rows) and not _is_measured(rows, name):
        return [row.columns.get(name) for row in rows]
    if name in COMPUTED:
        values: list[object] = [COMPUTED[name](row) for row in rows]
        if any(values):
            return values
    columns = {column for row in rows for column in row.columns}
    computed = [each for each, value_of in COMPUTED.items() if any(map(value_of, rows))]
    known = [*sorted(columns), *(each for each in computed if each not in columns)]
    # Read from the sound, of which not all is known yet.
    lengths = "" if "duration" in known else "; duration groups by the clips' length"
    raise UserError(
        f"evaluation.group_by={name}: no row of the test set has this column; "
        f"they have {', '.join(known)}{lengths}"
    )


def _is_measured(rows: Sequence[Utterance], name: str) -> bool:
    """Whether a column gives seconds, as NeMo's manifests do; tables hold numbers as text."""
    if name != "duration":
        return False
    return all(_is_number(row.columns[name]) for row in rows if row.columns.get(name))


def _is_number(value: object) -> bool:
    try:
        float(str(value))
    except ValueError:
        return False
    return True


COMPUTED: Mapping[str, Callable[[Utterance], str | None]] = {
    "duration": lambda row: (  # 0 where nobody measured it
        DURATIONS[bisect.bisect_left(LIMITS_SECONDS, row.duration_seconds)]
        if row.duration_seconds
        else None
    ),
    "speaker": lambda row: row.speaker,
    "language": lambda row: row.language,
}


# ── leaks: recordings, texts and speakers that a run was trained on ──────────────────────────


def training_speech(run: str, config: TrainConfig) -> list[Utterances] | None:
    """All that a run was trained on, measured; None, with a warning, where it is gone.

    What is not to be heard any more counts without its length: its text was learnt all the same.
    """
    if config.data.streaming:
        log.warning("leaks       %s was trained on a stream, which nobody can look through", run)
        return None
    try:
        sources = [config.data, *(resolved(config.data, mix) for mix in config.data.mix)]
        return [measure(train_rows(source))[0] for source in sources]
    except UserError as error:
        reason = str(error).splitlines()[0]
        log.warning("leaks       the training set of %s cannot be looked through: %s", run, reason)
        return None


def find_leaks(
    run: str, training: Sequence[Utterances], sets: Mapping[str, Utterances]
) -> dict[str, Leaks]:
    """Look for each set's utterances in what a run was trained on."""
    recordings, texts = Recordings(training), Texts(training)
    seen = set().union(*map(speakers, training))
    return {
        name: Leaks(
            run=run,
            recordings=len(recordings.shared_with(utterances)),
            texts=len(texts.shared_with(utterances)),
            speakers=len(speakers(utterances) & seen),
        )
        for name, utterances in sets.items()
    }


def speakers(utterances: Utterances) -> set[str]:
    """Who speaks, as far as the rows say."""
    return {name for name in utterances.column("speaker").unique().to_pylist() if name}
