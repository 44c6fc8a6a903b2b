"""Which option letters of a reply are only turned down, asked about or supposed: those choose nothing.

`mask` puts `HIDDEN` in their place, so that a rule that looks for letters does not see them:

    "It is not A but B"   "A is wrong, B"   "neither (a) nor (b)"   "The wrong answer is A"   "Is it A? It is B"   "答案不是A"
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import re
import string

HIDDEN = "□"

# Scripts that put no spaces between words: a Latin letter beside one of theirs stands alone.
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff"
# What may not stand before and behind a letter that stands alone.
ALONE = (rf"(?<![^\W{_UNSPACED}])(?<!\w['’-])", rf"(?![^\W{_UNSPACED}])(?!['’-]\w)")

_NEAR = 120  # characters on either side that are looked at


def _any(*phrases: str) -> str:
    """A pattern of any of some phrases; a blank in them is any white space."""
    return "(?:" + "|".join(phrase.replace(" ", r"\s+") for text in phrases for phrase in text.split("|")) + ")"


_NEGATION = _any(
    r"not|never|neither|nor|except|excluding|without|cannot|hardly|doubt|unlikely|if|whether|unless|suppose|none of|"
    r"\w+n['’]t|isnt|dont|wont",
    r"eliminat\w+|reject\w*|exclud\w+|dismiss\w*|avoid\w*|discard\w*|rul(?:e|es|ed|ing) out|rather than|instead of|other than",
    r"far from|anything but|wrong to|no (?:way|chance)|opposite of|(?:false|wrong|untrue|incorrect) that",
    r"(?:wrong|incorrect|false|eliminated|excluded|rejected)\s*[:=]|(?:wrong|incorrect|false|bad) (?:answers?|"
    r"options?|choices?|ones?|letters?)",
    r"no (?:es|sea|puede ser|la|elijo)|não (?:é|seja|pode ser|a|escolho)|non (?:è|sia|può essere|la)|pas|nicht|"
    r"keine?[rs]?|weder|noch",
    r"niet|geen|не|ни|nie|bukan|không phải(?: là)?|ليست?")
_NEGATION_UNSPACED = _any("不(?:是|选|選|为|為|应选|應選|该选|會是|会是|可能是)|并非|並非|而非|排除|除了|不应该选|不應該選")
# Words between a negation and its letter that change nothing.
_LINK = _any(
    r"a|an|the|any|correct|right|best|true|real|final|answers?|options?|choices?|letters?|be|been|being|is|are|was|"
    r"were|it|it['’]s|its",
    r"that|this|to|as|for|of|think|believe|say|saying|choos(?:e|ing)|pick(?:ing)?|select(?:ing)?|go(?:ing)?|with|"
    r"would|could|can|should",
    r"case|certainly|definitely|really|actually|necessarily|simply|clearly|either|both|all|i|you|there|la|le|les|el|"
    r"los|une?|una|il|lo|die|der|das|de|het|o|os",
    r"respuesta|resposta|réponse|risposta|antwort|antwoord|opción|opção|option|opzione|alternativa|correct[ao]|"
    r"corret[ao]|richtige",
    r"es|est|ist|é|è|ответ|вариант|это|правильный")
_OPENING = r"[\s(\[{*\"'`“]*"
_BEFORE = re.compile(rf"(?:(?<!\w){_NEGATION}(?!\w)(?:{_OPENING}(?<!\w){_LINK}(?!\w))*|{_NEGATION_UNSPACED}(?:选项|選項|答案)?)"
                     rf"{_OPENING}\Z|(?:wrong|incorrect|false|eliminated|excluded|"
                     rf"rejected)[^.;!?\n]{{0,20}}[:=][^.;!?\n]*{HIDDEN}\W*,{_OPENING}\Z",
                     re.IGNORECASE)

_FILLER = _any(r"is|are|was|were|be|been|being|as|seems?|looks?|appears?|can|could|would|should|must|may|might|both|"
               r"all|also|clearly",
               r"obviously|definitely|therefore|thus|just|simply|to|which|that|the|(?-i:an?)|very|es|está|est|ist|"
               r"sind|são|son|sont|é|è|это|una?|la|die")
_WRONG = _any(
    r"wrong|incorrect|false|inaccurate|impossible|invalid|unlikely|irrelevant|excluded|eliminated|rejected|dismissed|ruled out",
    r"not (?:it|correct|right|true|possible|the|an?)|no good|no match|least|less likely|falsch|inkorrekt|unrichtig|"
    r"incorrect[ao]s?|"
    r"incorret[ao]s?|inexacte?",
    r"fals[ao]s?|fausse?s?|faux|errad[ao]s?|errónea?|sbagliat[ao]|errat[ao]|fout|onjuist|неверн\w*|неправильн\w*|"
    r"ошибоч\w*|yanlış|değil")
_REFUSAL = _any(
    r"not|never|out|cannot|\w+n['’]t|does not|do not|no (?:es|son|puede|corresponde|coincide)|não (?:é|são|pode|corresponde)",
    r"non (?:è|sono|può)|n['’]est pas|ne \w+ pas|nicht|niet|не")
_REFUSAL_UNSPACED = _any(
    "(?:是|也|都|就|为|為|显然|明显|项|項)*(?:不|错|錯|并非|並非|有误|有誤|被排除|可以排除|可排除)",
    "では(?:ない|なく|ありません)|じゃない|は(?:誤り|間違い|不正解|違|正しくない)",
    "(?:은|는|이|가)?\\s*(?:아니|아닙|틀렸|틀린|오답)")
# "A, not B" says nothing against A.
_CONTRAST = rf"(?!\W*[,;–-]+\s*(?:not|nicht|non|no|pas|niet|не|never)\s+(?:{_LINK}\s+)*[(\[*]*(?-i:[A-Z])(?!\w))"
_BEHIND = re.compile(
    _CONTRAST + rf"[)\]}}*\"'`”]*(?:\s*\((?:{_WRONG}|no\b)[^()\n]*\)|\s*[✗✘❌×]|"
    rf"\s*\?\s*no\b"
    rf"|\s*[:–-]\s*no\s*(?:[.,;!\n]|\Z)"
    rf"|(?:\s*\([^()\n]{{1,80}}\))?(?:\s*[,:=–-]+\s*(?:{_FILLER}\s+)*{_WRONG}(?!\w)|\s*,\s+(?:{_FILLER}\s+)+{_REFUSAL}(?!\w)"
    rf"|\s+(?:{_FILLER}\s+)*(?:{_WRONG}|{_REFUSAL})(?!\w)|\s*{_REFUSAL_UNSPACED}))", re.IGNORECASE)

_AND = _any(r"or|and|nor|y|o|e|ou|et|und|oder|noch|и|или|ni")
_JOINT = re.compile(rf"[)\]}}*\"'`”]*\s*(?:,?\s*(?:(?<!\w){_AND}(?!\w)|[/&和与與或及、])\s*"
                    r"(?:options?\s+|choices?\s+)?|(?P<comma>,)\s*)"
                    r"[(\[{*\"'`“]*", re.IGNORECASE)
_QUESTION = re.compile(r"(?:^|[.!?;:\n。]|\bso\b)\s*(?:is|are|was|could|can|would|should|does|do|did|what|how|why|"
                       r"which|or)\b[^.!?;:\n。]*\Z",
                       re.IGNORECASE)
_DOUBTED = re.compile(r"\s+(?:is|was|seems)\b[^.!?;:\n。]{0,60}\?")  # "A is right? …"
_ASKED = re.compile(rf"[^.!?;:\n。]{{0,{_NEAR}}}\?")


def mask(reply: str, options: Sequence[str]) -> str:
    """The reply with `HIDDEN` for every letter that it turns down, asks about or supposes.

    Args:
      options: texts of A, B, …; where one is repeated behind its letter ("B. Not open"), it is no verdict on it.
    """
    letters, (before, behind) = string.ascii_uppercase[: len(options)], ALONE
    one = re.compile(rf"{before}[{letters}]{behind}|(?<=[(\[{{])[{letters.lower()}](?=[)\]}}])")
    shown = list(reply)
    for places in _runs(reply, [match.start() for match in one.finditer(reply)]):
        ahead, after = "".join(shown[max(0, places[0] - _NEAR) : places[0]]), reply[places[-1] + 1 :]
        open_question = len(places) > 1 or _QUESTION.search(ahead) is not None
        asked = _ASKED.match(after) is not None and open_question or _DOUBTED.match(after) is not None
        if asked or _BEFORE.search(ahead) is not None or _refused(after, options[letters.index(reply[places[-1]].upper())]):
            for place in places:
                shown[place] = HIDDEN
    return "".join(shown)


def _refused(after: str, option: str) -> bool:
    """Whether what follows a letter turns it down; `option` is its text."""
    words = re.findall(r"\w+", option)
    echo = re.match(r"\W{0,8}" + r"\W+".join(map(re.escape, words)) + r"(?!\w)", after, re.IGNORECASE) if words else None
    if echo is None:
        return _BEHIND.match(after[:_NEAR]) is not None
    rest = after[echo.end() : echo.end() + _NEAR]
    return re.match(r"[)\]}*\"'`”]*\s+\w", rest) is not None and _BEHIND.match(rest) is not None


def _runs(reply: str, places: Sequence[int]) -> Iterator[list[int]]:
    """Letters that are joined, "A or B", "A, B and C"; a comma joins only where a word does so behind it."""
    run: list[int] = []
    commas = 0  # at the run's end, which no word has joined yet
    for place in places:
        joint = _JOINT.fullmatch(reply[run[-1] + 1 : place]) if run and place - run[-1] < _NEAR else None
        if joint is None:
            yield from _split(run, commas)
            run, commas = [], 0
        elif joint["comma"] is None:
            commas = 0
        else:
            commas += 1
        run.append(place)
    yield from _split(run, commas)


def _split(run: list[int], commas: int) -> Iterator[list[int]]:
    kept = len(run) - commas
    if run[:kept]:
        yield run[:kept]
    yield from ([place] for place in run[kept:])
