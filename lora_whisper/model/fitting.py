"""Whether a saved adapter fits a base: layer by layer, by its files' headers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from lora_whisper.errors import UserError, listing
from lora_whisper.lora.saved import PREFIX, WEIGHTS_FILE, SavedAdapter, UnsoundAdapter
from lora_whisper.model.adapter_config import targeted

EMBEDDINGS = "model.decoder.embed_tokens"

Shape = tuple[int, ...]


def require_shapes(saved: SavedAdapter, base: Mapping[str, Shape]) -> None:
    """See that each layer that the adapter changes is there, and as large as it expects.

    And that none is missing: PEFT would leave what it draws at random in a layer that is named and
    not in the file, and score that.

    Args:
        base: the shape of each module's weight by its path, (outputs, inputs) of linear layers.

    Raises:
        UserError: names each layer that does not fit, what was found and what was expected.
    """
    problems = [*_layer_problems(saved, base), *_token_problems(saved, base)]
    if problems:
        raise UserError(
            f"The adapter in {saved.folder} does not fit its base, {len(problems)} of its "
            f"{len(saved.layers)} layers:\n{listing(problems, shown=3)}\n"
            + _what_it_is_of(saved, base)
        )
    try:
        meant = targeted(saved.config, list(base))
    except UserError as error:
        raise UnsoundAdapter(saved.folder, [str(error)]) from error
    known = set(meant)
    lines = [
        f"{path}: target_modules names it, and it has no matrices"
        for path in meant
        if path not in saved.layers
    ]
    if saved.config.get("target_modules") is not None:  # PEFT would leave their matrices out
        lines += [
            f"{path}: it has matrices, and target_modules does not name it"
            for path in saved.layers
            if path not in known
        ]
    if lines:
        raise UnsoundAdapter(saved.folder, lines, "The files are not whole: take another copy.")


def _layer_problems(saved: SavedAdapter, base: Mapping[str, Shape]) -> Iterator[str]:
    for path, layer in saved.layers.items():
        expected = base.get(path)
        if expected is None:
            yield f"{path}: the base has no such layer"
        elif expected != layer.shape:
            yield (
                f"{path}: found an adapter of {_by(layer.shape)} (outputs × inputs), "
                f"expected {_by(expected)}"
            )


def _what_it_is_of(saved: SavedAdapter, base: Mapping[str, Shape]) -> str:
    """A guess: of another size, or of a part of Whisper, whose layers have shorter paths."""
    for part in ("model.", "model.encoder.", "model.decoder."):
        if all(base.get(f"{part}{path}") == one.shape for path, one in saved.layers.items()):
            return (
                "It was trained on a part of a Whisper, and calls layers by their paths there.\n"
                f"In {WEIGHTS_FILE}, put {part} behind {PREFIX} in each name."
            )
    return "It was trained on a Whisper of another size."


def _token_problems(saved: SavedAdapter, base: Mapping[str, Shape]) -> Iterator[str]:
    count, width = base[EMBEDDINGS]
    beyond = [token for token in saved.tokens if token >= count]
    if beyond:
        yield f"it trained the token {beyond[0]}, and the base has {count:,} of them"
    if saved.token_width not in (None, width):
        yield f"its embeddings are {saved.token_width} wide, expected {width}"


def shapes_of_weights(weights: Mapping[str, Shape]) -> dict[str, Shape]:
    """For `require_shapes`, from the shapes of a checkpoint's tensors by their names."""
    end = ".weight"
    return {name.removesuffix(end): shape for name, shape in weights.items() if name.endswith(end)}


def _by(shape: Shape) -> str:
    return " × ".join(map(str, shape))
