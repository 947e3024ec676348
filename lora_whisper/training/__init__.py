"""The loop and what stands around it: loss, schedule, checkpoints, and what people see."""
