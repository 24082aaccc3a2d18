"""One policy held against others on the same episodes: tests of pairs, for the terminal, for reports and as numbers."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from worldline.cli.measured import finite_or_none
from worldline.evaluation.rollout import EvaluationResult
from worldline.evaluation.statistics import PairedComparison, compare_returns, compare_success, holm
from worldline.report import page

HEADER = ("against", "in", "difference", "95% interval", "effect size", "p")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pairing:
    """One policy against another one, in one respect."""

    other: str
    measure: str  # "return", "success" or "crash"
    comparison: PairedComparison  # of the policy, measured against the other
    p_value: float  # corrected for the number of others


def best_of(measured: Mapping[str, EvaluationResult]) -> str:
    """Return the name of the policy with the highest success rate, where that is known of all; else mean return."""
    known = all(result.successes is not None for result in measured.values())
    return max(measured, key=lambda name: ((measured[name].success_rate or 0.0) if known else 0.0, measured[name].mean))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Paired:
    """One policy against each other one, in each respect that is known of both."""

    name: str
    pairings: Sequence[Pairing]

    @classmethod
    def of(cls, measured: Mapping[str, EvaluationResult], name: str) -> Paired:
        """Compare the policy `name` with each other one, episode by episode.

        Compared are returns, and success and crashes where the environment speaks of them. p-values are corrected by
        Holm's method, over all others in one respect.
        """
        found, others = [], [other for other in measured if other != name]
        for measure in ("return", *_rates(measured[name])):
            compared = {
                other: comparison
                for other in others
                if (comparison := _compared(measured[other], measured[name], measure)) is not None
            }
            corrected = holm([comparison.p_value for comparison in compared.values()])
            found += [
                Pairing(other=other, measure=measure, comparison=comparison, p_value=p_value)
                for (other, comparison), p_value in zip(compared.items(), corrected, strict=True)
            ]
        return cls(name=name, pairings=sorted(found, key=lambda pairing: others.index(pairing.other)))

    @property
    def title(self) -> str:
        """What stands above the table."""
        return f"{self.name} against others on the same episodes"

    def numbers(self) -> list[dict[str, Any]]:
        """Return the comparisons as JSON has them; null where a number cannot be said."""
        return [
            {
                "policy": self.name,
                "against": pairing.other,
                "measure": pairing.measure,
                "num_pairs": pairing.comparison.num_pairs,
                "difference": pairing.comparison.difference,
                "interval95": finite_or_none(pairing.comparison.interval95),
                "effect_size": None if math.isnan(pairing.comparison.effect_size) else pairing.comparison.effect_size,
                "p_value": pairing.comparison.p_value,
                "p_value_holm": pairing.p_value,
            }
            for pairing in self.pairings
        ]

    def table(self) -> Table:
        """Return the table for the terminal."""
        table = Table(title=self.title)
        before = None
        for name in HEADER:
            is_text = name in HEADER[:2]
            table.add_column(name, justify="left" if is_text else "right", overflow="fold", no_wrap="interval" in name)
        for other, *row in self._rows():
            table.add_row("" if other == before else other, *row)
            before = other
        return table

    def section(self) -> page.Section:
        """Return the table for a report, with what its columns mean."""
        header = [name if name == "p" else name.capitalize() for name in HEADER]
        rates = " and McNemar's of rates" if any(pairing.measure != "return" for pairing in self.pairings) else ""
        return page.Section(
            title=f"{self.name} against the others",
            text=(
                "Policies are compared episode by episode, since they began alike. The effect size is the mean "
                f"difference in deviations of the differences; p is that of a permutation test of returns{rates}, "
                "corrected for the number of policies by Holm's method."
            ),
            tables=[page.Table(title=self.title, header=header, rows=self._rows())],
        )

    def _rows(self) -> list[tuple[str, ...]]:
        return [
            (
                pairing.other,
                pairing.measure,
                _signed(pairing.comparison.difference, pairing.measure),
                _interval(pairing),
                "-" if math.isnan(pairing.comparison.effect_size) else f"{pairing.comparison.effect_size:.2f}",
                "<0.001" if pairing.p_value < 0.001 else f"{pairing.p_value:.3f}",
            )
            for pairing in self.pairings
        ]


def _compared(first: EvaluationResult, second: EvaluationResult, measure: str) -> PairedComparison | None:
    """Compare the second with the first; None where the first does not speak of the measure."""
    if measure == "return":
        return compare_returns(first.returns, second.returns)
    rates = _rates(first)
    return compare_success(rates[measure], _rates(second)[measure]) if measure in rates else None


def _rates(result: EvaluationResult) -> dict[str, tuple[bool, ...]]:
    """Return whether each episode succeeded or crashed, as far as that is known."""
    known = {"success": result.successes, "crash": result.crashes}
    return {name: values for name, values in known.items() if values is not None}


def _interval(pairing: Pairing) -> str:
    low, high = pairing.comparison.interval95
    if not (math.isfinite(low) and math.isfinite(high)):
        return "-"
    return f"{_signed(low, pairing.measure)} to {_signed(high, pairing.measure)}"


def _signed(value: float, measure: str) -> str:
    """Return a difference as text, that of rates in percentage points."""
    return f"{value:+.1f}" if measure == "return" else f"{100 * value:+.0f} pp"
