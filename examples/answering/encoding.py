"""Questions as numbers: vocabularies, batches, and spans as text again."""

import collections
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np

from answering.configurations import Configuration
from answering.squad import NO_ANSWER, Question, Token, span_of, tokens_of

PADDING, UNKNOWN = 0, 1
RESERVED = ("<padding>", "<unknown>")
# Lengths of batches are multiples of this, so that few different ones are compiled.
STRIDE = 16


@dataclass
class Vocabulary:
    """Words, in lower case, and characters by number.

    Attributes:
        words: The words, after those reserved the most frequent first.
        characters: The characters.
        counts: How often each word occurs; 0 for those reserved.
        vectors: The words' vectors, if they come from a file.
    """

    words: list[str]
    characters: list[str]
    counts: np.ndarray
    vectors: np.ndarray | None = None
    _spelled: dict[tuple[str, int], np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._word = {word: number for number, word in enumerate(self.words)}
        self._character = {one: number for number, one in enumerate(self.characters)}

    def word_ids(self, tokens: Iterable[str]) -> list[int]:
        """The number of each token's word."""
        return [self._word.get(token.lower(), UNKNOWN) for token in tokens]

    def character_ids(self, tokens: Sequence[str], length: int) -> np.ndarray:
        """The first characters of each token, `(tokens, length)`."""
        found = np.zeros((len(tokens), length), "int32")
        for row, token in zip(found, tokens, strict=True):
            if (token, length) not in self._spelled:
                ids = np.zeros(length, "int32")
                for place, one in enumerate(token[:length]):
                    ids[place] = self._character.get(one, UNKNOWN)
                self._spelled[token, length] = ids
            row[:] = self._spelled[token, length]
        return found


def vocabulary_of(
    questions: Sequence[Question], most_words: int, least: int = 2
) -> Vocabulary:
    """The words and characters of questions and their passages.

    Args:
        questions: Those to train with.
        most_words: Size of the largest vocabulary.
        least: Words that occur less often are unknown.
    """
    texts = [one.text for one in questions]
    texts += list(dict.fromkeys(one.passage for one in questions))
    words: collections.Counter[str] = collections.Counter()
    characters: collections.Counter[str] = collections.Counter()
    for text in texts:
        for token in tokens_of(text):
            words[token.text.lower()] += 1
            characters.update(token.text)
    # A token of its own, in each passage whose questions may have no answer there.
    words[NO_ANSWER] = len(texts)
    room = most_words - len(RESERVED)
    kept = [(word, count) for word, count in words.most_common(room) if count >= least]
    return Vocabulary(
        [*RESERVED, *(word for word, _ in kept)],
        [*RESERVED, *(one for one, count in characters.most_common() if count >= 2)],
        np.array([0] * len(RESERVED) + [count for _, count in kept]),
    )


def with_vectors(
    vocabulary: Vocabulary, path: Path, questions: Iterable[Question], seed: int
) -> Vocabulary:
    """A vocabulary of the words that a file has vectors of.

    Args:
        vocabulary: One without; its characters are kept.
        path: A word and its numbers in each line, separated by spaces, as GloVe's,
            of which some words have spaces in them, too; before them there may be a
            line that tells how many there are, as in fastText's.
        questions: All there are: words that were not trained with have vectors, too.
        seed: Of the vector of unknown words.
    """
    counts: collections.Counter[str] = collections.Counter()
    for one in questions:
        for text in (one.text, one.passage):
            counts.update(token.text.lower() for token in tokens_of(text))
    found: dict[str, np.ndarray] = {}
    length = 0
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                word, *values = line.rstrip().rsplit(" ", length or -1)
                if number == 1 and len(values) == 1 and (word + values[0]).isdigit():
                    continue
                length = length or len(values)
                # A number more is no part of the word.
                more = sum(map(_is_number, word.split(" ")[1:])) if " " in word else 0
                if len(values) != length or not length or more:
                    many = len(values) + more
                    raise ValueError(f"line {number} has {many} numbers")
                if word in counts and word not in found:
                    found[word] = np.array(values, "float32")
                    if not np.isfinite(found[word]).all():
                        raise ValueError(f"line {number} has a number that is none")
    except (OSError, ValueError) as error:
        raise SystemExit(
            f"--vectors {path}: each line must be a word and as many numbers as the "
            f"others have, separated by spaces. What went wrong: {error}"
        ) from error
    if not found:
        raise SystemExit(f"--vectors {path}: it has none of the words of the data.")
    words = sorted(found, key=lambda word: (-counts[word], word))
    drawn = np.random.default_rng(seed).normal(scale=0.1, size=(2, length))
    # Those of padding, of unknown words, and of the token that stands for no answer.
    vectors = [np.zeros(length), drawn[0], drawn[1], *(found[word] for word in words)]
    return Vocabulary(
        [*RESERVED, NO_ANSWER, *words],
        vocabulary.characters,
        np.array([0, 0, 0, *(counts[word] for word in words)]),
        np.array(vectors, "float32"),
    )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


@dataclass(frozen=True)
class Encoded:
    """A question as numbers.

    Attributes:
        question: What it was made of.
        tokens: Of the passage, as many as are read.
        asked: Tokens of the question.
        span: The first and the last token of its first answer, `None` if that is not
            among them, or not where it is said to be.
    """

    question: Question
    tokens: tuple[Token, ...]
    asked: tuple[str, ...]
    span: tuple[int, int] | None

    def text_of(self, first: int, last: int) -> str:
        """What the passage says from one token to another."""
        begin, end = self.tokens[first].begin, self.tokens[last].end
        return self.question.passage[begin:end]


def encoded(
    questions: Iterable[Question], config: Configuration, none: bool
) -> list[Encoded]:
    """Questions in tokens.

    Args:
        questions: The questions.
        config: How much of them is read.
        none: Whether passages begin with a token that stands for no answer.

    Raises:
        ValueError: If there is no such token, and a question that needs it.
    """
    found = []
    passages: dict[str, list[Token]] = {}
    for one in questions:
        if one.passage not in passages:
            passages[one.passage] = tokens_of(one.passage)
        tokens = passages[one.passage]
        if none:
            tokens = [Token(NO_ANSWER, 0, 0), *tokens]
        tokens = tokens[: config.context]
        span: tuple[int, int] | None = (0, 0)
        if not (one.answers or none):
            raise ValueError(f"question {one.id} has no answer, and none can be given")
        if one.answers:
            text, begin = one.answers[0]
            text = text.rstrip()
            end = begin + len(text)
            span = span_of(tokens, begin, end)
            # Cut off, or not what the passage says there.
            if span and (
                tokens[span[1]].end < end or not one.passage.startswith(text, begin)
            ):
                span = None
        asked = [token.text for token in tokens_of(one.text)][: config.question]
        found.append(Encoded(one, tuple(tokens), tuple(asked), span))
    return found


def arrays_of(
    questions: Sequence[Encoded],
    vocabulary: Vocabulary,
    word_length: int,
    context: int | None = None,
    question: int | None = None,
) -> list[np.ndarray]:
    """What the model takes, padded to lengths, or to the longest."""
    found = []
    for length, rows in (
        (context, [[token.text for token in one.tokens] for one in questions]),
        (question, [list(one.asked) for one in questions]),
    ):
        # One at least: nothing can be looked for in a question of no length.
        longest = max([1, *(len(row) for row in rows)])
        size = longest if length is None else length
        words = np.zeros((len(rows), size), "int32")
        characters = np.zeros((len(rows), size, word_length), "int32")
        for number, row in enumerate(rows):
            words[number, : len(row)] = vocabulary.word_ids(row)
            characters[number, : len(row)] = vocabulary.character_ids(row, word_length)
        found += [words, characters]
    return found


class Batches(keras.utils.PyDataset):
    """Questions for `fit`, those of similar lengths side by side.

    Args:
        questions: Those that are trained with; each has a span.
        vocabulary: Their words.
        config: Sizes.
        seed: Their order is drawn from it and the number of the epoch alone, so a run
            that is taken up again sees the same.

    Attributes:
        epoch: Which epoch's batches it gives; `EpochByEpoch` sets it.
    """

    def __init__(
        self,
        questions: Sequence[Encoded],
        vocabulary: Vocabulary,
        config: Configuration,
        seed: int,
    ):
        super().__init__()
        self.questions = questions
        self.vocabulary = vocabulary
        self.config = config
        self.seed = seed
        self.epoch = 0

    @property
    def epoch(self) -> int:
        """Which epoch's batches it gives."""
        return self._epoch

    @epoch.setter
    def epoch(self, epoch: int) -> None:
        self._epoch = epoch
        random = np.random.default_rng([self.seed, epoch])
        order = random.permutation(len(self.questions))
        size = self.config.batch
        # Sorted by length within some batches at a time: little padding, and batches
        # that are never the same.
        pieces = [order[k : k + 20 * size] for k in range(0, len(order), 20 * size)]
        batches: list[np.ndarray] = []
        for piece in pieces:
            lengths = [len(self.questions[k].tokens) for k in piece]
            ordered = piece[np.argsort(lengths, kind="stable")]
            batches += [ordered[k : k + size] for k in range(0, len(ordered), size)]
        self._batches = [batches[k] for k in random.permutation(len(batches))]

    @property
    def num_batches(self) -> int:
        """How many there are in an epoch."""
        return len(self._batches)

    def __getitem__(self, index: int) -> Any:
        own = self._questions(index)
        lengths = lengths_of(own)
        # Keras takes a length for fixed that the first two batches share.
        if index == 0:
            lengths = lengths[0] + STRIDE, lengths[1] + STRIDE
        elif index == 1:
            first = (length + STRIDE for length in lengths_of(self._questions(0)))
            lengths = tuple(
                length + STRIDE * (length == other)
                for length, other in zip(lengths, first, strict=True)
            )
        x = arrays_of(own, self.vocabulary, self.config.word_length, *lengths)
        spans = np.array([one.span for one in own], "int32")
        return tuple(x), (spans[:, 0], spans[:, 1])

    def _questions(self, index: int) -> list[Encoded]:
        return [self.questions[k] for k in self._batches[index]]


def lengths_of(questions: Sequence[Encoded]) -> tuple[int, int]:
    """Tokens of a passage and of a question in a batch of these, padding included."""
    return (
        _rounded(max(len(one.tokens) for one in questions)),
        _rounded(max(len(one.asked) for one in questions)),
    )


def _rounded(length: int) -> int:
    return max(STRIDE, length + -length % STRIDE)


class EpochByEpoch(keras.callbacks.Callback):
    """Gives `Batches` the number of each epoch when that begins."""

    def __init__(self, batches: Batches):
        super().__init__()
        self.batches = batches

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """An order of its own."""
        self.batches.epoch = epoch


# Answers ------------------------------------------------------------------------------


def best_span(
    start: np.ndarray, end: np.ndarray, longest: int, none: bool
) -> tuple[int, int]:
    """The span whose two logits are largest together.

    Args:
        start: A logit for each token, that the answer begins there.
        end: The same of where it ends.
        longest: Tokens of the longest answer.
        none: Whether the first token stands for no answer, and is in no other span.
    """
    sums = start[:, None] + end[None, :]
    lengths = np.arange(len(end))[None, :] - np.arange(len(start))[:, None]
    allowed = (lengths >= 0) & (lengths < longest)
    if none:
        allowed[0, 1:] = False
    first, last = np.unravel_index(
        np.argmax(np.where(allowed, sums, -np.inf)), sums.shape
    )
    return int(first), int(last)


def answers_of(
    questions: Sequence[Encoded],
    logits: Iterable[tuple[np.ndarray, np.ndarray]],
    config: Configuration,
    none: bool,
) -> tuple[list[tuple[int, int]], list[str]]:
    """Spans, and what they say, empty for no answer.

    Args:
        questions: The questions.
        logits: Of each the two logits of all its tokens, and of padding behind them.
        config: How long answers may be.
        none: Whether the first token stands for no answer.
    """
    spans, texts = [], []
    for one, (start, end) in zip(questions, logits, strict=True):
        size = len(one.tokens)
        span = best_span(start[:size], end[:size], config.longest, none)
        spans.append(span)
        texts.append("" if none and span == (0, 0) else one.text_of(*span))
    return spans, texts


def logits_of(
    model: keras.Model,
    questions: Sequence[Encoded],
    vocabulary: Vocabulary,
    config: Configuration,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Of each question the two logits of its tokens, by a model."""
    order = np.argsort([len(one.tokens) for one in questions], kind="stable")
    found: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    for begin in range(0, len(order), config.batch):
        numbers = order[begin : begin + config.batch]
        own = [questions[k] for k in numbers]
        x = arrays_of(own, vocabulary, config.word_length, *lengths_of(own))
        starts, ends = model.predict_on_batch(x)
        for number, start, end in zip(numbers, starts, ends, strict=True):
            found[int(number)] = np.asarray(start), np.asarray(end)
    for number in range(len(questions)):
        yield found[number]
