"""The toy that most tests of this folder begin with."""

import pytest

from lora_whisper.model.checkpoint import Checkpoint, locate
from tests.configs import model_config
from tests.toys import toy_checkpoint


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return locate(model_config(toy_checkpoint(tmp_path_factory.mktemp("toy"))))
