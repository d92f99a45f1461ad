"""Section `encoder` of params.yaml."""

from pydantic import Field

from stages.core.params import Section


class EncoderParams(Section):
    """Section `encoder`: the sentence encoder."""

    model: str
    """`package:NAME` (weights inside an installed package), a Hub id or a local folder."""
    revision: str
    """Of a Hub id."""
    sha256: str
    """Of its safetensors (weights/digest.py); empty for none."""
    batch_size: int = Field(ge=1)
    """Texts embedded together."""
