"""Every test runs offline, on one torch thread or `tests.threads`, and with a cache of its own."""

import atexit
import gc
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# Of processes that tests start; what one of them decoded, the tests themselves must not find.
os.environ["LORA_WHISPER_CACHE"] = tempfile.mkdtemp(prefix="lora_whisper-")
atexit.register(shutil.rmtree, os.environ["LORA_WHISPER_CACHE"], ignore_errors=True)

import pytest  # noqa: E402
import yaml  # noqa: E402

from tests.threads import THREADS  # noqa: E402

# No test cuts the power. Each of a thousand runs waited 0.15 s for the disk.
os.fsync = lambda file: None

# Most of what is made stays: without the garbage collector a process collected the tests in 16.4 s
# instead of 19.4.
gc.set_threshold(50_000, 20, 100)

# Hydra reads some twenty files for each of a thousand command lines, in Python letter by letter;
# libyaml gives the same values.
yaml.SafeLoader = yaml.CSafeLoader  # type: ignore[assignment,misc]


# What follows imports where it is used: the process that starts the others runs no test.


@pytest.fixture(autouse=True, scope="session")
def libraries_that_remember() -> None:
    from tests import remembered

    remembered.remember()


@pytest.fixture(autouse=True, scope="session")
def torch_threads() -> None:
    import torch

    torch.set_num_threads(THREADS)


@pytest.fixture(autouse=True)
def same_torch_threads_again() -> Iterator[None]:
    """CTranslate2 sets OpenMP's threads, which are PyTorch's too: the last bits of sums change."""
    import torch

    yield
    torch.set_num_threads(THREADS)


@pytest.fixture(autouse=True, scope="session")
def whole_collection_at_the_end() -> Iterator[None]:
    """Some libraries look at the exit whether all of theirs is gone."""
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True, scope="module")
def short_collections() -> None:
    """Leave what libraries made on import out of further garbage collections.

    Each would look through all of it, which takes 0.2 s: a fifth of what a toy run takes.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path_factory.getbasetemp() / f"cache-{uuid.uuid4()}"  # made by whoever writes
    monkeypatch.setenv("LORA_WHISPER_CACHE", str(folder))
