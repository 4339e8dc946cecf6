"""What is trained, and with which sizes: named configurations."""

from dataclasses import dataclass

# The bidirectional layers, in the order in which sizes are given and told.
CONTEXTUAL = "contextual"
PRUNED = ("modelling_1", "modelling_2", "output")
# Of the largest vocabulary, unless a run has another.
MOST_WORDS = 10_000
# What the records of this example tell, and those of others do not.
FIELD = "left_out"


@dataclass(frozen=True)
class Configuration:
    """One model and its training.

    Attributes:
        about: What it is, in words.
        width: Filters over characters, length of word vectors, and units of each LSTM.
        units: Units of the six LSTMs, the forward and the backward one of each of
            `PRUNED`; of eight with those of the contextual layer before them. `None`
            for `width` in all.
        groups: Groups of those bidirectional layers that have some, by name.
        density: Share of the word table's weights to keep, rare words shorter.
        character_width: Length of a character's vector.
        height: Characters that a filter sees.
        word_length: Characters of a word that are looked at.
        context: Tokens of a passage that are read.
        question: Tokens of a question that are read.
        longest: Tokens of the longest answer that is given.
        dropout: Before each LSTM, the filters and the logits.
        rate: Learning rate of Adam.
        batch: Questions of a training step.
        epochs: How often all questions are read.
        average: Momentum of the average of the weights that is tested; less where
            there are few steps.
    """

    about: str
    width: int
    units: tuple[int, ...] | None = None
    groups: tuple[tuple[str, int], ...] = ()
    density: float | None = None
    character_width: int = 8
    height: int = 5
    word_length: int = 16
    context: int = 400
    question: int = 30
    longest: int = 17
    dropout: float = 0.2
    rate: float = 1e-3
    batch: int = 60
    epochs: int = 12
    average: float = 0.999

    def sizes(self) -> dict[str, tuple[int, int]]:
        """Forward and backward units of each bidirectional layer."""
        units = self.units or (self.width,) * 6
        if len(units) == 6:
            units = (self.width, self.width, *units)
        names = (CONTEXTUAL, *PRUNED)
        return {name: (units[2 * k], units[2 * k + 1]) for k, name in enumerate(names)}


CONFIGURATIONS = {
    "bidaf": Configuration(
        "BiDAF, as Seo et al. (2017), the baseline of ISS", width=100
    ),
    "small": Configuration("the same with a width of 32", width=32),
    "tiny": Configuration("the same with a width of 12", width=12, epochs=6),
}
