"""Seed personas: check, normalise and deduplicate the seed profiles and personalities.

Reads JSON Lines (strings, or objects with `text` and an optional `category`) or plain text, one per line. Asks nothing. The
seeds of the repository were written for it by a language model (data/seeds/README.md).

Run: python -m stages.seed_personas --profiles data/seeds/profiles.jsonl --personalities data/seeds/personalities.jsonl \
        --seed-profiles data/personas/seed_profiles.jsonl --seed-personalities data/personas/seed_personalities.jsonl
"""

from stages.core import params
from stages.core.cli import parser, run
from stages.core.files import write_jsonl
from stages.personas.seeds import read
from stages.personas.settings import SeedPersonas


class Params(params.Section):
    """What this stage reads."""

    seed_personas: SeedPersonas


def main() -> None:
    p = parser(__doc__, ["profiles", "personalities"], ["seed-profiles", "seed-personalities"])
    a = p.parse_args()
    limits = params.load("seed_personas", Params).seed_personas
    profiles, personalities = read(a.profiles, limits), read(a.personalities, limits)
    write_jsonl(a.seed_profiles, profiles)
    write_jsonl(a.seed_personalities, personalities)


if __name__ == "__main__":
    run(main)
