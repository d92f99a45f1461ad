"""Models of local folders."""

from pathlib import Path
from typing import Any

from transformers import AutoModelForCausalLM, AutoTokenizer

from stages.core.cli import UserError, one_line


def load(folder: Path, **options: Any) -> tuple[Any, Any]:
    """Model and tokenizer of a folder: safetensors only, no remote code.

    Args:
        options: of `from_pretrained` for the model.
    Raises:
        UserError: the folder holds no model that transformers can load.
    """
    try:
        return (
            AutoModelForCausalLM.from_pretrained(folder, use_safetensors=True, **options),
            AutoTokenizer.from_pretrained(folder),
        )
    except (OSError, ValueError) as e:
        raise UserError(f"{folder}: cannot be loaded as a model: {one_line(e)}") from None
