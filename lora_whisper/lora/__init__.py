"""An adapter's life: what it is, how it begins, is kept, found and folded into its base."""

from lora_whisper import compiler

compiler.put_off()  # before PEFT and bitsandbytes are imported
