"""How many threads the tests compute with, and the processes that they start.

One, unless `make test-portable` asks for more: what depends on it but for rounding is a fault.
"""

import os

THREADS = int(os.environ.get("LORA_WHISPER_TEST_THREADS", "1"))
