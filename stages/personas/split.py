"""Train and eval personas that share nothing."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from stages.core.cli import UserError
from stages.core.files import digest
from stages.personas import hygiene
from stages.personas.persona import Persona
from stages.personas.settings import FilterPersonas

if TYPE_CHECKING:
    from stages.text.encoder import Vectors

    Encode = Callable[[list[str]], Vectors]


def apart(rest: list[str], held: list[str], threshold: float, encode: "Encode") -> list[str]:
    """Those of `rest` that are no near-duplicate of anything in `held`."""
    if not rest or not held:
        return rest
    near = (encode(rest) @ encode(held).T).max(1)
    return [text for text, cosine in zip(rest, near, strict=True) if cosine <= threshold]


def ranked(profile: str, personalities: list[str], seed: int) -> list[str]:
    """Personalities in the order in which `profile` is paired with them."""
    return sorted(personalities, key=lambda t: digest(seed, profile, t))


def nearest(texts: list[str], others: list[str], encode: "Encode") -> float:
    """Greatest cosine between two sets of texts."""
    return round(float((encode(texts) @ encode(others).T).max()), 4)


def split(
    profiles: list[str], personalities: list[str], p: FilterPersonas, encode: "Encode"
) -> tuple[list[Persona], list[Persona]]:
    """Train and eval personas: distinct pairs that speak of one person, no profile and no personality (near) in both.

    Raises:
        UserError: the pools are too small for what is asked.
    """
    facts_order = sorted(profiles, key=lambda t: digest(p.seed, "split", t))
    traits_order = sorted(personalities, key=lambda t: digest(p.seed, "split", t))
    held, rest = facts_order[: p.eval_profiles], facts_order[p.eval_profiles :]
    held_traits, rest_traits = traits_order[: p.eval_personalities], traits_order[p.eval_personalities :]
    rest = apart(rest, held, p.split_threshold, encode)
    rest_traits = apart(rest_traits, held_traits, p.split_threshold, encode)
    # round k pairs every profile with its own k-th personality, so a larger `train` keeps all earlier pairs
    order = {t: ranked(t, [x for x in rest_traits if hygiene.agree(t, x)], p.seed) for t in rest}
    pairs = [Persona(t, order[t][k]) for k in range(len(rest_traits)) for t in rest if k < len(order[t])]
    evals = [Persona(t, s) for t in held for s in held_traits if hygiene.agree(t, s)]
    if len(pairs) < p.train or not evals:
        raise UserError(
            f"filter_personas: {len(profiles)} profiles and {len(personalities)} personalities give {len(evals)} eval pairs "
            f"and {len(pairs)} training pairs that share nothing with them and agree in their pronouns, fewer than "
            f"train = {p.train}; raise the pools' targets or lower train"
        )
    return pairs[: p.train], evals
