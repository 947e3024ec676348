"""adapter_config.json, which may be of anybody: what may stand in it, and which layers it means.

PEFT believes this file and runs its expressions as they stand. Here values have types and ranges,
expressions have a limit of time, and whatever would make the adapter more than B·A beside linear
layers is refused by its name. torch and PEFT are not needed.
"""

from __future__ import annotations

import json
import math
import re
import shlex
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import regex

from lora_whisper.config import MAX_ALPHA, MAX_RANK
from lora_whisper.errors import UserError
from lora_whisper.json_files import shown
from lora_whisper.lora.targets import PRESETS

MAX_TOKEN = 10_000_000
MAX_EXPRESSION = 50_000  # letters; the names of all of large-v3's linear layers take 28,000
MAX_COPIES = 10_000  # of a part of an expression, which compiling makes for each count: a{10}
EXPRESSION_SECONDS = 1.0  # for all expressions of one file

# Values of init_lora_weights that leave the base as it is; others, such as "pissa", subtract the
# start from its weights, and the saved matrices are of those weights.
HARMLESS_STARTS = (True, False, None, "gaussian", "orthogonal", "eva", "mica")

# Kinds beside LoRA that PEFT 0.21 folded into a toy, whose logits were those of the adapter within
# 4e-6. Others change the input, choose as they go, or are none of PEFT's.
FOLDABLE = (
    *("ADALORA", "ADAMSS", "BEFT", "BOFT", "C3A", "DEFT", "DELORA", "FOURIERFT", "FROD", "GLORA"),
    *("GRALORA", "HIRA", "HRA", "IA3", "LN_TUNING", "LOHA", "LOKR", "MISS", "OFT", "OSF"),
    *("PEANUT", "PSOFT", "PVERA", "RANDLORA", "SHIRA", "SUPERTUNING", "TINYLORA", "UNILORA"),
    *("VBLORA", "VERA", "WAVEFT"),
)
# Settings of LoRA that are not followed here, and which it folds all the same.
FOLDABLE_SETTINGS = {"bias", "lora_bias", "modules_to_save", "target_parameters"}
TIED_LAYERS = ("model.decoder.embed_tokens", "proj_out")  # which share their weights
PARTED = (
    "Whisper's output projection is its embeddings, and this adapter changes one of the two: no "
    "folder of a Whisper holds that.\nTrain it anew without embed_tokens and proj_out; "
    "trainable_token_indices changes tokens in both."
)

# How PEFT may call the embeddings whose rows were trained; the output projection is tied to them.
TOKEN_LAYERS = ("embed_tokens", "decoder.embed_tokens", "model.decoder.embed_tokens")

Rule = Callable[[Any], bool]


# ── what values have to be ───────────────────────────────────────────────────────────────────


def _is_rank(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MAX_RANK


def _is_alpha(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and 0 < abs(value) <= MAX_ALPHA


def _is_flag(value: Any) -> bool:
    return value is None or isinstance(value, bool)


def _is_line(value: Any) -> bool:
    return value is None or (isinstance(value, str) and len(value) <= 4096 and value.isprintable())


def _are_names(value: Any) -> bool:
    is_list = isinstance(value, list) and all(isinstance(one, str) for one in value)
    return value is None or isinstance(value, str) or is_list


def _is_layer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _are_layers(value: Any) -> bool:
    is_list = isinstance(value, list) and all(map(_is_layer, value))
    return value is None or _is_layer(value) or is_list


def _are_tokens(value: Any) -> bool:
    """A list; or lists by the layer whose rows they are, which have to be the embeddings'."""
    if value is None:
        return True
    if isinstance(value, dict):
        lists = [value[name] for name in value if name in TOKEN_LAYERS]
        others = [value[name] for name in value if name not in TOKEN_LAYERS]
        is_tied = set(value) - set(TOKEN_LAYERS) <= {"proj_out"} and others in ([], lists[:1])
        return len(lists) == 1 and is_tied and isinstance(lists[0], list) and _are_tokens(lists[0])
    is_list = isinstance(value, list) and all(
        _is_layer(token) and 0 <= token <= MAX_TOKEN for token in value
    )
    return is_list and len(set(value)) == len(value)


def _by_layer(rule: Rule) -> Rule:
    return lambda value: (
        value is None or (isinstance(value, dict) and all(map(rule, value.values())))
    )


RANK = f"a whole number from 1 to {MAX_RANK:,}"
ALPHA = f"a number other than 0, of {MAX_ALPHA:,.0f} at most"
RULES: dict[str, tuple[Rule, str]] = {  # by setting: what holds, and how it is called
    "r": (_is_rank, RANK),
    "lora_alpha": (_is_alpha, ALPHA),
    "rank_pattern": (_by_layer(_is_rank), f"{RANK} for each name"),
    "alpha_pattern": (_by_layer(_is_alpha), f"{ALPHA}, for each name"),
    "use_rslora": (_is_flag, "true or false"),
    "use_dora": (_is_flag, "true or false"),
    "target_modules": (_are_names, "names of layers"),
    "exclude_modules": (_are_names, "names of layers"),
    "layers_pattern": (_are_names, "names of lists of layers"),
    "layers_to_transform": (_are_layers, "numbers of layers"),
    "trainable_token_indices": (
        _are_tokens,
        "a list of tokens, each of them once, of embed_tokens",
    ),
    "base_model_name_or_path": (_is_line, "a path or a hub id of one line"),
    "revision": (_is_line, "a branch, tag or commit"),
}
USUAL = {"r": 8, "lora_alpha": 8}  # where PEFT's file does not say
PATTERNS = {"r": "rank_pattern", "lora_alpha": "alpha_pattern"}  # of what differs by layer
OFF: dict[str, str] = {  # settings that have to be off, and what they are
    "modules_to_save": "whole modules were trained",
    "layer_replication": "layers of the base are repeated",
    "lora_bias": "B has a bias",
    "target_parameters": "parameters are adapted, not layers",
    "megatron_config": "is for language models only",  # PEFT would import what megatron_core names
    "alora_invocation_tokens": "it begins in the middle of a text",
    "use_qalora": "inputs are pooled",
    "use_bdlora": "the matrices are of blocks",
    "arrow_config": "adapters are chosen token by token",
    "kasa_config": "the base's weights are cut",
    "monteclora_config": "the matrices are drawn at random",
}


def tokens_of(config: Mapping[str, Any]) -> tuple[int, ...]:
    """The tokens whose embeddings were trained as well, of a file without problems."""
    found = config.get("trainable_token_indices") or ()
    if isinstance(found, dict):
        found = next(tokens for name, tokens in found.items() if name in TOKEN_LAYERS)
    return tuple(found)


def config_problems(config: Mapping[str, Any]) -> list[str]:
    """Why PEFT's file cannot be followed here; nothing is good."""
    kind = config.get("peft_type")
    if kind != "LORA":
        return [f"peft_type: expected LORA, found {shown(kind)}"]
    problems = [
        f"{name}: expected {what}, found {_found(config[name])}"
        for name, (holds, what) in RULES.items()
        if name in config and not holds(config[name])
    ]
    problems += [
        f"{name}: expected none, since {why}; found {shown(config[name])}"
        for name, why in OFF.items()
        if config.get(name)
    ]
    if config.get("bias", "none") not in ("none", None):
        problems.append(f'bias: expected "none", found {shown(config["bias"])}')
    start = config.get("init_lora_weights", True)
    if start not in HARMLESS_STARTS:
        problems.append(
            f"init_lora_weights: {shown(start)} changed the base's weights, and the matrices are "
            "of those. PEFT saves what is to be added to the whole base with "
            "path_initial_model_for_weight_conversion"
        )
    return problems


def _found(value: Any) -> str:
    """Of a list or an object the first odd entry would be wanted; a few of them are shown."""
    if isinstance(value, dict):
        few = list(value.items())[:3]
        return f"{{{', '.join(f'{shown(key)}: {shown(one)}' for key, one in few)}}}"
    return shown(value)


def way_on(config: Mapping[str, Any], problems: Sequence[str], folder: Path) -> str:
    """What to type for an adapter that only PEFT folds into its base; "" where it does not either.

    Args:
        problems: why it is not folded here, by `config_problems`.
    """
    kind = config.get("peft_type")
    is_of_lora = {problem.partition(":")[0] for problem in problems} <= FOLDABLE_SETTINGS
    is_known = config.get("bias", "none") in ("none", "all", "lora_only", None)
    if not (kind in FOLDABLE or (kind == "LORA" and is_of_lora and is_known)):
        return ""
    try:
        return PARTED if _parts_tied(config) else by_peft(config, folder)
    except UserError:  # an expression that PEFT would try without end
        return ""


def _parts_tied(config: Mapping[str, Any]) -> bool:
    """Whether embeddings or projection are changed alone, or in a module that is saved whole."""
    saved = config.get("modules_to_save") or ()
    names = [saved] if isinstance(saved, str) else saved
    parted = {"model", "model.decoder", *TIED_LAYERS}
    if config.get("ensure_weight_tying"):  # PEFT's, which ties the projection to saved embeddings
        parted.remove(TIED_LAYERS[0])
    if _are_names(names) and any(path.endswith(tuple(names)) for path in parted):
        return True
    target = {"target_modules": config.get("target_modules")}
    return _are_names(target["target_modules"]) and bool(targeted(target, TIED_LAYERS))


def by_peft(config: Mapping[str, Any], folder: Path) -> str:
    """How PEFT is asked to fold an adapter into its base."""
    base = config.get("base_model_name_or_path")
    is_there = (
        isinstance(base, str) and base and (not Path(base).is_absolute() or Path(base).is_dir())
    )
    named = base if is_there and _is_line(base) else "BASE"
    code = (
        "from peft import PeftModel as P; "
        "from transformers import WhisperForConditionalGeneration as M, WhisperProcessor as T; "
        # Marks that the shell's own ones go around as they are.
        f"b={json.dumps(named)}; P.from_pretrained(M.from_pretrained(b), {json.dumps(str(folder))})"
        '.merge_and_unload().save_pretrained("folded"); '
        'T.from_pretrained(b).save_pretrained("folded")'
    )
    return (
        "PEFT itself can fold it into its base, if you trust whoever made it:\n"
        f"python -c {shlex.quote(code)}\n"
        "and the folder that it writes can be scored: models=[folded]"
    )


# ── which layers it means ────────────────────────────────────────────────────────────────────


class Expressions:
    """Regular expressions of one file, which may be made to try for ever: they share a limit."""

    def __init__(self) -> None:
        self._left_seconds = EXPRESSION_SECONDS

    def match(self, setting: str, expression: str, text: str) -> regex.Match[str] | None:
        """As `re.fullmatch`.

        Raises:
            UserError: `setting`'s expression is too long, is none, or takes too long.
        """
        if len(expression) > MAX_EXPRESSION:
            raise UserError(f"{setting}: an expression of {len(expression):,} letters is not tried")
        if _copies(expression) > MAX_COPIES:
            raise UserError(
                f"{setting}: {shown(expression)} is not tried: it repeats a part of itself more "
                f"than {MAX_COPIES:,} times"
            )
        started = time.monotonic()
        try:
            if self._left_seconds <= 0:
                raise TimeoutError
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of what will be understood otherwise one day
                # PEFT's `re` has to take it, too: `regex`, which has a limit of time, knows more,
                # such as (?R), for which it takes all memory that there is.
                re.compile(expression)
                compiled = regex.compile(expression)
            found = compiled.fullmatch(text, timeout=self._left_seconds)
        except TimeoutError as error:
            raise UserError(
                f"{setting}: trying expressions such as {shown(expression)} on the names of "
                f"layers takes over {EXPRESSION_SECONDS:g} s"
            ) from error
        except (
            re.error,
            regex.error,
            RecursionError,
            OverflowError,
            MemoryError,
            ValueError,
        ) as error:
            raise UserError(f"{setting}: {shown(expression)} is no expression: {error}") from error
        self._left_seconds -= time.monotonic() - started
        return found


_COUNT = re.compile(r"(\)?)\{(\d*),?(\d*)\}")  # after a group, or after a single letter or set


def _copies(expression: str) -> int:
    """At most so many of one part: counts of groups multiply each other, if one holds the other."""
    found = [
        (match[1], max(1, *(int(number[:9] or 1) for number in match.groups()[1:])))
        for match in _COUNT.finditer(expression)
    ]
    of_letters = max((count for group, count in found if not group), default=1)
    return math.prod(count for group, count in found if group) * of_letters


def by_layer(config: Mapping[str, Any], setting: str, paths: Iterable[str]) -> dict[str, Any]:
    """A setting of each layer: of its pattern, the first name that the layer's path ends with.

    Args:
        setting: r, with rank_pattern, or lora_alpha, with alpha_pattern.

    Raises:
        UserError: one of the names is an expression that cannot be tried.
    """
    usual, names_in = config.get(setting, USUAL[setting]), PATTERNS[setting]
    pattern = config.get(names_in) or {}
    names = list(pattern)
    # Names that are no expressions, but for their dots.
    plain = {
        name: place
        for place, name in enumerate(names)
        if name.replace(".", "").replace("_", "").isalnum()
    }
    others = [(place, name) for place, name in enumerate(names) if name not in plain]
    expressions = Expressions()

    def places(path: str) -> Iterator[int]:
        yield from (plain[end] for end in _endings(path) if end in plain)
        for place, name in others:
            if expressions.match(names_in, rf"(?:.*\.)?(?:{name})", path):
                yield place
                return

    found = {path: min(places(path), default=None) for path in paths}
    return {
        path: usual if place is None else pattern[names[place]] for path, place in found.items()
    }


def targeted(config: Mapping[str, Any], paths: Sequence[str]) -> list[str]:
    """Those of a base's modules that PEFT would put an adapter on, in their order.

    Raises:
        UserError: by an expression that cannot be tried.
    """
    wanted, unwanted = (
        names if isinstance(names, str) else frozenset(names or ())
        for names in (config.get("target_modules"), config.get("exclude_modules"))
    )
    expressions = Expressions()

    def is_meant(path: str) -> bool:
        if unwanted and _is_named(expressions, "exclude_modules", unwanted, path):
            return False
        if wanted == "all-linear":
            return path.rpartition(".")[2] in PRESETS["all-linear"]
        if not wanted or not _is_named(expressions, "target_modules", wanted, path):
            return False
        return isinstance(wanted, str) or path in wanted or _has_number(expressions, config, path)

    return [path for path in paths if is_meant(path)]


def _is_named(
    expressions: Expressions, setting: str, names: str | frozenset[str], path: str
) -> bool:
    if isinstance(names, str):
        return expressions.match(setting, names, path) is not None
    return not names.isdisjoint(_endings(path))


def _has_number(expressions: Expressions, config: Mapping[str, Any], path: str) -> bool:
    """Whether layers_to_transform holds the number of the layer that the module is in."""
    numbers, lists = config.get("layers_to_transform"), config.get("layers_pattern")
    if numbers is None or numbers == []:
        return True
    names = [lists] if isinstance(lists, str) and lists else lists or [r"[^.]*"]
    for name in names:
        found = expressions.match("layers_pattern", rf"(?:.*?\.)??(?:{name})\.(\d+)\..*", path)
        if found is not None:
            return int(found.groups()[-1]) in ([numbers] if isinstance(numbers, int) else numbers)
    return False


def _endings(path: str) -> Iterator[str]:
    """a.b.c, b.c and c."""
    parts = path.split(".")
    return (".".join(parts[start:]) for start in range(len(parts)))
