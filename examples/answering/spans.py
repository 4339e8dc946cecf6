"""Questions made of Python's own documentation, which is wherever Python is.

A sentence of a passage, with its subject or the name of something cut out, asks for
what was cut out. It is an easier task than SQuAD's, and a small one; but to solve it a
model must find the sentence by its words and see where in it something is missing.
"""

import ast
import re
import sysconfig
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from answering.squad import Question, normalized, tokens_of

# Tokens of a passage, of a question, and of an answer.
PASSAGE = (40, 120)
ASKED = (5, 24)
ANSWER = 6
MISSING = "what"
# Folders of the library with programs and tests in them, or with what others wrote.
_LEFT_OUT = (
    "dist-packages",
    "idlelib",
    "lib2to3",
    "site-packages",
    "test",
    "turtledemo",
)
# Grammars, sessions, headings and tables.
_NO_PROSE = ("::=", ">>>", "***", "===", "---")


def _words(text: str) -> list[str]:
    return text.split()


_VERBS = _words(
    """
    is are was were has have had can cannot could may might must shall should will
    would does do did returns return raises raise takes take makes make gives give
    provides provide defines define contains contain accepts accept allows allow
    specifies specify represents represent supports support uses use calls call
    creates create sets set means mean causes cause determines determine requires
    behaves works holds occurs refers denotes implements indicates describes
    """
)
# A sentence that begins so has no subject that could be asked for.
_VAGUE = _words(
    """
    it this that they these those there he she you we i if when while for in on at
    as by to otherwise note see also then however but and or both neither either one
    only not returns return what which who where how
    """
)
# Nor is it one with one of these in it, or at its end.
_WITHIN = _words(
    """
    that which when if where who because
    """
)
_LAST = _words(
    """
    and or to of not be in for with as by from the a an
    """
)
_SUBJECT = re.compile(
    r"(?P<span>(?:[\w.()\"`'-]+ ){0,5}?[\w.()\"`'-]+) (?:" + "|".join(_VERBS) + r")\b"
)
_NAMES = re.compile(
    # What documentation quotes, and what can be nothing but a name.
    r"[\"`](?P<quoted>[A-Za-z_][\w.]*)(?:\(\))?[\"`]"
    r"|(?P<bare>\b(?:[a-z]+_\w+|__\w+__|[A-Z]\w+(?:Error|Warning|Exception)|"
    r"[a-z]\w*(?=\(\))))"
)


def of_python() -> dict[str, list[Question]]:
    """Questions about the topics of `help()` and the modules of the library.

    Returns:
        Those to train with, "train", and those of other topics, "valid" and "test".
    """
    texts = {f"help: {name}": text for name, text in _topics()}
    texts |= {f"module: {name}": text for name, text in _docstrings()}
    found: dict[str, list[Question]] = {"test": [], "valid": [], "train": []}
    seen: set[str] = set()
    parts = {0: "test", 3: "test", 5: "valid"}
    titles = [(parts.get(k % 10, "train"), one) for k, one in enumerate(sorted(texts))]
    for part in found:
        # Documentation repeats itself. What is held out is read first, and no paragraph
        # twice, so that none is trained on as well.
        for wanted, title in titles:
            if wanted == part:
                found[part] += questions_of(title, texts[title], seen)
    return found


def by_search(question: Question) -> str:
    """What stands in the passage between the words around the gap, if they are there.

    This is what can be answered without anything that was learned.
    """
    for gap in re.finditer(MISSING, question.text):
        before, after = question.text[: gap.start()], question.text[gap.end() :]
        # Without words before it, it begins a sentence.
        begin = re.escape(before) if before else r"(?:^|(?<=[.!?:]\s))"
        within = rf"(?:\S+ ){{0,{ANSWER}}}?\S+?"
        if found := re.search(f"{begin}({within}){re.escape(after)}", question.passage):
            return found.group(1)
    return ""


def _topics() -> Iterator[tuple[str, list[str]]]:
    from pydoc_data.topics import topics

    for name, text in topics.items():
        yield name, re.split(r"\n\s*\n", text)


def _docstrings() -> Iterator[tuple[str, list[str]]]:
    folder = Path(sysconfig.get_path("stdlib"))
    for path in sorted([*folder.glob("*.py"), *folder.glob("*/*.py")]):
        name = ".".join(path.relative_to(folder).with_suffix("").parts)
        if name.split(".")[0] in _LEFT_OUT:
            continue
        with warnings.catch_warnings():
            # Of strings in the library's own source.
            warnings.simplefilter("ignore")
            tree = ast.parse(path.read_text(encoding="utf-8"))
        texts = _within(tree)
        paragraphs = [one for text in texts for one in re.split(r"\n\s*\n", text)]
        yield name, paragraphs


def _within(node: Any) -> Iterator[str]:
    """The docstrings of a module, or of a definition, in the order of its lines."""
    if text := ast.get_docstring(node):
        yield text
    for one in node.body:
        if isinstance(one, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            yield from _within(one)


def questions_of(
    title: str, paragraphs: Iterable[str], seen: set[str]
) -> list[Question]:
    """The questions that can be made of one text.

    Args:
        title: Of the text.
        paragraphs: Of it.
        seen: Paragraphs that were read before; these are added.
    """
    found: dict[tuple[str, str], Question] = {}
    for number, passage in enumerate(_passages(paragraphs, seen)):
        for sentence in re.finditer(r"[^\s].*?[.!?:](?=\s+[A-Z\"`]|$)", passage):
            for begin, end in _spans(sentence.group()):
                text = _asked(sentence.group(), begin, end)
                if text is None:
                    continue
                place = sentence.start() + begin
                answer = (sentence.group()[begin:end], place)
                if (same := found.get((passage, text))) is not None:
                    # A sentence that is there twice, or nearly: either is right.
                    found[passage, text] = replace(
                        same, answers=(*same.answers, answer)
                    )
                    continue
                found[passage, text] = Question(
                    f"{title}, {number}, {place}", title, passage, text, (answer,)
                )
    return list(found.values())


def _passages(paragraphs: Iterable[str], seen: set[str]) -> Iterator[str]:
    """Prose, several paragraphs in one passage if they are short."""
    passage, length = "", 0
    for paragraph in paragraphs:
        text = " ".join(paragraph.split())
        if text in seen or not (own := _prose(text)):
            continue
        seen.add(text)
        if length + own > PASSAGE[1]:
            if length >= PASSAGE[0]:
                yield passage
            passage, length = "", 0
        if own <= PASSAGE[1]:
            passage, length = f"{passage} {text}".strip(), length + own
    if length >= PASSAGE[0]:
        yield passage


def _prose(text: str) -> int:
    """How many tokens a paragraph has; 0 if it is anything but sentences."""
    if text[-1:] not in tuple(".:!?") or any(sign in text for sign in _NO_PROSE):
        return 0
    tokens = tokens_of(text)
    words = sum(token.text.isalpha() for token in tokens)
    return len(tokens) if len(tokens) >= 6 and words >= 0.65 * len(tokens) else 0


def _spans(sentence: str) -> Iterator[tuple[int, int]]:
    """What can be cut out of a sentence: its subject, and names in it."""
    found = []
    subject = _SUBJECT.match(sentence)
    if subject:
        words = subject["span"].lower().split()
        vague = words[0] in _VAGUE or words[-1] in _LAST or {*_WITHIN} & {*words}
        if not vague:
            found.append(subject.span("span"))
    for name in _NAMES.finditer(sentence):
        found.append(name.span("quoted" if name["quoted"] else "bare"))
    last = 0
    for begin, end in sorted(found):
        answer = sentence[begin:end]
        # Of "_" or "A" the rules of scoring leave nothing.
        some = 0 < len(tokens_of(answer)) <= ANSWER and normalized(answer)
        if begin >= last and some:
            yield begin, end
            last = end


def _asked(sentence: str, begin: int, end: int) -> str | None:
    """A sentence without some of its characters, if enough is left of it."""
    before, after = sentence[:begin], sentence[end:]
    left, right = tokens_of(before), tokens_of(after)
    if len(left) + len(right) < ASKED[0]:
        return None
    # What is nearest to the gap, if it is too long.
    half = (ASKED[1] - 1) // 2
    left_most = max(half, ASKED[1] - 1 - len(right))
    right_most = max(half, ASKED[1] - 1 - len(left))
    if len(left) > left_most:
        before = before[left[-left_most].begin :]
    if len(right) > right_most:
        after = after[: right[right_most - 1].end]
    return f"{before}{MISSING}{after}"
