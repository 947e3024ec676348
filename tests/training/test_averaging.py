"""The mean of checkpoints: as if the merged weights had been averaged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lora_whisper.config import Averaged
from lora_whisper.lora.adapter import adapter_parameters, attach, load_adapter
from lora_whisper.lora.delta_weights import write_delta_weights
from lora_whisper.model.checkpoint import Checkpoint
from lora_whisper.training.averaging import average, to_average
from lora_whisper.training.checkpoint_files import Best, TrainingState, load_parameters
from lora_whisper.training.checkpoints import Checkpoints
from tests.configs import adapter_config
from tests.toys import toy_inputs, toy_model

BASE = Checkpoint("owner/toy", None, "owner/toy")
TOKENS = (264, 265)
KINDS = ["lora", "rslora", "pissa", "adalora"]


def adapted(kind: str) -> Any:
    config = adapter_config(kind, rank=2, alpha=4)
    return attach(toy_model(), config, "none", False, 0, TOKENS, total_steps=100).eval()


def checkpoints_of(folder: Path, parameters: dict[str, nn.Parameter], **kept: int) -> Checkpoints:
    """Those of a run of four steps, whose second was the best and whose third the worst."""
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(parameters.values())
    given = {"keep_last": 4, "keep_best": 4} | kept
    with Checkpoints(folder, every_steps=1, config_hash="", **given) as checkpoints:
        for step, wer in enumerate((0.3, 0.1, 0.4, 0.2), 1):
            with torch.no_grad():
                for value in parameters.values():
                    value.add_(0.1 * torch.randn(value.shape, generator=generator))
            checkpoints.save_best(Best(step, wer, 1.0), parameters)
            checkpoints.save(TrainingState(step), parameters, optimizer)
    return checkpoints


def logits(model: nn.Module) -> Tensor:
    inputs = toy_inputs()
    inputs["decoder_input_ids"][:, 1:3] = torch.tensor(TOKENS)
    with torch.no_grad():
        return model(**inputs).logits


def with_mean_of_merged_weights(kind: str, paths: list[Path]) -> nn.Module:
    """Let PEFT merge each checkpoint into a base of its own, and average all weights."""
    every = []
    for path in paths:
        model = adapted(kind)
        load_parameters(path, adapter_parameters(model))
        every.append(model.merge_and_unload().state_dict())
    found = toy_model()
    names = found.state_dict()
    found.load_state_dict(
        {name: torch.stack([one[name] for one in every]).mean(0) for name in names}
    )
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_the_mean_is_that_of_the_merged_weights(kind: str, tmp_path: Path) -> None:
    model = adapted(kind)
    parameters = adapter_parameters(model)
    start = {name: value.detach().clone() for name, value in parameters.items()}
    paths = checkpoints_of(tmp_path, parameters).lasts()[1:]
    initial = start if kind == "pissa" else None
    found, facts = average(paths, model, parameters, initial, None)
    write_delta_weights(found, tmp_path / "mean", BASE)
    shipped = load_adapter(toy_model(), tmp_path / "mean")
    expected = with_mean_of_merged_weights(kind, paths)
    torch.testing.assert_close(logits(shipped), logits(expected), atol=2e-5, rtol=0)
    alone = adapted(kind)
    load_parameters(paths[-1], adapter_parameters(alone))
    assert (logits(shipped) - logits(alone)).abs().max() > 1e-2
    rank = {"pissa": 2 * 2, "adalora": 3}.get(kind, 2)  # 3: AdaLoRA starts at 1.5 times the rank
    assert (facts.steps, facts.rank, facts.svd_error) == ((2, 3, 4), 3 * rank, 0.0)


def test_a_rank_that_is_given_cuts_the_mean_and_says_what_is_lost(tmp_path: Path) -> None:
    model = adapted("lora")
    paths = checkpoints_of(tmp_path, adapter_parameters(model)).lasts()
    exact, _ = average(paths, model, adapter_parameters(model), None, None)
    found, facts = average(paths, model, adapter_parameters(model), None, 2)
    assert facts.rank == 2
    assert set(found.ranks.values()) == {2}
    lost = whole = 0.0
    for path, (a, b) in exact.matrices.items():
        kept_a, kept_b = found.matrices[path]
        lost += (b @ a - kept_b @ kept_a).square().sum().item()
        whole += (b @ a).square().sum().item()
    assert facts.svd_error == pytest.approx((lost / whole) ** 0.5, rel=1e-4)
    assert 0.01 < facts.svd_error < 1


@pytest.mark.parametrize(
    ("of", "count", "steps"),
    [
        ("last", 3, [2, 3, 4]),
        ("best", 2, [2, 4]),  # not 2 and 3, and by their steps
        ("best", 3, [1, 2, 4]),
        ("best", 9, [1, 2, 3, 4]),  # what there is
    ],
)
def test_the_last_or_the_best_are_averaged(
    of: Any, count: int, steps: list[int], tmp_path: Path
) -> None:
    checkpoints = checkpoints_of(tmp_path, {"lora_A": nn.Parameter(torch.zeros(2, 3))})
    paths = to_average(checkpoints, Averaged(of, count))
    prefix = "step" if of == "last" else "best"
    assert [path.name for path in paths] == [f"{prefix}-{step:06d}" for step in steps]
