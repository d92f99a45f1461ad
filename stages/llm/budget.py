"""What one run of one stage may still pay."""

import asyncio
from dataclasses import dataclass, field

from stages.core.cli import UserError


@dataclass
class Budget:
    """What one run of one stage may still pay: `usd` and `calls` are the limits, `made` and `paid` what was used of them."""

    usd: float | None
    calls: int | None
    made: int = 0
    paid: float = 0.0  # USD, of answers that came
    _under_way: dict[str, float] = field(default_factory=dict)  # key of a call -> USD it may cost at most
    _ended: asyncio.Event = field(default_factory=asyncio.Event)  # one of them

    async def reserve(self, key: str, model: str, worst: float | None) -> None:
        """Wait until the budget surely covers a call of at most `worst` USD. Raises UserError when it never will."""
        if self.usd is not None and worst is None:
            raise UserError(f"llm.budget_usd is set, but {model} has no price; add it to the prices of its endpoint")
        while True:
            spent = self.paid + sum(self._under_way.values())
            if self.calls is not None and self.made >= self.calls:
                stop = f"llm.budget_calls: {self.made} calls are made"
            elif self.usd is not None and spent + (worst or 0.0) > self.usd:
                stop = f"llm.budget_usd: {spent:.4f} of {self.usd} USD are spent and the next call may cost {worst:.4f}"
            else:
                break
            if not self._under_way:
                raise UserError(f"{stop}; all replies are kept, run again to continue")
            self._ended.clear()
            await self._ended.wait()  # calls under way are let end; most cost less than was set aside for them
        self.made += 1
        self._under_way[key] = worst or 0.0

    def settle(self, key: str, cost: float | None) -> None:
        """A call has ended and cost that much; None: what it may have cost at most. No such call: nothing."""
        worst = self._under_way.pop(key, 0.0)
        self.paid += worst if cost is None else cost
        self._ended.set()
