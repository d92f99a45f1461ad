"""Filter personas: grow the pools by self-generation, keep what is new, pair profiles with personalities, split.

The paper's loop: examples from the current pool, a model writes more, a text is kept if its greatest cosine to everything
kept is at most the threshold; until the target size, until few new ones come, or until a round limit. Texts that are
imported come in whole before the first round. Then distinct profile x personality pairs, with no profile, no
personality and no near-duplicate of one in both train and eval.

Run: python -m stages.filter_personas (the arguments are in dvc.yaml)
"""

from pathlib import Path
from typing import Any

from stages.core import params, prompts
from stages.core.aio import run_async
from stages.core.cli import parser, run
from stages.core.files import read_jsonl, write_json, write_jsonl
from stages.llm.backend import PaidCalls
from stages.llm.client import Client
from stages.llm.settings import EMBEDDED, Llm, Role, Speaker, role
from stages.personas import seeds
from stages.personas.pool import TextPool, grow
from stages.personas.settings import FilterPersonas, SeedPersonas
from stages.personas.split import greatest_cosine, split
from stages.text.encoder import Encode, Encoder
from stages.text.settings import EncoderParams

PLOTS = ("pool_growth", "nearest_cosine", "lengths", "persona_map")


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


def read_pool(p: Params, name: str, prompt: Path, seed_file: Path, import_file: Path) -> TextPool:
    """A pool before it grows: its seeds, and the texts that are to be imported."""
    own = seeds.read(import_file, p.seed_personas, least=0)
    return TextPool(name, getattr(p.filter_personas, name), prompts.load(prompt), read_jsonl(seed_file), own)


async def grown(p: Params, pools: list[TextPool], base: Path, encode: Encode) -> dict[str, Any]:
    """Grow the pools in place; returns the counts of the calls."""
    async with Client(PaidCalls("filter_personas", p.llm, {EMBEDDED: base}), resamples=0) as client:
        for pool in pools:
            await grow(pool, p.filter_personas, client, generator(p), encode)
        client.ledger.finish("filter_personas", p.filter_personas.max_failed_share)
        return client.ledger.metrics()


def main() -> None:
    inputs = ["seed-profiles", "seed-personalities", "import-profiles", "import-personalities", "profile-prompt",
              "personality-prompt", "base"]  # fmt: skip
    outputs = ["profiles", "personalities", "train", "eval", "metrics", *(name.replace("_", "-") for name in PLOTS)]
    a = parser(__doc__, inputs, outputs).parse_args()
    p = params.load("filter_personas", Params)
    encode = Encoder(p.encoder)
    pools = [
        read_pool(p, "profiles", a.profile_prompt, a.seed_profiles, a.import_profiles),
        read_pool(p, "personalities", a.personality_prompt, a.seed_personalities, a.import_personalities),
    ]
    sizes = {pool.name: len(pool.texts) for pool in pools}
    calls = run_async(grown(p, pools, a.base, encode))
    profiles, personalities = ([t["text"] for t in pool.texts] for pool in pools)
    train, held = split(profiles, personalities, p.filter_personas, encode)
    from stages.personas.measures import measures, plots  # numpy

    nearest = {
        what: greatest_cosine([getattr(x, what) for x in held], [getattr(x, what) for x in train], encode)
        for what in ("profile", "personality")
    }
    counts = {"calls": calls, "train": len(train), "eval": len(held), "nearest_eval_to_train": nearest}
    for pool in pools:
        write_jsonl(getattr(a, pool.name), pool.texts)
    write_jsonl(a.train, (x.record() for x in train))
    write_jsonl(a.eval, (x.record() for x in held))
    write_json(a.metrics, {**counts, **{pool.name: measures(pool, sizes[pool.name], encode) for pool in pools}})
    for name, rows in plots(pools, sizes, encode).items():
        write_json(getattr(a, name), rows)


if __name__ == "__main__":
    run(main)
