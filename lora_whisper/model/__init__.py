"""The base checkpoint: its files, vocabulary, log-mel and weights, quantized or not."""

from lora_whisper import compiler

compiler.put_off()  # before PEFT and bitsandbytes are imported
