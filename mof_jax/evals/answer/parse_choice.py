"""Which option a reply chooses, read off its words by fixed rules; no judge, no network.

What a reply turns down ("A is wrong", "not B"), asks about or supposes is left out first, see `denials`. The rules, in order:

    1  the reply is a letter, in whatever brackets, stars or punctuation        `B`  `(b).`  `**C**`  `\\boxed{D}`  `Ｂ`
    2  one is said to be the answer, in one of some languages; a small one
       only in brackets or at the end ("the answer is a cat")                   `The answer is (b) because …`  `答案是B`
    3  one labels a line, and no other is joined to it                          `B. a cat`  `(b) a cat`
    4  one follows "option" or "choice"                                         `Option B`
    5  one stands alone: in brackets or as a capital that is no word
       ("A cat" is about a cat)                                                 `I would say B, since …`
    6  the reply holds the words of exactly one option, not turned down; of
       several that contain each other of the longest                          `It is a cat.`

The first rule that finds letters decides: where it finds several, where rules 3 and 4 contradict each other, or where the reply
takes back what it said ("A. No, wait: B"), no option is chosen. Letters that the question does not have are not letters. A reply
that no rule reads is wrong, and counted.
"""

from __future__ import annotations

from collections.abc import Sequence
import re
import string
import unicodedata

from mof_jax.evals.answer.denials import ALONE, mask

VERSION = "letters/2"

# Whether a capital A or I is a word and no option: what follows it says so.
_WORD = (r"(?<=[AI])\s+(?!(?:is|and|or|nor|because|since|as|it|shows?|seems?|looks?|must|would|says?|but|so|though|"
         r"although|while|which|if|"
         r"when|could|should|might|may|can|will|was|has|does|did|not|rather|instead|too|also|here|fits?|matches)\b)[a-z]")
_WORDS = re.compile(r"[^\W_]+")
_FRAME = " \t\r\n*_`'\".,:;!?()[]{}<>"

_GAP = r"[\s*_`'\"“”<>]*"
_NOUN = (r"(?:answer|option|choice|letter|respuesta|opción|resposta|opção|alternativa|réponse|risposta|opzione|"
         r"antwort|antwoord|"
         r"odpowied[źz]|cevap|yanıt|jawaban(?:nya)?|đáp án|ответ(?:ом)?|вариант|الإجابة|الجواب|उत्तर)")
_RIGHT = (r"(?:(?:correct[ao]?|right|corret[ao]|cert[ao]|correcte|exacte|bonne|esatta|giusta|richtig|juist|"
          r"correctamente|верный|"
          r"правильный|الصحيحة|सही)\s+)?")
_IS = (r"(?:is|was|would be|should be|must be|has to be|will be|es|sería|seria|é|è|est|serait|ist|lautet|wäre|"
       r"adalah|là|هي|هو|to|"
       r"jest)(?!\w)")
_VERB = (r"i(?:['’]d| would| will|['’]ll)? (?:choose|pick|select|go with|go for|vote for)|i (?:chose|picked|"
         r"selected)|elijo|escojo|"
         r"elegiría|escolho|je choisis|scelgo|ich wähle|ich nehme|ik kies|выбираю|seçiyorum")
_ENDS = r"(?=[(\[*]*[A-Za-z][)\]*]*\s*(?:[.!\n]|$))"  # behind a word that concludes: a letter and nothing else
_CUES = re.compile(
    rf"(?<!\w){_NOUN}\s*{_RIGHT}(?:[*_`'\"]*\s*{_IS}|[*_`'\"\s]*(?:[:>–—=→-]|->|=>))\s*:?"
    rf"|(?<!\w)(?:{_VERB})(?!\w)"
    r"|答案?\s*(?:应该|應該|应|應|就)?(?:是|为|為|选|選)?\s*:?|(?:选择|選擇|选项|選項|选|選)(?:是|为|為)?\s*:?"
    r"|(?:正解|答え)\s*(?:は|:)?|(?:정답|답)\s*(?:은|는|:)?"
    rf"|(?<!\w)(?:so|therefore|thus|hence|finally)(?!\w),?\s*(?:it(?: is|['’]s| must be)\s*)?{_ENDS}",
    re.IGNORECASE)
_FILL = (r"(?:(?i:option|choice|letter|answer|opción|opção|opzione|alternativa|вариант|in|the|la|clearly|definitely|"
         r"probably|most likely|"
         rf"likely)(?!\w){_GAP})*")
_NAMED = re.compile(r"(?<!\w)(?:answer|option|choice|opción|opção|opzione|alternativa|вариант)\s+", re.IGNORECASE)
_CLOSED = r"[)\]}*\"'`]*"
_CALLED = (rf"{_CLOSED}(?:\s*\([^()\n]{{1,80}}\))?\s+(?:is|would be|must be|"
           rf"seems)\s+(?:the\s+)?(?:most\s+)?(?:correct|right|best|accurate|answer)\b")
_TELLS = rf"{_CLOSED}\s+(?:shows?|says?|describes?|depicts?|has|mentions?|states?|refers?|claims?|suggests?)\b"
_RETRACTION = re.compile(r"\b(?:wait|sorry|hmm+|actually|correction|scratch that|on second thoughts?|i mean|"
                         r"mistaken?)\b|(?<=[.!?\n])\s*no\b[,.:!]",
                         re.IGNORECASE)
_DENIED_WORDS = re.compile(r"\b(?:not|no|never|without|neither|nor|cannot|nicht|keine?n?|pas|sin|sem)(?: (?:a|an|"
                           r"the|any|is|be|really|of))* $")
_ABSENT_WORDS = re.compile(r"^(?:is |are |was |were |would be )?(?:(?:not|never) (?:visible|present|there|in|"
                           r"correct|right|shown|seen|true)|"
                           r"wrong|incorrect|false|absent|missing)\b")


def parse(reply: str, options: Sequence[str]) -> int | None:
    """The number of the option that a reply chooses, None if the rules above find none or several.

    Args:
      options: texts of A, B, …, at most 26.
    """
    letters = string.ascii_uppercase[: len(options)]
    text = plain(reply)
    bare = text.strip(_FRAME).upper()
    if len(bare) == 1 and bare in letters:
        return letters.index(bare)
    shown = mask(text, options)
    found = _lettered(shown, letters)
    if found:
        return None if len(found) > 1 or _taken_back(shown, letters, found) else letters.index(found.pop())
    named = _named(text, options)
    return named.pop() if len(named) == 1 else None


def plain(reply: str) -> str:
    """A reply without ways of writing that say nothing: wide letters, TeX's dollars and fonts. What TeX boxes is an answer."""
    text = unicodedata.normalize("NFKC", reply).replace("$", " ").replace("\\(", " ").replace("\\)", " ")
    text = re.sub(r"\\(?:text|math|m)\w{0,8}\s*\{([^{}]*)\}", r"\1", text)
    return re.sub(r"\\f?boxed?\s*\{", " answer: {", text)


def _lettered(shown: str, letters: str) -> set[str]:
    """What the first of rules 2 to 5 finds that finds any letter."""
    if said := _said(shown, letters):
        return said
    labels, lines = _labels(shown, letters)
    named = {letter for letter, _ in _mentions(shown, letters, optional=True)}
    loose = _alone("\n".join(line for n, line in enumerate(shown.split("\n")) if n not in lines), letters)
    told = {letter for letter, told in _mentions(shown, letters, optional=True) if told}
    if len(labels) == 1 and not (named - told | loose - told) - labels:
        return labels
    if named and len(named | loose) == 1:
        return named
    return labels | named | loose if labels or named else _alone(shown, letters)


def _said(shown: str, letters: str) -> set[str]:
    """Rule 2: the letters behind the cues, with those that are joined to them, and letters that are called right."""
    before, behind = ALONE
    small = letters.lower()
    follows = re.compile(rf"{_GAP}{_FILL}(?:[(\[{{]?{before}([{letters}]){behind}(?!{_WORD})|[(\[{{]([{small}])[)\]}}]|"
                         rf"{before}([{small}])[.*_`'\"\s)}}\]]*$)")
    joined = re.compile(rf"\W*(?:\b(?:and|or)\b|[,/&和与與或及、])\W*(?:(?:option|choice|maybe|perhaps|possibly|even)\s+)*"
                        rf"(?:([{letters}]){behind}(?!{_WORD})|(?<=[(\[])([{small}])[)\]])")
    found: set[str] = {match[1] for match in re.finditer(rf"{before}([{letters}]){behind}{_CALLED}", shown)}
    found |= {line for text in shown.split("\n") if len(line := text.strip(_FRAME)) == 1 and line in letters}
    for cue in _CUES.finditer(shown):
        for match in (first := follows.match(shown, cue.end()), first and joined.match(shown, first.end())):
            found |= {group.upper() for group in match.groups() if group} if match else set()
    return found


def _labels(shown: str, letters: str) -> tuple[set[str], set[int]]:
    """Rule 3: letters at the beginning of a line, in brackets or before a point, a bracket or a colon; and the lines."""
    either = letters + letters.lower()
    label = re.compile(rf"[ \t*_`'\"]*(?:[(\[]([{either}])[)\]]|([{either}])[.):])(?=\W|$){_not_joined(letters)}")
    found = {n: match for n, line in enumerate(shown.split("\n")) if (match := label.match(line))}
    return {(match[1] or match[2]).upper() for match in found.values()}, set(found)


def _not_joined(letters: str) -> str:
    """A pattern of what does not go on with "and B", "or (b)", ", C"."""
    return rf"(?!\W*(?:\b(?:and|or)\b|,|/)\W*(?:[{letters}]\b|(?<=[(\[])[{letters.lower()}][)\]]))"


def _mentions(shown: str, letters: str, optional: bool = False) -> list[tuple[str, bool]]:
    """Letters that stand alone, or that follow "option", each with whether it is only described ("B shows a dog")."""
    before, behind = ALONE
    either = letters + letters.lower()
    one = rf"[(\[{{]([{either}])[)\]}}]|{before}([{letters}]){behind}(?!{_WORD})"
    if optional and (small := re.sub("[ai]", "", letters.lower())):  # "option a" may be about something else
        one += rf"|{before}([{small}]){behind}"
    tells = re.compile(_TELLS)
    starts = [cue.end() for cue in _NAMED.finditer(shown)] if optional else None
    pattern = re.compile(one)
    found = pattern.finditer(shown) if starts is None else filter(None, (pattern.match(shown, start) for start in starts))
    letter = lambda match: next(group for group in match.groups() if group).upper()
    return [(letter(match), tells.match(shown, match.end()) is not None) for match in found]


def _alone(shown: str, letters: str) -> set[str]:
    """Rule 5: letters that stand alone; those that are only described give way to others."""
    mentions = _mentions(shown, letters)
    return {letter for letter, told in mentions if not told} or {letter for letter, _ in mentions}


def _taken_back(shown: str, letters: str, found: set[str]) -> bool:
    """Whether other letters follow a word that takes back what stands before it."""
    cuts = list(_RETRACTION.finditer(shown))
    return bool(cuts) and bool(_alone(shown[cuts[-1].end() :], letters) - found)


def _named(reply: str, options: Sequence[str]) -> set[int]:
    """Rule 6: options whose words stand in the reply in a row and are not turned down ("not a cat"), without those whose words a
    found one contains."""
    tidy = lambda text: " " + " ".join(_WORDS.findall(re.sub(r"n['’]t\b", " not", text.lower()))) + " "
    reply, texts = tidy(reply), [tidy(option) for option in options]
    found = {i for i, text in enumerate(texts) if text.strip() and _says(reply, text)}
    return {i for i in found if not any(texts[i] in texts[j] and texts[i] != texts[j] for j in found)}


def _says(reply: str, words: str) -> bool:
    """Whether some words stand in a reply where nothing turns them down."""
    at = reply.find(words)
    while at >= 0:
        ahead, after = reply[max(0, at - 60) : at + 1], reply[at + len(words) : at + len(words) + 60]
        if _DENIED_WORDS.search(ahead) is None and _ABSENT_WORDS.match(after) is None:
            return True
        at = reply.find(words, at + 1)
    return False
