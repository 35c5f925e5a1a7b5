"""Jobs: which cells of a recipe are trained together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from emphasis.experiments.recipes.settings import Cell, MethodSpec, digest, objective_as_dict
from emphasis.experiments.runs.store import job_name
from emphasis.experiments.runs.user_code import with_code
from emphasis.training.settings import Objective, Solver


@dataclass(frozen=True)
class Job:
    """Cells that differ only in objective, learning rate and seed.

    Attributes:
        cells: One per network: all seeds of the first objective and learning rate, then those of the next.
        seeds: K seeds, the same for each objective and learning rate.
    """

    cells: tuple[Cell, ...]
    seeds: tuple[int, ...]

    @cached_property  # progress bars ask for it after every step
    def name(self) -> str:
        """Name of the job's files in the store."""
        return job_name(self.cells)

    @property
    def objectives(self) -> list[Objective]:
        """Objective of each group of K networks, with imported functions; empty for a method beyond a weighting."""
        objectives = [cell.objective for cell in self.cells[:: len(self.seeds)]]
        return [with_code(objective) for objective in objectives if not isinstance(objective, MethodSpec)]

    @property
    def solver(self) -> Solver:
        """Solver of all networks, with the highest of their learning rates."""
        highest = max(cell.solver.learning_rate for cell in self.cells)
        return replace(self.cells[0].solver, learning_rate=highest)

    @property
    def rates(self) -> list[float]:
        """Learning rate of each network as a fraction of the solver's; empty if all are equal."""
        highest = self.solver.learning_rate
        fractions = [cell.solver.learning_rate / highest for cell in self.cells]
        return fractions if min(fractions) < 1.0 else []

    @property
    def title(self) -> str:
        """Description for people."""
        first = self.cells[0]
        networks = f"{len(self.cells)} networks" if len(self.cells) > 1 else f"{first.method}, seed {first.seed}"
        return ": ".join(filter(None, (first.condition, networks)))


def make_jobs(cells: Sequence[Cell]) -> list[Job]:
    """Return the jobs that train each of `cells` once: similar perceptrons together, other networks one by one."""
    stacks: dict[tuple[str, tuple[int, ...]], list[Cell]] = {}
    by_objective: dict[tuple[str, str], dict[int, Cell]] = {}
    jobs: list[Job] = []
    for cell in {cell.key: cell for cell in cells}.values():
        if is_stackable(cell):
            common = cell.shared()
            rate = common["solver"].pop("learning_rate")  # the networks of a stack may have different ones
            objective = digest([objective_as_dict(cell.objective), rate])
            by_objective.setdefault((digest(common), objective), {})[cell.seed] = cell
        else:
            jobs.append(Job((cell,), (cell.seed,)))
    for (shared, _), by_seed in by_objective.items():
        groups: list[tuple[int, ...]] = [tuple(sorted(by_seed))]
        if _measures_noise(next(iter(by_seed.values()))):  # the weighting then differs from seed to seed
            groups = [(seed,) for seed in sorted(by_seed)]
        for seeds in groups:
            stacks.setdefault((shared, seeds), []).extend(by_seed[seed] for seed in seeds)
    jobs += [Job(tuple(stack), seeds) for (_, seeds), stack in stacks.items()]
    order = {cell.key: number for number, cell in reversed(list(enumerate(cells)))}
    return sorted(jobs, key=lambda job: min(order[cell.key] for cell in job.cells))


def is_stackable(cell: Cell) -> bool:
    """Return whether the cell's network can be trained in a stack with others."""
    is_random = cell.network.options.get("dropout") or cell.dataset.augment
    return cell.network.name == "mlp" and not is_random and not isinstance(cell.objective, MethodSpec)


def _measures_noise(cell: Cell) -> bool:
    return isinstance(cell.objective, Objective) and cell.objective.measures


def threads_of(job: Job, share: int) -> int:
    """Return the number of threads that suits the job best if its share of the cores is `share`."""
    return 1 if is_stackable(job.cells[0]) else share
