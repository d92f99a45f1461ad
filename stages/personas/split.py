"""Train and eval personas that share nothing."""

from stages.core.cli import UserError
from stages.core.files import digest
from stages.personas import hygiene
from stages.personas.persona import Persona
from stages.personas.settings import FilterPersonas
from stages.text.encoder import Encode


def distant(texts: list[str], held: list[str], threshold: float, encode: Encode) -> list[str]:
    """Those of `texts` whose greatest cosine to a text of `held` is at most `threshold`."""
    if not texts or not held:
        return texts
    cosines = (encode(texts) @ encode(held).T).max(1)
    return [text for text, cosine in zip(texts, cosines, strict=True) if cosine <= threshold]


def greatest_cosine(texts: list[str], others: list[str], encode: Encode) -> float:
    """Greatest cosine between a text of one set and a text of the other."""
    return round(float((encode(texts) @ encode(others).T).max()), 4)


def ranked(profile: str, personalities: list[str], seed: int) -> list[str]:
    """Personalities in the order in which `profile` is paired with them."""
    return sorted(personalities, key=lambda t: digest(seed, profile, t))


def split(
    profiles: list[str], personalities: list[str], p: FilterPersonas, encode: Encode
) -> tuple[list[Persona], list[Persona]]:
    """Train and eval personas: distinct pairs whose pronouns agree, no profile and no personality (near) in both.

    Raises:
        UserError: the pools are too small for what is asked.
    """

    def shuffled(texts: list[str]) -> list[str]:
        return sorted(texts, key=lambda t: digest(p.seed, "split", t))

    facts, traits = shuffled(profiles), shuffled(personalities)
    held_facts, held_traits = facts[: p.eval_profiles], traits[: p.eval_personalities]
    train_facts = distant(facts[p.eval_profiles :], held_facts, p.split_threshold, encode)
    train_traits = distant(traits[p.eval_personalities :], held_traits, p.split_threshold, encode)
    # round k pairs every profile with its own k-th personality, so a larger `train` keeps all earlier pairs
    order = {t: ranked(t, [x for x in train_traits if hygiene.agree(t, x)], p.seed) for t in train_facts}
    pairs = [Persona(t, order[t][k]) for k in range(len(train_traits)) for t in train_facts if k < len(order[t])]
    evals = [Persona(t, x) for t in held_facts for x in held_traits if hygiene.agree(t, x)]
    if len(pairs) < p.train or not evals:
        raise UserError(
            f"filter_personas: {len(profiles)} profiles and {len(personalities)} personalities give {len(evals)} eval pairs "
            f"and {len(pairs)} training pairs that share nothing with them and agree in their pronouns; 1 and "
            f"train = {p.train} are needed; raise the pools' targets, or eval_personalities for eval pairs, or lower train"
        )
    return pairs[: p.train], evals
