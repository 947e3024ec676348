"""Pre-trains `nano` from scratch on the cache of `make_cache`; resumable.

    python -m benchmarks.nano.pretrain CACHE RUN --steps 6000 --decay-steps 1500

The encoder also carries a CTC head on the phonemes, thrown away afterwards: with it the attention
finds its alignment within the first thousand steps. The learning rate rises, stays, and falls
linearly to zero over the last `--decay-steps`; `RUN/state.pt` of an unfinished or undecayed run
continues with more steps. What is scored and exported is the exponential moving average of the
weights.
"""

import argparse
import json
import os
import time
from copy import deepcopy
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    GenerationConfig,
    WhisperConfig,
    WhisperForConditionalGeneration,
    WhisperTokenizer,
)

from benchmarks.nano import QUICKSTART
from benchmarks.nano.score import score_corpus
from benchmarks.nano.windows import Batch, Corpus, WindowMaker
from lora_whisper.data.windows import IGNORED

NANO = QUICKSTART / "nano"
PEAK_RATE, WARMUP_STEPS = 1.5e-3, 300
GENTLE_STEPS = 2_500  # augmentation grows to full strength until here
CTC_WEIGHT = 0.5
LABEL_SMOOTHING = 0.05
CLIP_NORM = 1.0


class Learner(nn.Module):
    """`nano` and its CTC head."""

    def __init__(self, config: WhisperConfig, phonemes: int) -> None:
        super().__init__()
        # On a CPU and at this size plain attention takes 12 % less time than the fused one.
        config._attn_implementation = "eager"
        self.whisper = WhisperForConditionalGeneration(config)
        self.whisper.generation_config = GenerationConfig.from_pretrained(NANO)
        self.ctc = nn.Linear(config.d_model, phonemes + 1)

    def encode(self, features: Tensor) -> Tensor:
        """(batch, 80, frames) of any even length up to the window → (batch, frames / 2, width)."""
        encoder = self.whisper.model.encoder
        hidden = functional.gelu(encoder.conv1(features))
        hidden = functional.gelu(encoder.conv2(hidden)).permute(0, 2, 1)
        hidden = hidden + encoder.embed_positions.weight[: hidden.shape[1]]
        for layer in encoder.layers:
            hidden = layer(hidden, None)
        return encoder.layer_norm(hidden)

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Cross-entropy per token, and CTC per phoneme."""
        encoded = self.encode(batch.features)
        decoder = self.whisper.model.decoder
        decoded = decoder(
            input_ids=batch.decoder_input, encoder_hidden_states=encoded, use_cache=False
        )
        chosen = batch.labels != IGNORED
        logits = self.whisper.proj_out(decoded.last_hidden_state[chosen])
        words = functional.cross_entropy(
            logits.float(), batch.labels[chosen], label_smoothing=LABEL_SMOOTHING
        )
        log_probabilities = self.ctc(encoded).float().log_softmax(-1).transpose(0, 1)
        lengths = torch.full((len(encoded),), encoded.shape[1])
        sounds = functional.ctc_loss(
            log_probabilities, batch.phonemes, lengths, batch.phoneme_counts, reduction="sum"
        )
        return words, sounds / batch.phoneme_counts.sum().clamp(min=1)


def learning_rate(step: int, steps: int, decay_steps: int) -> float:
    """Linear rise, plateau, linear fall to zero at `steps`."""
    rise = min(1.0, (step + 1) / WARMUP_STEPS)
    fall = min(1.0, (steps - step) / max(1, decay_steps))
    return PEAK_RATE * min(rise, fall)


def average_gradients(model: nn.Module) -> None:
    """The mean over the processes, in one exchange."""
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    parts = flat.split([gradient.numel() for gradient in gradients])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view_as(gradient))


def train_step(
    learner: Learner, optimizer: torch.optim.Optimizer, batch: Batch
) -> tuple[float, float]:
    """One optimizer step on one batch for each process; returns both losses."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        words, sounds = learner(batch)
    optimizer.zero_grad()
    (words + CTC_WEIGHT * sounds).backward()
    if dist.is_initialized():
        average_gradients(learner)
    nn.utils.clip_grad_norm_(learner.parameters(), CLIP_NORM)
    optimizer.step()
    return words.item(), sounds.item()


@torch.no_grad()
def update_average(average: nn.Module, learner: nn.Module, step: int, decay: float) -> None:
    """Exponential moving average, quicker at the start."""
    share = 1 - min(decay, (step + 1) / (step + 10))
    pairs = zip(average.parameters(), learner.parameters(), strict=True)
    for slow, fast in pairs:
        slow.lerp_(fast, share)


class Run:
    """Everything that a resumed pre-training needs, in one file."""

    def __init__(self, folder: Path, learner: Learner) -> None:
        self.file = folder / "state.pt"
        self.learner, self.average, self.step = learner, deepcopy(learner), 0
        groups = learner.parameters()
        self.optimizer = torch.optim.AdamW(groups, PEAK_RATE, betas=(0.9, 0.98), weight_decay=0.01)
        if self.file.exists():
            state = torch.load(self.file, weights_only=True)
            self.learner.load_state_dict(state["learner"])
            self.average.load_state_dict(state["average"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.step = state["step"]

    def save(self) -> None:
        state = {
            "learner": self.learner.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
        }
        torch.save(state, self.file.with_suffix(".part"))
        self.file.with_suffix(".part").replace(self.file)


def scores(run: Run, options: argparse.Namespace, tokenizer: WhisperTokenizer) -> dict[str, float]:
    """WER of the averaged weights on the first sentences of both dev sets."""
    model, wers = run.average.whisper.eval(), {}
    for name in ("heard", "unheard"):
        dev = Corpus(options.cache, f"dev_{name}")
        dev.rows = dev.rows[: options.score_sentences]
        wers[f"wer_{name}"] = round(score_corpus(model, tokenizer, dev), 4)
    return wers


def note(facts: dict[str, float], folder: Path) -> None:
    """A line on the screen and in `log.jsonl`."""
    with (folder / "log.jsonl").open("a", encoding="utf-8") as log:
        log.write(json.dumps(facts) + "\n")
    print(facts, flush=True)


def train(
    run: Run, maker: WindowMaker, options: argparse.Namespace, tokenizer: WhisperTokenizer
) -> None:
    indices = maker.index_batches(options.batch_size)
    lead, losses, begin_seconds = options.rank == 0, [], time.time()
    while run.step < options.steps:
        for group in run.optimizer.param_groups:
            group["lr"] = learning_rate(run.step, options.steps, options.decay_steps)
        left_share = (options.steps - run.step) / max(1, options.decay_steps)
        padded = maker.random.random() < (0.15 if left_share > 0.4 else 0.4)
        strength = min(1.0, run.step / GENTLE_STEPS)
        batch = maker.batch(next(indices), padded, strength)
        losses.append(train_step(run.learner, run.optimizer, batch))
        run.step += 1
        update_average(run.average, run.learner, run.step, options.average)
        if lead and run.step % options.log_steps == 0:
            words, sounds = np.mean(losses, axis=0).round(4).tolist()
            seconds = round(time.time() - begin_seconds)
            facts = {"step": run.step, "words": words, "sounds": sounds, "seconds": seconds}
            if run.step % options.score_steps == 0:
                facts |= scores(run, options, tokenizer)
            note(facts, options.run)
            run.save()
            losses.clear()


def export(model: WhisperForConditionalGeneration, folder: Path) -> None:
    """Weights as float16, half the bytes; `config.json` says float32, so they load as that."""
    model = deepcopy(model).half()
    weights = model.state_dict()
    del weights["proj_out.weight"]  # tied to the token embedding
    contiguous = {name: weight.contiguous() for name, weight in weights.items()}
    save_file(contiguous, folder / "model.safetensors", metadata={"format": "pt"})


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cache", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("--steps", type=int, default=6_000)
    parser.add_argument("--decay-steps", type=int, default=1_500)
    parser.add_argument("--batch-size", type=int, default=12, help="sentences a process and step")
    parser.add_argument("--log-steps", type=int, default=100)
    parser.add_argument("--score-steps", type=int, default=500, help="a multiple of --log-steps")
    parser.add_argument("--score-sentences", type=int, default=75, help="of each dev set")
    parser.add_argument("--processes", type=int, default=2, help="each with one thread")
    parser.add_argument("--average", type=float, default=0.998, help="share that the mean keeps")
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


def work(rank: int, options: argparse.Namespace) -> None:
    """One of the processes; all hold the same weights and draw different windows."""
    options.rank = rank
    torch.set_num_threads(1 if options.processes > 1 else 2)
    torch.manual_seed(options.seed)
    if options.processes > 1:
        dist.init_process_group("gloo", rank=rank, world_size=options.processes)
    corpus = Corpus(options.cache, "shard")
    inventory = json.loads((options.run / "phonemes.json").read_text())
    tokenizer = WhisperTokenizer.from_pretrained(NANO)
    run = Run(options.run, Learner(WhisperConfig.from_pretrained(NANO), len(inventory)))
    # A resumed run draws new windows instead of repeating its first ones.
    seed = 1_000_003 * options.seed + 1_009 * run.step + rank
    train(run, WindowMaker(corpus, tokenizer, seed, inventory), options, tokenizer)
    if rank == 0:
        run.save()
        export(run.average.whisper, options.run)


def main() -> None:
    options = parse()
    options.run.mkdir(parents=True, exist_ok=True)
    phonemes = options.run / "phonemes.json"
    if not phonemes.exists():
        phonemes.write_text(json.dumps(Corpus(options.cache, "shard").phoneme_inventory()))
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    os.environ.setdefault("MASTER_PORT", "29517")
    if options.processes == 1:
        work(0, options)
    else:
        torch.multiprocessing.spawn(work, (options,), nprocs=options.processes)


if __name__ == "__main__":
    main()
