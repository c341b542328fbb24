"""The names of precisions in kits and options."""

PRECISION_TYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}  # {name: torch's}
