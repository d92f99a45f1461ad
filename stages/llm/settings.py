"""Sampling, roles and section `llm` of params.yaml: who is asked, how, and where."""

from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from stages.core.cli import UserError
from stages.core.params import Section, near
from stages.llm.profiles import Dialect, Wire, wire

EMBEDDED = "embedded"
BATCH_DISCOUNT = 0.5  # of the online price, as OpenAI has it


class Sampling(Section):
    """How a model is sampled. A new sampling setting is a field here and a line in `request` (llm/request.py)."""

    temp: float = Field(ge=0)
    """Temperature; 0 is greedy."""
    top_p: float = Field(gt=0, le=1)
    """Nucleus: least probability mass that is sampled from."""
    penalty: float = Field(ge=-2, le=2)
    """frequency_penalty of OpenAI's protocol."""
    tokens: int = Field(ge=1)
    """Longest reply, in tokens."""


class Speaker(Sampling):
    """A role: its model and how it is sampled."""

    model: str = Field(min_length=1)
    """`embedded` (models/base), or `<endpoint>:<model>` of llm.endpoints."""


class Talker(Speaker):
    """A role that is shown earlier exchanges."""

    history: int = Field(ge=0)
    """Earlier exchanges shown, the last ones."""


class Inducer(Speaker):
    """The role that says what the user has shown. Prompt sets that note by word overlap know no `form`."""

    form: Literal["list", "letters"] = "list"
    """list: one answer lists the items with quotes; letters: a letter for each piece of the message, whose probabilities
    count (for small models, dialogue/pieces.py)."""


class Roles(Section):
    """Section `roles`: the roles of the tree role-play, flat (`inducer_model`, `inducer_temp`, ...)."""

    FLAT = True

    inducer: Inducer
    """Writes down what the user has shown so far."""
    preferred: Talker
    """Answers with the inducer's note."""
    rejected: Talker
    """Answers without it."""
    verifier: Speaker
    """Says which reply the user would prefer."""

    @model_validator(mode="before")
    @classmethod
    def _grouped(cls, values: Any) -> Any:
        """`{"inducer_temp": 0.0}` as `{"inducer": {"temp": 0.0}}`; a key of no role stays and is a fault."""
        if not isinstance(values, dict) or not all(isinstance(k, str) for k in values):
            return values
        found: dict[str, Any] = {}
        for key, value in values.items():
            name, _, setting = key.partition("_")
            if name in cls.model_fields and setting:
                found.setdefault(name, {})[setting] = value
            else:
                found[key] = value
        return found


class Price(Section):
    """USD per million tokens of one model."""

    prompt: float = Field(ge=0)
    """Prompt tokens."""
    completion: float = Field(ge=0)
    """Completion tokens."""
    cached: float | None = Field(default=None, ge=0)
    """Prompt tokens found in the server's cache; null: as prompt."""

    def usd(self, prompt: float, cached: float, completion: float) -> float:
        """Cost of one call."""
        found = self.prompt if self.cached is None else self.cached
        return ((prompt - cached) * self.prompt + cached * found + completion * self.completion) / 1e6

    def batched(self) -> "Price":
        """The price through a Batch API."""
        cached = None if self.cached is None else self.cached * BATCH_DISCOUNT
        return Price(prompt=self.prompt * BATCH_DISCOUNT, completion=self.completion * BATCH_DISCOUNT, cached=cached)


class Limits(Dialect):
    """How one server is addressed, and what requests to it carry, which is part of the keys of their replies."""

    base_url: str | Annotated[list[str], Field(min_length=1)] = ""
    """Address, up to `/v1`; or those of replicas, which serve the same model. All below that limits calls is for each."""
    key_env: str = ""
    """Name of the environment variable that holds the key; never the key itself."""
    concurrency: int = Field(default=8, ge=1)
    """Calls at once."""
    requests_per_minute: int = Field(default=0, ge=0)
    """0: no limit."""
    tokens_per_minute: int = Field(default=0, ge=0)
    """0: no limit."""
    timeout_s: float = Field(default=120.0, gt=0)
    """Of one request."""
    deadline_s: float = Field(default=900.0, gt=0)
    """Of one call with all its retries."""
    prices: dict[str, Price] = {}
    """By the model's name at the server."""
    aliases: dict[str, str] = {}
    """Name asked for -> the other name that the server answers with, by which profiles know its family."""
    models: dict[str, Dialect] = {}
    """What requests to one model there carry, in place of what the endpoint says."""

    @field_validator("base_url")
    @classmethod
    def _addressed(cls, url: str | list[str]) -> str | list[str]:
        for one in [url] if isinstance(url, str) else url:
            parts = urlsplit(one)
            if one and not (parts.scheme in ("http", "https") and parts.hostname and parts.port != 0):  # or it raises
                raise ValueError(f"{one}: an address begins with http:// or https:// and has a host")
        return url

    @property
    def urls(self) -> list[str]:
        """The addresses."""
        return [self.base_url] if isinstance(self.base_url, str) else self.base_url

    def wire(self, model: str) -> Wire:
        """What requests to a model of this server carry. `model`: its name there."""
        return wire(self.aliases.get(model, model), self, *([self.models[model]] if model in self.models else []))


class Embedded(Section):
    """The engine inside the stage's own process."""

    concurrency: int = Field(default=8, ge=1)
    """Calls at once."""
    slots: int = Field(default=24, ge=1)
    """Key-value caches; with more of them than calls, a role finds the beginning of its prompt in an idle one."""
    context: int = Field(default=2048, ge=1)
    """Tokens of each slot."""
    threads: int = Field(default=0, ge=0)
    """CPU threads; 0: all cores."""


class Llm(Section):
    """Section `llm`. No stage declares it: changing it re-runs nothing.

    Of all in it only what requests carry (Dialect) can change an answer, and the keys of replies with it.
    """

    conversations_in_flight: int = Field(ge=1)
    """Conversations that are driven at once, each to its end."""
    embedded: Embedded
    """The embedded engine; `concurrency` holds for all local engines."""
    local_engine: Literal["auto", "llamacpp", "transformers", "vllm", "sglang"] = "auto"
    """What serves models in folders. auto: vllm or sglang where there is a GPU and one is on the PATH, else llamacpp for a
    GGUF and transformers for safetensors. The digest of what it serves, the GGUF or the safetensors, is in a reply's key."""
    endpoints: dict[str, Limits]
    """Servers by name."""
    budget_usd: float | None = Field(default=None, ge=0)
    """What one run of one stage may pay for new replies; null: no limit."""
    budget_calls: int | None = Field(default=None, ge=0)
    """Calls that one run of one stage may make; 0: stored replies only; null: no limit."""
    batch_roles: list[str] = []
    """Roles asked through the Batch API of their endpoint: verifier, judge."""
    batch_poll_s: float = Field(default=30.0, gt=0)
    """Seconds between two requests for the state of a batch."""
    batch_calls: int = Field(default=50_000, ge=1)
    """Most calls of one batch."""
    batch_mb: float = Field(default=190.0, gt=0)
    """Most megabytes (10^6 bytes) of the file of one batch."""
    batch_tokens: int | None = Field(default=None, ge=1)
    """Most tokens of one batch, prompts and replies; null: no limit but the server's."""
    cache: str = ""
    """Folder of the stored replies; empty: .cache of the repository."""

    def limits(self, name: str) -> Limits:
        """Endpoint `name`. Raises UserError where there is none."""
        if name not in self.endpoints:
            raise UserError(f"params.yaml: {unknown_endpoint(name, list(self.endpoints))}")
        return self.endpoints[name]


def unknown_endpoint(name: str, known: list[str]) -> str:
    """The fault of an endpoint that section llm does not name."""
    return f"endpoint {name!r}: not among llm.endpoints{near(name, known)}"


class Role(Speaker):
    """Who speaks and how: what of a call is the same for all calls of a role.

    `model` may also be a name that the stage binds to a folder.
    """

    name: str
    """Under which its calls are counted."""
    stop: tuple[str, ...] = ()
    """Strings that end a reply."""
    accept: tuple[str, ...] = ("ok",)
    """Outcomes (llm/reply.py) that are used as they are; others are drawn again."""
    logprobs: int = Field(default=0, ge=0)
    """Alternatives whose log-probabilities come with each token of the reply; 0: none."""


def role(settings: Sampling, name: str, **changes: Any) -> Role:
    """The role `name`, sampled by `settings`; `changes` are fields of Role."""
    sampled = {k: getattr(settings, k) for k in Speaker.model_fields if k in type(settings).model_fields}
    return Role(**{**sampled, "name": name, **changes})
