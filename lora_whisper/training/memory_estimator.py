"""The memory of a training step, from the real code on tensors that hold no numbers.

PyTorch's FakeTensorMode computes shapes instead of values, so that a forward and a backward pass of
any size run in seconds on any machine. Every storage is followed from when it is made until it is
freed. Layers of a module that are alike keep alike amounts, so that two of them are run and the
others counted (`tests/training/test_memory_estimator.py` holds it against all of them).

The passes run on CPU tensors; PyTorch has no fake GPU without a real one. Where a GPU computes
otherwise, its way is taken unless a CPU is asked for: autocast computes layer norms in fp32, and
dropout keeps a mask of a byte a number, and not of four.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import logging
import re
import weakref
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.functional import layer_norm
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode
from transformers import WhisperConfig, WhisperForConditionalGeneration

from lora_whisper.config import AdapterConfig, QuantizationConfig
from lora_whisper.layers import MODULES, WHOLE, as_text
from lora_whisper.lora.adapter import adapter_parameters, attach
from lora_whisper.lora.targets import target_ranks
from lora_whisper.model.device import DTYPES
from lora_whisper.model.published import FRAMES_PER_POSITION
from lora_whisper.training.loss import Inputs, loss_sum
from lora_whisper.training.meta_model import new_meta_model, stored_bytes

ALLOCATED_IN_BYTES = 512  # PyTorch's CUDA allocator rounds up to a multiple of it
MANY_WINDOWS = 1009  # of the micro-batch that is tried: a prime, which no width is a multiple of
LOSS, DECODER, ENCODER = "loss", "decoder", "encoder"  # the moments in which memory may be fullest
LOGITS = "logits"
FIRST_TOKEN = 0  # stands for whichever token's embedding is trained
ANY_STEPS = 10_000  # of the run, on which AdaLoRA's shapes do not depend
LayerKey = tuple[str, int]  # a module, and the number of a layer in it


@dataclass(frozen=True)
class StepMemory:
    """What one forward and backward pass needs beside weights, adapters and their gradients."""

    activations_bytes: float  # at the moment in which the memory is fullest
    logits_bytes: float  # as wide as the vocabulary, at the same moment

    @property
    def total_bytes(self) -> float:
        return self.activations_bytes + self.logits_bytes


@dataclass(frozen=True)
class Peak:
    """What is in the memory at an instant that, for some number of windows, is the fullest."""

    moment: str
    fixed_bytes: float  # whatever the number of windows
    window_bytes: float  # more with each window
    logits_bytes: float  # of each window, beside those

    def at(self, windows: int) -> StepMemory:
        activations = self.fixed_bytes + windows * self.window_bytes
        return StepMemory(activations, windows * self.logits_bytes)


def fullest(peaks: Iterable[Peak], windows: int) -> StepMemory:
    """What a micro-batch of so many windows needs."""
    return max((peak.at(windows) for peak in peaks), key=lambda step: step.total_bytes)


class _Watch(TorchDispatchMode):
    """Follows every storage that comes to be; the peaks are kept for each moment of the step.

    Of `MANY_WINDOWS`, since a storage whose bytes that prime divides has so many for each window.
    """

    def __init__(self, vocabulary: int):
        super().__init__()
        self.vocabulary = vocabulary
        self.owner: LayerKey | None = None  # layer that is in its forward pass
        self.in_forward = True  # later, a checkpointed layer goes forward again
        self.fixed: Counter[Any] = Counter()  # owner → bytes that are there now
        self.growing: Counter[Any] = Counter()  # and of each window
        self.peaks: dict[str, list[Peak]] = {}
        self._known: set[int] = set()

    def ignore(self, tensors: Iterable[Tensor]) -> None:
        """Weights and their gradients, which are counted elsewhere and outlive this."""
        self._known |= {id(tensor.untyped_storage()) for tensor in tensors}

    def enter(self, layer: LayerKey, *_: Any) -> None:
        if self.in_forward:
            self.owner = layer

    def leave(self, *_: Any) -> None:
        self.owner = None

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        if func is torch.ops.prim.device.default:  # two of three calls: autocast asks at each op
            return args[0].fake_device
        out = func(*args, **(kwargs or {}))
        for value in out if isinstance(out, tuple | list) else (out,):
            if isinstance(value, Tensor):
                self._see(value)
        return out

    def _see(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if id(storage) in self._known:
            return
        self._known.add(id(storage))
        each, rest = divmod(storage.nbytes(), MANY_WINDOWS)
        size = -(-storage.nbytes() // ALLOCATED_IN_BYTES) * ALLOCATED_IN_BYTES if rest else each
        is_wide = tensor.ndim > 1 and tensor.shape[-1] == self.vocabulary
        owner = LOGITS if is_wide else self.owner
        live = self.fixed if rest else self.growing
        live[owner] += size
        weakref.finalize(storage, self._free, id(storage), live, owner, size)
        moment = LOSS if self.growing[LOGITS] else ENCODER
        if moment == ENCODER and any(
            size and isinstance(owner, tuple) and owner[0] == DECODER
            for owner, size in self.growing.items()
        ):
            moment = DECODER
        now = Peak(
            moment,
            self.fixed.total(),
            self.growing.total() - self.growing[LOGITS],
            self.growing[LOGITS],
        )
        known = self.peaks.setdefault(moment, [])
        if not any(_covers(peak, now) for peak in known):  # which has as much of both
            known[:] = [peak for peak in known if not _covers(now, peak)] + [now]

    def _free(self, key: int, live: Counter[Any], owner: Any, size: int) -> None:
        self._known.discard(key)
        live[owner] -= size


def _covers(one: Peak, other: Peak) -> bool:
    """Whether it needs as much, however many windows there are."""
    growth, others = (peak.window_bytes + peak.logits_bytes for peak in (one, other))
    return one.fixed_bytes >= other.fixed_bytes and growth >= others


@dataclass(frozen=True)
class Shortened:
    """A model of which each run of layers that are alike is two layers long at most."""

    shape: WhisperConfig
    adapter: AdapterConfig
    left_out: Mapping[LayerKey, int]  # how many more layers there are like this one


def shortened(
    shape: WhisperConfig, adapter: AdapterConfig, longer: LayerKey | None = None
) -> Shortened:
    """Take two of the layers with an adapter, two of those before them, and of those after.

    The first of a run is unlike the others: its input may need no gradient.

    Args:
        longer: the key in `left_out` of a run of which three layers are to be taken.
    """
    adapted, ranges = target_ranks(adapter, shape), adapter.ranges
    left_out: dict[LayerKey, int] = {}
    short = type(shape).from_dict(shape.to_dict())
    for module in MODULES:
        layers = range(getattr(shape, f"{module}_layers"))
        has_adapter = [
            any(path.startswith(f"model.{module}.layers.{layer}.") for path in adapted)
            for layer in layers
        ]
        kept: list[bool] = []
        for is_adapted, run in itertools.groupby(has_adapter):
            count = len(list(run))
            taken = min(count, 3 if longer == (module, len(kept) + 1) else 2)
            kept += [is_adapted] * taken
            left_out[module, len(kept) - 1] = count - taken
        setattr(short, f"{module}_layers", len(kept))
        if ranges.get(module, WHOLE) != WHOLE:
            numbers = [number for number, is_adapted in enumerate(kept) if is_adapted]
            ranges[module] = f"{numbers[0]}-{numbers[-1]}"
    return Shortened(short, dataclasses.replace(adapter, layers=as_text(ranges)), left_out)


@dataclass(frozen=True)
class MemoryEstimator:
    """A model with its adapter, without weights, whose steps can be tried at any size."""

    model: PeftModel
    short: Shortened
    mode: FakeTensorMode
    precision: str  # fp32, bf16 or fp16
    device: str  # cuda or cpu

    @property
    def whisper(self) -> Any:
        return self.model.get_base_model()

    def peaks(self, tokens: int) -> list[Peak]:
        """What a micro-batch needs, with all layers, for any number of windows."""
        watch = _Watch(self.short.shape.vocab_size)
        as_on_device = nullcontext() if self.device == "cpu" else _as_on_cuda(self.precision)
        # As accelerate has it on a GPU.
        autocast = torch.autocast("cpu", DTYPES[self.precision], self.precision != "fp32")
        with self.mode:
            watch.ignore([*self.model.parameters(), *self.model.buffers()])
            watch.ignore(value.grad for value in self.model.parameters() if value.grad is not None)
            with watch, _owned(watch, self.whisper), as_on_device:
                loss = _loss(self.whisper, MANY_WINDOWS, tokens, autocast)
                kept = dict(watch.fixed), dict(watch.growing)
                watch.in_forward = False
                loss.backward()
        return [
            self._with_all_layers(peak, *kept) for peaks in watch.peaks.values() for peak in peaks
        ]

    def _with_all_layers(
        self, peak: Peak, fixed: Mapping[Any, int], growing: Mapping[Any, int]
    ) -> Peak:
        """Add what the layers keep that were left out, as far as it is there at the moment."""
        modules = (ENCODER,) if peak.moment == ENCODER else MODULES
        # The first of a run may keep less than the others; with checkpointing, what the last one
        # gives out is nobody's input.
        more_fixed, more_growing = (
            sum(
                count * max(kept.get((module, number), 0), kept.get((module, number - 1), 0))
                for (module, number), count in self.short.left_out.items()
                if module in modules and count
            )
            for kept in (fixed, growing)
        )
        return dataclasses.replace(
            peak,
            fixed_bytes=peak.fixed_bytes + more_fixed,
            window_bytes=peak.window_bytes + more_growing,
        )

    def trained(self) -> tuple[int, int]:
        """Parameters of the adapter, and the tensors that they lie in, with all layers."""
        parameters = tensors = 0
        for name, value in adapter_parameters(self.model).items():
            times = 1
            if layer := re.search(r"\.(encoder|decoder)\.layers\.(\d+)\.", name):
                times += self.short.left_out.get((layer[1], int(layer[2])), 0)
            if value.requires_grad:
                parameters, tensors = parameters + times * value.numel(), tensors + times
        return parameters, tensors


@dataclass(frozen=True)
class Setup:
    """What is trained and how, as far as memory and operations hang on it."""

    shape: WhisperConfig
    quantization: QuantizationConfig
    adapter: AdapterConfig
    dtype: torch.dtype  # of the frozen weights
    precision: str  # fp32, bf16 or fp16
    device: str = "cuda"  # or cpu


def new_estimator(
    setup: Setup, gradient_checkpointing: bool, short: Shortened | None = None
) -> MemoryEstimator:
    """A step on one GPU, or on a CPU, as `train` would make it.

    Args:
        short: which layers to run; without it, as few as tell of the others.

    Raises:
        UserError: a range of layers that the model does not have.
    """
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # int8 warns at each layer
    short = short or shortened(setup.shape, setup.adapter)
    kind = setup.quantization.kind
    base = new_meta_model(short.shape, kind, setup.dtype)
    model = attach_to_meta(base, short.adapter, kind, gradient_checkpointing)
    mode = FakeTensorMode()
    with mode:
        _make_fake(model)
    for module in model.modules() if setup.device != "cpu" else ():
        if isinstance(module, nn.LayerNorm) and setup.precision != "fp32":
            vars(module)["forward"] = functools.partial(_norm_in_fp32, module)
        elif isinstance(module, nn.Dropout) and module.p:
            vars(module)["forward"] = functools.partial(_fused_dropout, module.p)
    model.train()
    return MemoryEstimator(model, short, mode, setup.precision, setup.device)


def attach_to_meta(
    base: WhisperForConditionalGeneration,
    config: AdapterConfig,
    quantization: str,
    gradient_checkpointing: bool,
) -> PeftModel:
    """Put an adapter beside every target layer of a base without weights.

    PiSSA and EVA train the matrices of a LoRA, and only start from others.

    Raises:
        UserError: a range of layers that the base does not have.
    """
    kind: Any = "lora" if config.kind in ("pissa", "eva") else config.kind
    plain = dataclasses.replace(config, kind=kind, init_from=None)
    tokens = (FIRST_TOKEN,) if config.train_language_token else ()
    with torch.device("meta"):
        return attach(
            base,
            plain,
            quantization,
            gradient_checkpointing,
            seed=0,
            token_indices=tokens,
            total_steps=ANY_STEPS,
        )


def weights_bytes(setup: Setup) -> int:
    """Of the frozen base as it is stored, all layers."""
    short = shortened(setup.shape, setup.adapter)
    base: Any = new_meta_model(short.shape, setup.quantization.kind, setup.dtype)
    return stored_bytes(base) + sum(
        count * stored_bytes(getattr(base.model, module).layers[number])
        for (module, number), count in short.left_out.items()
    )


def step_flops(setup: Setup, gradient_checkpointing: bool, windows: int, tokens: int) -> int:
    """Floating-point operations of a micro-batch forward and backward, with all layers.

    Those of matrix products and convolutions; what checkpointing computes twice counts twice. What
    reading quantized weights back takes, and what FlashAttention computes again, is not counted.
    """
    short = shortened(setup.shape, setup.adapter)
    total = fewest = _flops(setup, short, gradient_checkpointing, windows, tokens)
    for layer, count in short.left_out.items():
        if count:
            longer = shortened(setup.shape, setup.adapter, longer=layer)
            flops = _flops(setup, longer, gradient_checkpointing, windows, tokens)
            total += count * (flops - fewest)
    return total


def _flops(
    setup: Setup, short: Shortened, gradient_checkpointing: bool, windows: int, tokens: int
) -> int:
    """Of the layers that are run; in fp32, which saves the casts, since no dtype changes it."""
    plain = QuantizationConfig(kind="none")
    setup = dataclasses.replace(setup, quantization=plain, dtype=torch.float32, precision="fp32")
    step = new_estimator(setup, gradient_checkpointing, short)
    step.whisper.set_attn_implementation("eager")  # matrix products, which are counted
    with step.mode, FlopCounterMode(display=False) as counter:
        _loss(step.whisper, windows, tokens, nullcontext()).backward()
    return int(counter.get_total_flops())


def _loss(
    whisper: Any, windows: int, tokens: int, autocast: AbstractContextManager[object]
) -> Tensor:
    """Of so many full windows with `tokens` targets each."""
    shape = whisper.config
    frames = FRAMES_PER_POSITION * shape.max_source_positions
    features = torch.empty(windows, shape.num_mel_bins, frames, dtype=whisper.dtype)
    sequences = torch.empty(windows, tokens, dtype=torch.int64)
    positions = torch.empty(windows * tokens, dtype=torch.int64)
    return loss_sum(whisper, Inputs(features, sequences, positions, positions), autocast)


def _make_fake(model: nn.Module) -> None:
    """Put a fake CPU tensor in place of each one on the meta device; a gradient beside each."""
    made: dict[int, Any] = {}
    for module in model.modules():
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor is None:
                    continue
                if id(tensor) not in made:
                    fake = torch.empty(tensor.shape, dtype=tensor.dtype)
                    if isinstance(tensor, nn.Parameter):
                        fake = nn.Parameter(fake, requires_grad=tensor.requires_grad)
                    if tensor.requires_grad:
                        fake.grad = torch.empty(tensor.shape, dtype=tensor.dtype)
                    made[id(tensor)] = fake
                tensors[name] = made[id(tensor)]


@contextmanager
def _as_on_cuda(precision: str) -> Iterator[None]:
    """PEFT asks CUDA's switch of autocast, which fake CPU tensors do not turn.

    On the way back, too: checkpointing turns it on again where it computes what it did not keep.
    """
    was = torch.is_autocast_enabled("cuda")
    torch.set_autocast_enabled("cuda", precision != "fp32")
    try:
        yield
    finally:
        torch.set_autocast_enabled("cuda", was)


def _norm_in_fp32(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    weight, bias = norm.weight.float(), norm.bias.float()
    return layer_norm(x.float(), norm.normalized_shape, weight, bias, norm.eps)


def _fused_dropout(share: float, x: Tensor) -> Tensor:
    out: Tensor = torch.native_dropout(x, share, True)[0]
    return out


@contextmanager
def _owned(watch: _Watch, whisper: Any) -> Iterator[None]:
    """Tell `watch` in which layer the forward pass is."""
    hooks = []
    for module in MODULES:
        for number, layer in enumerate(getattr(whisper.model, module).layers):
            enter = functools.partial(watch.enter, (module, number))
            hooks.append(layer.register_forward_pre_hook(enter))
            hooks.append(layer.register_forward_hook(watch.leave))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
