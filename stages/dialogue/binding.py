"""Where the model under test is: local weights, a snapshot of a Hub repository, or an endpoint."""

from pathlib import Path

from stages.core.cli import UserError, one_line
from stages.llm.settings import EMBEDDED

UNDER_TEST = "model under test"
LOCAL = "local"
WEIGHTS = ["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model"]  # files of a Hub repository that serving needs


def snapshot(model: str, fetch: bool) -> Path | None:
    """Folder of a Hub model (`owner/name` or `owner/name@revision`) in the Hub client's cache; None where it is not cached
    and `fetch` is off. Raises UserError when the Hub does not give it."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    name, _, revision = model.partition("@")
    try:
        found = snapshot_download(name, revision=revision or None, allow_patterns=WEIGHTS, local_files_only=not fetch)
    except Exception as e:
        if not fetch and isinstance(e, LocalEntryNotFoundError):
            return None
        raise UserError(f"arms: model {model} cannot be had from the Hub: {one_line(e)}") from None
    return Path(found)


def bound(model: str, weights: Path, base: Path, fetch: bool = True) -> tuple[str, Path | None]:
    """(model name for a role, its folder) of an arm's `model`. The folder is None for an endpoint, and for a Hub model that
    is not cached where `fetch` is off."""
    if model != LOCAL:
        return (model, None) if ":" in model else (UNDER_TEST, snapshot(model, fetch))
    return (EMBEDDED, base) if weights == base else (UNDER_TEST, weights)  # base is the user's too: one server is enough
