"""What a request to the well-known servers and model families carries: the profiles that `llm.endpoints.NAME.profile` names.

By model family, as the servers' documentation had it in 2026-11. A name whose version cannot be read counts as the newest of
its family, which is refused least. What a profile gets wrong is set right by the other fields of `Dialect`.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import Field, field_validator

from stages.core.params import Section, near

SAMPLING = ("temperature", "top_p")
PENALTIES = ("frequency_penalty", "presence_penalty")
LOGPROBS = ("logprobs", "top_logprobs")
COMPLETION = {"max_tokens": "max_completion_tokens"}
THINKING = 4096  # tokens of a model that thinks unless it is told not to
NO_THOUGHTS = {"chat_template_kwargs": {"enable_thinking": False}}  # templates that do not know it ignore it


class Dialect(Section):
    """What requests carry. Parameters have the names of OpenAI's protocol: temperature, max_tokens, seed, stop, ..."""

    profile: str = ""
    """Ready settings for a well-known server (llm/profiles.py); empty: none, the request as OpenAI's protocol has it."""
    omit: list[str] = []
    """Parameters that are not sent. Without `stop` a reply is cut here, without `seed` a draw cannot be repeated."""
    keep: list[str] = []
    """Parameters that are sent although the profile, or the endpoint of the model, leaves them out."""
    rename: dict[str, str] = {}
    """Parameter -> its name at the server."""
    cap: dict[str, int | float] = {}
    """Parameter -> the greatest value that is sent."""
    add: dict[str, Any] = {}
    """Further parameters, sent as they are, also in place of ours."""
    thinking_tokens: int | None = Field(default=None, ge=0)
    """Tokens for thinking besides those of the reply; null: as the profile has it, else 0."""

    @field_validator("profile")
    @classmethod
    def _known(cls, name: str) -> str:
        if name and name not in PROFILES:
            raise ValueError(f"unknown profile {name!r}{near(name, PROFILES)}; there are {', '.join(PROFILES)}")
        return name


@dataclass(frozen=True)
class Wire:
    """What requests to one model carry: its profile and the settings of its endpoint, put together."""

    omit: frozenset[str] = frozenset()
    rename: Mapping[str, str] = field(default_factory=dict)
    cap: Mapping[str, int | float] = field(default_factory=dict)
    add: Mapping[str, Any] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """Sent where the request does not have them: they switch off what the server would else do by itself."""
    thinking: int = 0
    """Tokens for thinking."""
    neutral: bool = True
    """Whether values that change nothing (a penalty of 0, top_p 1) are sent."""
    both: bool = True
    """Whether temperature and top_p may go together."""
    blank_stop: bool = True
    """Whether a stop text may be of white space only."""
    note: str = ""
    """What a request cannot do at this server."""


def _without(*names: str, **more: Any) -> Wire:
    return Wire(omit=frozenset(names), neutral=False, **more)


def _version(family: str, name: str) -> tuple[int, int]:
    """Version in a model's name: `claude-opus-4-1-20250805` is (4, 1). The newest where none can be read."""
    found = re.search(rf"{family}-(?:[a-z]+-)?(\d+)(?:[-.](\d{{1,2}})(?!\d))?", name)
    return (int(found[1]), int(found[2] or 0)) if found else (99, 0)


def _effort(added: Mapping[str, Any]) -> Any:
    """The reasoning effort asked for, by the spellings of OpenAI and OpenRouter."""
    reasoning = added.get("reasoning")
    return added.get("reasoning_effort") or (reasoning.get("effort") if isinstance(reasoning, dict) else None)


def _disabled(added: Mapping[str, Any]) -> bool:
    """Whether thinking is switched off, by the spelling of Anthropic and DeepSeek."""
    thinking = added.get("thinking")
    return isinstance(thinking, dict) and thinking.get("type") == "disabled"


def _openai(name: str, added: Mapping[str, Any]) -> Wire:
    if not re.search(r"(?<![a-z0-9])(?:o\d|gpt-(?!35)(?:[5-9]|[1-9]\d))(?![a-z0-9])", name):
        return _without()
    if _effort(added) == "none":
        return _without("stop", *PENALTIES, rename=COMPLETION)
    return _without("stop", *PENALTIES, *SAMPLING, *LOGPROBS, rename=COMPLETION, thinking=THINKING)


def _azure(name: str, added: Mapping[str, Any]) -> Wire:
    return replace(_openai(name, added), rename=COMPLETION)


def _claude(name: str, added: Mapping[str, Any]) -> Wire:
    version = _version("claude", name)
    unsampled = version >= (5, 0) or ("opus" in name and version >= (4, 7))
    thinking = THINKING if version >= (5, 0) and not _disabled(added) else 0
    refused = SAMPLING if unsampled else ()
    more = {"cap": {"temperature": 1}, "both": False, "blank_stop": False, "thinking": thinking}
    return _without("seed", *PENALTIES, *LOGPROBS, *refused, **more)


def _gemini(name: str, added: Mapping[str, Any]) -> Wire:
    version = _version("gemini", name) if "gemini" in name else (0, 0)
    refused = SAMPLING if version >= (3, 5) else ()
    thinking = THINKING if version >= (2, 5) and _effort(added) != "none" else 0
    return _without("seed", *PENALTIES, *LOGPROBS, *refused, thinking=thinking)


def _grok(name: str, added: Mapping[str, Any]) -> Wire:
    cap = {"top_logprobs": 8}
    mini = "mini" in name
    if "non-reasoning" in name or (_version("grok", name) < (4, 0) and not mini) or _effort(added) == "none":
        return _without(cap=cap)
    return _without("stop", *PENALTIES, cap=cap, thinking=THINKING)


def _deepseek(name: str, added: Mapping[str, Any]) -> Wire:
    if "chat" in name or "coder" in name or _disabled(added):
        return _without()
    return _without(*SAMPLING, *PENALTIES, *LOGPROBS, thinking=THINKING)


def _deepseek_itself(name: str, added: Mapping[str, Any]) -> Wire:
    wire = _deepseek(name, added)
    return replace(wire, omit=wire.omit | {"response_format"})  # "This response_format type is unavailable now"


def _mistral(name: str, added: Mapping[str, Any]) -> Wire:
    thinking = THINKING if "magistral" in name else 0
    return _without(*LOGPROBS, rename={"seed": "random_seed"}, thinking=thinking)


def _router(name: str, added: Mapping[str, Any]) -> Wire:
    """A router of many vendors: by the family that the name says."""
    return _FAMILIES[family](name, added) if (family := advised(name)) else _without()


def _local(defaults: Mapping[str, Any], thoughts: bool = True, note: str = "") -> "Profile":
    """A server that samples by its own or the model's defaults where a request does not say otherwise: all of it is said.

    Args:
        thoughts: whether its templates are told by the request that the model shall not think.
    """
    wire = Wire(neutral=False, defaults={"top_p": 1.0, **defaults, **(NO_THOUGHTS if thoughts else {})}, note=note)
    return lambda name, added: wire


Profile = Callable[[str, Mapping[str, Any]], Wire]  # model's name in lower case, further parameters -> what is sent
_FAMILIES: dict[str, Profile] = {
    "openai": _openai, "claude": _claude, "gemini": _gemini, "grok": _grok, "deepseek": _deepseek
}  # fmt: skip
_OPEN = {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}
_MODELFILE = (
    "Ollama takes top_k, min_p and repeat_penalty from the Modelfile alone: PARAMETER top_k 0, min_p 0, repeat_penalty 1"
)
PROFILES: dict[str, Profile] = {
    **_FAMILIES,
    "deepseek": _deepseek_itself,
    "azure": _azure,
    "mistral": _mistral,
    "groq": lambda name, added: _without(*LOGPROBS),
    "openrouter": _router,
    "strict": lambda name, added: _without("seed", *PENALTIES),  # NVIDIA NIM, and others that know few parameters
    "vllm": _local(_OPEN),
    "sglang": _local(_OPEN),
    "llamacpp": _local({"top_k": 0, "min_p": 0.0, "typical_p": 1.0, "repeat_penalty": 1.0}),
    "lmstudio": _local({"top_k": 0, "min_p": 0.0, "repeat_penalty": 1.0}, thoughts=False),
    "ollama": _local({}, thoughts=False, note=_MODELFILE),
}


def advised(name: str) -> str:
    """The profile that a model's name asks for, or empty: the family refuses parameters of a plain request."""
    name = name.lower()
    families = (family for family in _FAMILIES if family != "openai" and family in name)
    return next(families, "openai" if _openai(name, {}).omit else "")


def wire(family: str, *layers: Dialect) -> Wire:
    """What requests to a model carry.

    Args:
        family: the model's name, by which profiles know its family.
        layers: settings of the endpoint, then those of the model there; the later ones win.
    """
    add = {name: value for layer in layers for name, value in layer.add.items()}
    profile = next((layer.profile for layer in reversed(layers) if layer.profile), "")
    found = PROFILES[profile](family.lower(), add) if profile else Wire()
    omit = set(found.omit)
    for layer in layers:
        omit = omit - {*layer.keep} | {*layer.omit}
    tokens = [layer.thinking_tokens for layer in layers if layer.thinking_tokens is not None]
    thinking = tokens[-1] if tokens else found.thinking
    return replace(
        found,
        omit=frozenset(omit),
        rename={**found.rename, **{old: new for layer in layers for old, new in layer.rename.items()}},
        cap={**found.cap, **{name: most for layer in layers for name, most in layer.cap.items()}},
        add={**found.add, **add},
        defaults={k: v for k, v in found.defaults.items() if not thinking or k not in NO_THOUGHTS},
        thinking=thinking,
    )
