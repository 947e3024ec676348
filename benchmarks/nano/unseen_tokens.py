"""Sets the tokens apart that pre-training never had as a target.

    python -m benchmarks.nano.unseen_tokens CACHE lora_whisper/quickstart/nano

Some BPE tokens only ever stand inside of longer ones. Training pushes all of their embeddings one
and the same way (mean cosine 0.99 among 290 of them), and an adapter that leaves embeddings alone
can never write one of them: `metformin`, whose `for` is such a token, became `metjmin`. Each gets a
random part, drawn from the spread of the embeddings that were trained. Runs that take tokens apart
from their first step (`windows.SPLIT_SHARE`) need none of this.
"""

import argparse
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import WhisperTokenizer

from benchmarks.nano.make_nano import ORDINARY_TOKENS
from benchmarks.nano.windows import Corpus
from lora_whisper.model.tokenizer import text_tokens

EMBEDDING = "model.decoder.embed_tokens.weight"
RANDOM_SHARE = 0.75  # of the trained embeddings' own spread


def seen_tokens(cache: Path, tokenizer: WhisperTokenizer) -> set[int]:
    """The ordinary tokens of the sentences in the numbered shards."""
    rows = Corpus(cache, "shard_0").rows
    return {token for row in rows for token in text_tokens(tokenizer, row["text"], "en")}


def set_apart(embedding: Tensor, seen: list[int], unseen: list[int], seed: int = 0) -> Tensor:
    """(tokens, width) with a random part added to the rows of unseen tokens."""
    generator = torch.Generator().manual_seed(seed)
    trained = embedding[seen].float()
    spread = (trained - trained.mean(dim=0)) / len(seen) ** 0.5
    draws = torch.randn(len(unseen), len(seen), generator=generator) @ spread
    changed = embedding.clone()
    changed[unseen] = (embedding[unseen].float() + RANDOM_SHARE * draws).to(embedding.dtype)
    return changed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cache", type=Path)
    parser.add_argument("model", type=Path)
    options = parser.parse_args()
    seen = seen_tokens(options.cache, WhisperTokenizer.from_pretrained(options.model))
    unseen = [token for token in range(ORDINARY_TOKENS) if token not in seen]
    file = options.model / "model.safetensors"
    weights = load_file(file)
    weights[EMBEDDING] = set_apart(weights[EMBEDDING], sorted(seen), unseen)
    save_file(weights, file, metadata={"format": "pt"})
    print(f"{len(unseen)} of {ORDINARY_TOKENS} ordinary tokens were never a target")


if __name__ == "__main__":
    main()
