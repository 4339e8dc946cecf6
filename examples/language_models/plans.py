"""Which runs the tables of `docs/results.md` are made of, in order."""

from collections.abc import Iterator

from experiments.plans import Step, seed_of


def wide_256(seeds: tuple[int, ...] = (1, 2, 3)) -> Iterator[Step]:
    """Every method on two LSTMs of 256; two days on two cores."""
    for seed in seeds:
        for name in ("wide-256", "wide-256-sparse"):
            yield [name, "--seed", str(seed), "--ship"]
    for seed in seeds:
        own = ["--seed", str(seed), "--ship"]
        for keep in ("0.35", "0.65"):
            yield from _pruned("wide-256", keep, own)
        for kind in ("", "-all", "-sparse", "-tiers", "-0.2", "-all-0.2"):
            yield [f"tied-256{kind}", *own]
        yield ["tied-256-all", "--method", "scheduled", "--keep", "0.65", *own]
    own = ["--seed", "1", "--ship"]
    start = ["--start", "@file wide-256-seed1", "--epochs", "5"]
    for method in ("one-shot", "scheduled"):
        yield ["wide-256", "--method", method, "--keep", "0.35", *start, *own]
    for method, strengths in (
        ("lasso", ("2.9e-4", "5.7e-4")),
        ("proximal", ("1e-5", "2e-5")),
        ("weights", ("2.9e-6",)),
        ("rows", ("8.6e-5",)),
    ):
        for strength in strengths:
            yield ["wide-256", "--method", method, "--strength", strength, *own]
    yield ["wide-256", "--method", "magnitude", "--keep", "0.35", *own]


def _pruned(name: str, keep: str, own: Step) -> Iterator[Step]:
    """A pruned run, and direct design of the same sizes."""
    yield [name, "--method", "scheduled", "--keep", keep, *own]
    like = f"{name}-scheduled-{keep}-seed{seed_of(own)}"
    yield [name, "--method", "direct", "--like", like, *own]


def medium_13(seeds: tuple[int, ...] = (1, 2, 3)) -> Iterator[Step]:
    """Two LSTMs of 650, pruned and direct design at three sizes; two days or more."""
    for seed in seeds:
        own = ["--seed", str(seed), "--ship"]
        yield ["medium-13", *own]
        for keep in ("0.5", "0.65", "0.35") if seed == seeds[0] else ("0.5",):
            yield from _pruned("medium-13", keep, own)


def medium_third(seeds: tuple[int, ...] = (1,)) -> Iterator[Step]:
    """The same on a third of the text (so an --out of its own); a day on two cores."""
    for seed in seeds:
        own = ["--most-text", "310000", "--seed", str(seed), "--ship"]
        # By a name of its own: that of the whole text has the other.
        yield ["medium-13", "--name", f"medium-13-third-seed{seed}", *own]
        for keep in ("0.35", "0.5", "0.2"):
            yield from _pruned("medium-13-iss", keep, own)
        for kind in ("tied", "all", "iss"):
            yield [f"medium-13-{kind}", *own]


def recite(seeds: tuple[int, ...] = (1,)) -> Iterator[Step]:
    """Learning to recite at three budgets, as in the paper; for a GPU."""
    for seed in seeds:
        for name in ("recite", "recite-7m", "recite-4m"):
            kinds = ("",) if name == "recite" else ("", "-sparse", "-tiers")
            for kind in kinds:
                yield [f"{name}{kind}", "--seed", str(seed)]


def recite_tenth(seeds: tuple[int, ...] = (1,)) -> Iterator[Step]:
    """The same a third as wide, on a tenth of the text (so an --out of its own)."""
    own = ["--most-text", "93000"]
    for seed in seeds:
        for budget in ("", "-half", "-third"):
            for kind in ("", "-sparse", "-tiers") if budget else ("",):
                yield [f"recite-tenth{budget}{kind}", *own, "--seed", str(seed)]


def rivals(seeds: tuple[int, ...] = (1, 2, 3)) -> Iterator[Step]:
    """Every method at two LSTMs of 96, a third of the text (an --out of its own)."""
    for seed in seeds:
        own = ["--most-text", "310000", "--seed", str(seed), "--ship"]
        yield ["tiny", *own]
        for keep in ("0.5", "0.25"):
            yield from _pruned("tiny", keep, own)
            start = ["--start", f"@file tiny-seed{seed}", "--epochs", "3"]
            for method in ("one-shot", "scheduled"):
                yield ["tiny", "--method", method, "--keep", keep, *start, *own]
            yield ["tiny", "--method", "magnitude", "--keep", keep, *own]
        for method, strength in (
            ("lasso", "1e-4"),
            ("proximal", "2e-6"),
            ("weights", "1e-6"),
            ("rows", "3e-5"),
        ):
            yield ["tiny", "--method", method, "--strength", strength, *own]


def papers(seeds: tuple[int, ...] = (1,)) -> Iterator[Step]:
    """Both papers' own sizes; for a GPU."""
    for seed in seeds:
        own = ["--seed", str(seed), "--ship"]
        for keep in ("0.23", "0.5"):
            yield ["large-iss", "--method", "scheduled", "--keep", keep, *own]
        # λ of the paper's code, 0.00245 for the sum over 35 steps.
        yield ["large-iss", "--method", "lasso", "--strength", "7e-5", *own]
        yield ["large", *own]
        yield ["large-direct", "--method", "direct", "--units", "373", "315", *own]
        small = ["large-tied-tiers", "--method", "scheduled", "--keep", "0.23"]
        yield [*small, *own]
        for name in ("awd", "awd-sparse"):
            yield [name, *own]
            start = ["--start", f"@file {name}-seed{seed}"]
            yield [name, "--method", "finetune", *start, *own]
        yield ["highway", *own]
        # The paper's is 0.005, and summed over 35 steps, too.
        yield ["highway-iss", "--method", "lasso", "--strength", "1.43e-4", *own]


PLANS = {
    "wide-256": wide_256,
    "medium-13": medium_13,
    "medium-third": medium_third,
    "recite": recite,
    "recite-tenth": recite_tenth,
    "rivals": rivals,
    "papers": papers,
}
