"""Light cleaning of BabyLM text, a table of rules per domain: markup goes, what people said and wrote stays.

Lines come in raw and leave with single spaces between words; "" is a document break. Files are `text.py`'s.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

_Edit = tuple[re.Pattern[str], str]
_NEVER = re.compile(r"(?!)")
# Soft hyphens, byte-order marks, zero-width characters and controls that are no white space.
_INVISIBLE = dict.fromkeys([0x7F, 0xAD, 0x2060, 0xFEFF, *range(0x200B, 0x2010), *range(0x9), *range(0xE, 0x1C), *range(0x86, 0xA0)])
_WORDLIKE = re.compile(r"[^\W_]")
_HEADING = re.compile(r"^(?:= ?){2,}.*(?:= ?){2,}$")


@dataclass(frozen=True)
class Rules:
    """What a domain's lines go through: `breaks` are replaced by a document break, `drops` vanish, `edits` are made in order."""

    edits: tuple[_Edit, ...] = ()
    drops: re.Pattern[str] = _NEVER
    breaks: re.Pattern[str] = _HEADING


@dataclass
class Tally:
    """What cleaning saw and kept."""

    raw_words: int = 0
    words: int = 0
    lines: int = 0


def clean(domain: str, cleaning: str, lines: Iterable[str], tally: Tally) -> Iterator[str]:
    """Cleaned lines of `domain`; "" between documents, never twice in a row, never first. `tally` counts along.

    `cleaning` is a key of CLEANINGS: `light`, or `none`, which only puts single spaces between words.
    """
    one_line, collapse = CLEANINGS[cleaning](domain)
    last, pending_break = "", False
    for raw in lines:
        words = raw.split()
        tally.raw_words += len(words)
        line = one_line(" ".join(words)) if words else ""
        if line == "":
            pending_break = tally.lines > 0
        elif line is not None and not (collapse and line == last and not pending_break):
            if pending_break:
                yield ""
            yield line
            tally.words += line.count(" ") + 1
            tally.lines += 1
            last, pending_break = line, False


def clean_line(line: str, rules: Rules) -> str | None:
    """`line` (single spaces) cleaned; "" for a document break; None if nothing worth reading is left."""
    line = line.translate(_INVISIBLE)
    if rules.breaks.search(line):
        return ""
    if rules.drops.search(line):
        return None
    for pattern, replacement in (*rules.edits, *_EVERYWHERE):
        line = pattern.sub(replacement, line)
    line = " ".join(line.split())
    return line if _WORDLIKE.search(line) else None


def _edits(*pairs: tuple[str, str]) -> tuple[_Edit, ...]:
    return tuple((re.compile(pattern), replacement) for pattern, replacement in pairs)


# In any domain: apostrophes lost to a wrong encoding, entities, spaces left before punctuation.
_EVERYWHERE = _edits(
    (r" ?\ufffd+(?=(?:t|s|ll|re|m|ve|d)\b)", "'"),
    (r"\ufffd+", " "),
    (r"&amp;", "&"),
    (r"&quot;", '"'),
    (r"&(?:nbsp|thinsp|ensp|emsp);", " "),
    (r"&[lg]t;/?[a-z]+/?&[lg]t;", " "),
    (r" +(?=(?:[,.;:!?]|\.\.\.)(?: |$))", ""),
)
_GENERAL = Rules()
_CHILDES = Rules(
    edits=_edits(
        (r"^\*[A-Z0-9]{2,4}: ?", ""),
        (r"\[[^\[\]]*\]", " "),
        (r"\b(?:xxx?|yyy?|www)\b", " "),
        (r" n't\b", "n't"),
    ),
    drops=re.compile(r"^(?:%[a-z]{3}:|@[A-Z])"),
)
_SWITCHBOARD = Rules(edits=_edits((r"^[AB]: ?", ""), (r"<[a-z_ ]+>|\{[^{}]*\}", " ")))
_GUTENBERG = Rules(
    edits=_edits(
        (r"\[(?:Illustration|Footnote|Transcriber|Sidenote)[^\[\]]*\]", " "),
        (r"\bCHAPTER [IVXLC\d]+\b\.?", " "),
        (r"_([^_]+)_", r"\1"),
        (r"(?:\* ?){3,}", " "),
        (r"-{2,}", "—"),
    ),
    drops=re.compile(r"(?i)project gutenberg|^produced by |proofreading team|^transcriber['’]s note|^end of (?:the )?(?:project|volume)"),
    breaks=re.compile(rf"{_HEADING.pattern}|^(?:CHAPTER|Chapter) [IVXLC\d]+\.?$|^\*\*\* ?(?:START|END) OF"),
)
_SUBTITLES = Rules(
    edits=_edits(
        (r"\{[^{}]*\}|</?[a-zA-Z][^<>]*>", " "),
        (r"\[[^\[\]]*\]", " "),
        (r"\( ?[A-Z][A-Z \d'.,-]*\)", " "),
        (r"[♪♫♩♬]|(?<!\S)#+(?!\S)", " "),
        (r"^(?: ?-+(?= |[A-Z\"'¿¡]))+ ?", ""),
    ),
    drops=re.compile(
        r"(?i)^-? ?(?:(?:sub)?titles?|captions?|captioned|subtitled|(?:re)?sync(?:hro|ed|hroni[sz]ed)?|transcript|corrected)\b"
        r"[^.]{0,20}\b(?:by|:)|^subtitles? ?:|(?:https?://|www\.)\S|opensubtitles|addic7ed"
    ),
)
_WIKI = Rules(
    edits=_edits(
        (r"^(?:= ?){2,}(.*?)(?: ?=){2,}$", r"\1"),
        (r"\( ?(?:[,;] ?)+", "("),
        (r"\( ?\)", ""),
        (r"\( (?=\S)", "("),
        (r"\bformula_\d+\b", " "),
    ),
    drops=re.compile(r"^[A-Z][\w'-]*(?: [\w'-]+)?\.$|^(?:Category|File|Image):|^&lt;[^&]*&gt;$|^\{\||^\|"),
    breaks=_NEVER,
)
_TREEBANK = Rules(
    edits=_edits(
        (r"(?<!\S)(?:``|'')(?!\S)", '"'),
        (r" (?=(?:n't|'s|'re|'ve|'ll|'d|'m)\b)", ""),
        (r"-LRB- ?", "("),
        (r" ?-RRB-", ")"),
    ),
    breaks=re.compile(rf"{_HEADING.pattern}|^_BOOK_TITLE_ ?:"),
)

DOMAIN_RULES = {
    "childes": _CHILDES,
    "aochildes": _CHILDES,
    "switchboard": _SWITCHBOARD,
    "bnc_spoken": _GENERAL,
    "gutenberg": _GUTENBERG,
    "gutenberg_fixed": _GUTENBERG,
    "children_stories": _GUTENBERG,
    "open_subtitles": _SUBTITLES,
    "qed": _SUBTITLES,
    "simple_wiki": _WIKI,
    "simple_wikipedia": _WIKI,
    "wikipedia": _WIKI,
    "cbt": _TREEBANK,
}


_LineCleaner = Callable[[str], str | None]


def _light(domain: str) -> tuple[_LineCleaner, bool]:
    """The cleaner of a line, and whether a line that repeats the one before it is left out."""
    rules = DOMAIN_RULES.get(domain, _GENERAL)
    return (lambda line: clean_line(line, rules)), True


def _none(domain: str) -> tuple[_LineCleaner, bool]:
    return (lambda line: line), False


CLEANINGS = {"light": _light, "none": _none}
