"""Whether a saved adapter fits a base: layer by layer, by its files' headers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from lora_whisper.errors import UserError, listing
from lora_whisper.model.saved import read_shapes

Shape = tuple[int, ...]


def require_shapes(folder: Path, shape_of: Callable[[str], Shape | None]) -> None:
    """See that each layer that the adapter changes is there, and as large as it expects.

    Args:
        shape_of: the weight's shape (outputs, inputs) of a layer by its path; None: no such layer.

    Raises:
        UserError: names each layer that does not fit, what was found and what was expected; or
            `folder` holds no adapter.
    """
    problems, shapes = [], read_shapes(folder)
    for path, shape in shapes.items():
        expected = shape_of(path)
        if expected is None:
            problems.append(f"{path}: the base has no such layer")
        elif expected != shape:
            problems.append(
                f"{path}: found an adapter of {_by(shape)} (outputs × inputs), "
                f"expected {_by(expected)}"
            )
    if problems:
        raise UserError(
            f"The adapter in {folder} does not fit its base, {len(problems)} of its "
            f"{len(shapes)} layers:\n{listing(problems, shown=3)}\n"
            "It was trained on a Whisper of another size."
        )


def shapes_of_weights(weights: Mapping[str, Shape]) -> Callable[[str], Shape | None]:
    """For `require_shapes`, from the shapes of a checkpoint's tensors by their names."""
    return lambda path: weights.get(f"{path}.weight")


def _by(shape: Shape) -> str:
    return " × ".join(map(str, shape))
