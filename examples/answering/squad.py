"""Questions about passages, in SQuAD's format and by SQuAD's rules."""

import collections
import hashlib
import json
import re
import string
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# A token that stands before a passage whose questions may have no answer in it.
NO_ANSWER = "<none>"


@dataclass(frozen=True)
class Question:
    """A question about a passage.

    Attributes:
        id: Its name.
        title: Of the article that the passage is from.
        passage: The passage.
        text: What is asked.
        answers: Each of the answers that people gave, and where in the passage it
            begins, counted in characters; none if the passage does not say.
    """

    id: str
    title: str
    passage: str
    text: str
    answers: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Token:
    """A word or a sign, and where in the text it is.

    Attributes:
        text: As it is written.
        begin: Its first character.
        end: Behind its last one.
    """

    text: str
    begin: int
    end: int


def tokens_of(text: str) -> list[Token]:
    """Runs of letters and digits, and every other sign by itself."""
    return [
        Token(found.group(), *found.span())
        for found in re.finditer(r"\w+|[^\w\s]", text)
    ]


def span_of(tokens: Sequence[Token], begin: int, end: int) -> tuple[int, int] | None:
    """The first and the last token that a range of characters touches.

    Args:
        tokens: Of the text.
        begin: The first character.
        end: Behind the last one.

    Returns:
        Their numbers, `None` if there are none.
    """
    touched = [
        number
        for number, token in enumerate(tokens)
        if token.begin < end and token.end > begin
    ]
    return (touched[0], touched[-1]) if touched else None


# Files --------------------------------------------------------------------------------


def of_file(path: Path) -> list[Question]:
    """The questions of a file of SQuAD v1.1 or v2."""
    try:
        articles = json.loads(path.read_text(encoding="utf-8-sig"))["data"]
        found = list(_of_articles(articles))
    except OSError as error:
        raise SystemExit(f"--squad {path}: {error}") from error
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise SystemExit(
            f"--squad {path}: it must be JSON with articles, paragraphs and questions, "
            f"as train-v1.1.json is. What went wrong: {error!r}"
        ) from error
    if not found:
        raise SystemExit(f"--squad {path}: there is no question in it.")
    return found


def _of_articles(articles: Iterable[Any]) -> Iterable[Question]:
    for article in articles:
        for paragraph in article["paragraphs"]:
            for asked in paragraph["qas"]:
                # In v2 a question without an answer has answers that only look right.
                answers = [] if asked.get("is_impossible") else asked["answers"]
                yield _checked(
                    Question(
                        str(asked["id"]),
                        article["title"],
                        paragraph["context"],
                        asked["question"],
                        tuple((one["text"], one["answer_start"]) for one in answers),
                    )
                )


def _checked(question: Question) -> Question:
    """A question as it was read; raises if something in it is of another type."""
    texts = [question.title, question.passage, question.text]
    texts += [text for text, _ in question.answers]
    begins = [begin for _, begin in question.answers]
    if not all(isinstance(one, str) for one in texts):
        raise TypeError(f"question {question.id}: a text is no string, among {texts}")
    if not all(isinstance(one, int) for one in begins):
        raise TypeError(
            f"question {question.id}: an answer_start must be an integer, not as "
            f"among {begins}"
        )
    return question


def of_dataset(name: str) -> dict[str, list[Question]]:
    """The questions of a tensorflow-datasets data set, such as squad/v1.1, by split."""
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise SystemExit(
            "--data needs tensorflow-datasets: pip install keras-sparse-rnn[datasets]"
        ) from error
    found = {}
    builder = tfds.builder(name)
    builder.download_and_prepare()
    for split in builder.info.splits:
        examples = tfds.as_numpy(builder.as_dataset(split=split))
        found[str(split)] = [of_example(name, example) for example in examples]
    return found


def of_example(name: str, example: dict[str, Any]) -> Question:
    """One example of tensorflow-datasets."""
    wanted = {"id", "title", "context", "question", "answers"}
    if not wanted <= set(example):
        raise SystemExit(
            f"--data {name}: its examples need the features {sorted(wanted)}, and have "
            f"{sorted(example)}."
        )
    answers = example["answers"]
    texts = [] if example.get("is_impossible") else answers["text"]
    # Where answers begin is counted in characters there, too.
    begins = answers["answer_start"][: len(texts)]
    return Question(
        *(example[key].decode("utf-8") for key in ("id", "title")),
        *(example[key].decode("utf-8") for key in ("context", "question")),
        tuple(
            (text.decode("utf-8"), int(begin))
            for text, begin in zip(texts, begins, strict=True)
        ),
    )


def hash_of(questions: Iterable[Question]) -> str:
    """Of all there is in some questions."""
    digest = hashlib.sha256()
    for one in questions:
        digest.update(repr(one).encode())
    return digest.hexdigest()[:16]


# Scores -------------------------------------------------------------------------------


def normalized(answer: str) -> str:
    """Lower case, without punctuation, articles and more spaces than needed."""
    kept = "".join(one for one in answer.lower() if one not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", kept).split())


def exact(given: str, wanted: str) -> float:
    """1 if both are the same answer, else 0."""
    return float(normalized(given) == normalized(wanted))


def overlap(given: str, wanted: str) -> float:
    """The F1 of the words of both, each counted as often as it occurs."""
    ours, theirs = normalized(given).split(), normalized(wanted).split()
    if not ours or not theirs:
        # No answer is right only where there is none.
        return float(ours == theirs)
    common = sum((collections.Counter(ours) & collections.Counter(theirs)).values())
    if not common:
        return 0.0
    precision, recall = common / len(ours), common / len(theirs)
    return 2 * precision * recall / (precision + recall)


def scores(
    questions: Sequence[Question], given: Sequence[str]
) -> tuple[list[float], list[float]]:
    """Of each question whether it was answered exactly, and the F1; in per cent.

    The best of the answers that people gave counts; an empty answer says that there is
    none.
    """
    matches, overlaps = [], []
    for question, answer in zip(questions, given, strict=True):
        # As SQuAD's own script: what nothing is left of is no answer to compare with.
        wanted = [text for text, _ in question.answers if normalized(text)] or [""]
        matches.append(100 * max(exact(answer, one) for one in wanted))
        overlaps.append(100 * max(overlap(answer, one) for one in wanted))
    return matches, overlaps
