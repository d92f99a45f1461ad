"""Filter personas: grow the pools by self-generation, keep what is new, pair profiles with personalities, split.

The paper's loop: examples from the current pool, a model writes more, a text is kept if its greatest cosine to everything
kept is at most the threshold; until the target size, until few new ones come, or until a round limit. Texts that are
imported pass the same rule before the first round. Then distinct profile x personality pairs, with no profile, no
personality and no near-duplicate of one in both train and eval.

Run: python -m stages.filter_personas (the arguments are in dvc.yaml)
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.core import params, prompts
from stages.core.aio import run_async
from stages.core.cli import parser, run
from stages.core.files import read_jsonl, write_json, write_jsonl
from stages.llm.backend import PaidCalls
from stages.llm.client import Client
from stages.llm.settings import EMBEDDED, Llm, Role, Speaker, role
from stages.personas.measures import measures, plots
from stages.personas.pool import Kind, grow
from stages.personas.seeds import read
from stages.personas.settings import FilterPersonas, SeedPersonas
from stages.personas.split import nearest, split
from stages.text.settings import EncoderParams

if TYPE_CHECKING:
    from stages.text.encoder import Vectors

    Encode = Callable[[list[str]], Vectors]


class Params(params.Section):
    """What this stage reads."""

    filter_personas: FilterPersonas
    seed_personas: SeedPersonas
    generator: Speaker
    encoder: EncoderParams
    llm: Llm


def generator(p: Params) -> Role:
    """The role that invents texts."""
    stop = ("\n",) if p.filter_personas.per_call == 1 else ()
    return role(p.generator, "generator", stop=stop, accept=("ok", "truncated"))


async def work(p: Params, kinds: list[Kind], base: Path, encode: "Encode") -> dict[str, Any]:
    """Grow both pools; returns the calls' counts."""
    async with Client(PaidCalls("filter_personas", p.llm, {EMBEDDED: base}), resamples=0) as client:
        for kind in kinds:
            await grow(kind, p.filter_personas, client, generator(p), encode)
        return client.ledger.metrics()


def main() -> None:
    drawn = ("pool_growth", "nearest_cosine", "lengths", "persona_map")
    a = parser(
        __doc__,
        ["seed-profiles", "seed-personalities", "import-profiles", "import-personalities",
         "profile-prompt", "personality-prompt", "base"],
        ["profiles", "personalities", "train", "eval", "metrics", *(d.replace("_", "-") for d in drawn)],
    ).parse_args()  # fmt: skip
    p = params.load("filter_personas", Params)
    f = p.filter_personas
    from stages.text.encoder import Encoder

    encode = Encoder(p.encoder)
    kinds = [
        Kind("profiles", f.profiles, prompts.load(a.profile_prompt), read_jsonl(a.seed_profiles),
             read(a.import_profiles, p.seed_personas, least=0)),
        Kind("personalities", f.personalities, prompts.load(a.personality_prompt), read_jsonl(a.seed_personalities),
             read(a.import_personalities, p.seed_personas, least=0)),
    ]  # fmt: skip
    seeds = {k.name: len(k.texts) for k in kinds}
    calls = run_async(work(p, kinds, a.base, encode))
    profiles, personalities = ([t["text"] for t in k.texts] for k in kinds)
    train, held = split(profiles, personalities, f, encode)
    for kind, path in zip(kinds, (a.profiles, a.personalities), strict=True):
        write_jsonl(path, kind.texts)
    write_jsonl(a.train, (x.record() for x in train))
    write_jsonl(a.eval, (x.record() for x in held))
    write_json(
        a.metrics,
        {
            "calls": calls,
            "train": len(train),
            "eval": len(held),
            "nearest_eval_to_train": {
                "profile": nearest([x.profile for x in held], [x.profile for x in train], encode),
                "personality": nearest([x.personality for x in held], [x.personality for x in train], encode),
            },
            **{k.name: measures(k, seeds[k.name], encode) for k in kinds},
        },
    )
    for name, rows in plots(kinds, seeds, encode).items():
        write_json(getattr(a, name), rows)


if __name__ == "__main__":
    run(main)
