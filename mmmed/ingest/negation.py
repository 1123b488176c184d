"""Whether a sentence states, denies or leaves open what a pattern finds in it, in English and German.

Rules of NegEx (Chapman et al., J Biomed Inform 34:301, 2001) and ConText (Harkema et al., J Biomed Inform 42:839,
2009): triggers before and after a finding reach to the end of the sentence or to a word that ends their reach; what
looks like a trigger and is none ("no change in") is taken out first. German triggers after Cotik et al., BioTxtM 2016.
"""

from __future__ import annotations

import re
from enum import IntEnum

import regex

SLOWEST = 1.0  # seconds for a site's own pattern and one sentence


class Certainty(IntEnum):
    """What is said of a finding; of several mentions the greatest stands."""

    DENIED = 0
    OPEN = 1
    STATED = 2


def _any(*alternatives: str) -> re.Pattern[str]:
    return re.compile(rf"(?<![\w-])(?:{'|'.join(alternatives)})(?![\w])", re.I)


_CHANGE = (
    r"changes?|increase|decrease|worsening|improvement|progression|progress|reduction|enlargement|resolution|"
    r"difference|evolution|"
    r"(?:befund)?änderung(?:en)?|befunddynamik|dynamik|(?:größen)?zunahme|(?:größen)?abnahme|progredienz|regredienz|"
    r"rückgang|rückbildung|"
    r"besserung|verschlechterung|größenänderung|zweifel|doubt|veränderung (?:des|der|zum|gegenüber)"
)
_SEEN = (
    r"seen|identified|detected|present|demonstrated|visuali[sz]ed|evident|appreciated|found|noted|observed|shown|"
    r"visible|apparent|suspected|suggested|"
    r"reported|confirmed|recogni[sz]ed|(?:nach|auf)weisbar|nachgewiesen|erkennbar|abgrenzbar|vorhanden|darstellbar|"
    r"sichtbar|gesehen|gefunden|zu (?:sehen|"
    r"erkennen|finden)|vor(?:liegend)?|dargestellt|feststellbar|festgestellt|beobachtet|bestätigt|ersichtlich|"
    r"vorgefunden|auffällig"
)
_PSEUDO = _any(  # look like a denial and are none
    rf"(?:no|without|kein(?:e[nrsm]?)?|ohne)(?: \w+){{0,3}}? (?:{_CHANGE})",
    rf"(?:not|nicht) (?:{_SEEN}) (?:on|in|at) (?:the )?(?:prior|previous|earlier|old|outside)(?: \w+)?",
    rf"(?:in|auf) (?:der|den|dem) (?:vor\w+|alten?\w* \w+)(?: noch)? nicht (?:{_SEEN})",
    r"not only", r"not necessarily", r"nicht nur",
    r"not (?:significantly |appreciably |much )?(?:changed|increased|decreased|enlarged|improved|worse)",
    r"nicht (?:wesentlich |signifikant |weiter |mehr )?(?:verändert|zugenommen|abgenommen|größer|kleiner|"
    r"progredient|rückläufig|zunehmend|geändert)",
    r"no longer than", r"gram[- ]negative", r"not (?:been )?drained",
    r"(?:partially|partly|incompletely|nearly|almost|not|teilweise|partiell) (?:resolved|cleared)",
    r"not resolved", r"no longer (?:small|mild|subtle)", r"without (?:difficulty|complications?)",
    r"ohne komplikationen",
)  # fmt: skip
_OPEN_BEFORE = _any(
    r"possibl[ey]", r"probabl[ey]", r"likely", r"suspicious for", r"suspected", r"suspicions?(?: of| for)?", r"suspect",
    r"concern(?:s|ing)?(?: for| of)", r"worrisome for",
    r"(?:may|might|could|can)(?: also)? (?:represent|be|reflect|indicate|suggest)",
    r"question(?: of|able)?", r"equivocal",
    r"(?:cannot|can ?not|can't|could not|unable to|not|to|and|please)(?: \w+)? (?:exclude|rule out)",
    r"(?:does|do|did) not (?:exclude|rule out)", r"rule out", r"r/o",
    r"(?:evaluat\w+|assess\w*|evaluation|check\w*|look\w*|query|\?) for", r"query",
    r"differential(?: diagnosis)?(?: includes)?", r"consider(?:ation)?(?: of)?", r"suggest(?:s|ive|ing)?(?: of)?",
    r"raises?(?: the)?", r"if", r"versus", r"vs\.?",
    r"presumed", r"presumably", r"apparent", r"perhaps", r"uncertain", r"unclear(?: if| whether)?",
    r"risk (?:of|for)", r"potential",
    r"v\. ?a\.", r"va\.?", r"verdacht(?: auf)?", r"verdächtig(?: auf| für)?", r"fraglich(?:e[nrsm]?)?",
    r"mögliche(?:rweise|[nrsm])?", r"möglich", r"evtl\.?",
    r"eventuelle?[nrsm]?", r"wahrscheinlich(?:e[nrsm]?)?", r"vermutlich(?:e[nrsm]?)?", r"wohl", r"a\.? ?e\.",
    r"am ehesten", r"dd:?", r"differenzialdiagnos\w+",
    r"differentialdiagnos\w+", r"könnte(?:n)?", r"frage nach", r"z\. ?a\.", r"zum ausschluss",
    r"nicht (?:sicher )?auszuschließen\w*:?", r"unklar(?:e[nrsm]?)?", r"ggf\.?",
    r"falls", r"bei verdacht auf", r"suspekt\w*", r"scheint",
)  # fmt: skip
_OPEN_AFTER = _any(
    r"(?:can ?not|can't|could not|may not|not)(?: be)?(?: \w+)? (?:excluded|ruled out)",
    r"(?:is|are|remains?|was) (?:also )?(?:possible|suspected|likely|probable|questionable|"
    r"equivocal|uncertain|considered|unclear)", r"not excluded", r"(?:is|are) in the differential",
    r"nicht (?:\w+ )?(?:auszuschließen|ausschließbar|ausgeschlossen|auszuschliessen)",
    r"nicht (?:\w+ )?ausgeschlossen werden", r"fraglich", r"möglich", r"denkbar", r"wahrscheinlich",
    r"zu diskutieren", r"zu erwägen", r"nicht sicher", r"vermutet", r"unklar",
    r"suspected", r"possible", r"versus", r"vs\.?", r"in betracht",
)  # fmt: skip
_NOUN = (
    r"evidence|signs?|indication|suggestion|suspicion|radiographic evidence|findings?|features|history|trace"
)
_BEFORE = _any(
    r"no", r"not", r"without(?: any)?", r"w/o", r"absence of", r"absent", r"negative for", r"free of", r"clear of",
    r"den(?:ies|ied|ying)", r"rul(?:es|ed|ing) out",
    r"exclud(?:es|ed|ing)", r"resolved", r"resolution of", r"lack(?:s|ing)?(?: of)?", r"never(?: had)?", r"neither",
    r"nor", r"nil", r"none", r"fail(?:s|ed) to (?:\w+)",
    r"unremarkable for", r"non", r"unlikely", r"cleared of", r"nothing to suggest", r"instead of", r"rather than",
    r"cannot see", r"can't see", r"isn't", r"aren't", r"wasn't",
    r"doesn't", r"don't", r"didn't", rf"no(?: \w+)? (?:{_NOUN})(?: of| for| to suggest)?",
    r"kein(?:e[nrsm]?|erlei)?", r"ohne", r"nicht", r"ausschluss(?: von| eines| einer| des| der)?",
    r"ausgeschlossen(?:e[nrsm]?)?(?: werden)?", r"weder", r"noch", r"nie(?:mals)?",
    r"fehlende[nrsm]?", r"frei von", r"verneint", r"(?:vollständig(?:e|er)? )(?:rückbildung|regredienz)",
    r"negativ für", r"kaum",
)  # fmt: skip
_AFTER = _any(
    rf"(?:not|cannot|can't|no longer|never|nicht(?: mehr)?)(?: \w+){{0,2}}? (?:{_SEEN})", r"ruled out", r"excluded",
    r"absent", r"unlikely", r"(?:has|have|had|is|are|now|fully|completely)(?: \w+)? (?:resolved|cleared)",
    r"resolved", r"negative", r"negativ", r"none", r"isn't|aren't|wasn't", r"ausgeschlossen", r"verneint", r"fehlt",
    r"fehlen", r"liegt nicht vor", r"liegen nicht vor",
    r"not (?:a )?(?:feature|finding|concern)", r"unwahrscheinlich",
    r"vollständig (?:zurückgebildet|resorbiert|regredient)", r"nicht",
)  # fmt: skip
_ANSWERED = re.compile(
    r"[^:;,]{0,30}?[:=][ ]?(?:no|none|negative|absent|nil|0|kein(?:e[rs]?)?|nein|nicht|ohne|"
    r"negativ|-)(?!\w|\.\d)",
    re.I,
)
_ASKED = re.compile(r"[^.;!]{0,60}\?|[ ]?\(\?\)")
_SIZE = (
    r"rest\w*|small|moderate|large|trace|tiny|new|increas\w+|persist\w+|unchanged|stable|mild|marked|minimal|slight|left|"
    r"right|bilateral|dense|extensive|known|"
    r"kleine[nrsm]?|geringe[nrsm]?|große[nrsm]?|deutliche[nrsm]?|neue[nrsm]?|neu|zunehmende[nrsm]?|bekannte[nrsm]?|"
    r"stationäre[nrsm]?|diskrete[nrsm]?|mäßige[nrsm]?|"
    r"ausgeprägte[nrsm]?|minimale[nrsm]?|unveränderte[nrsm]?|linksseitige[nrsm]?|rechtsseitige[nrsm]?|"
    r"beidseitige[nrsm]?|persistierende[nrsm]?"
)
_END = re.compile(  # of a trigger's reach
    r"(?<![\w-])(?:but|however|although|though|yet|except(?: for)?|apart from|aside from|other than|besides|whereas|"
    r"while|which|still|nevertheless|only|just|there (?:is|are|was|were)|"
    r"because|since|secondary to|due to|in the setting of|consistent with|compatible with|with (?:an? )?(?:"
    + _SIZE
    + r")|and (?:an? )?(?:"
    + _SIZE
    + r")|"
    r"aber|jedoch|sondern|außer|ausser|bis auf|abgesehen von|allerdings|dagegen|hingegen|während|dafür|lediglich|"
    r"nur|bei (?:bekannt\w+|" + _SIZE + r")|"
    r"mit (?:eine[mnr] )?(?:" + _SIZE + r")|und (?:ein(?:e[nrsm]?)? )?(?:" + _SIZE + r")|es (?:besteht|zeigt|"
    r"findet)|im sinne|vereinbar mit|passend zu)(?![\w-])"
    r"|,[ ](?=(?:an?|ein(?:e[nrsm]?)?|" + _SIZE + r"|has|shows?|is|are|with|zeigt|jetzt|nun|now)(?![\w]))",
    re.I,
)
_LONG = 400  # characters of a sentence on each side of a finding that are looked at


def certainty(sentence: str, pattern: regex.Pattern[str]) -> Certainty | None:
    """What a sentence says of a finding; None if it does not name it.

    Raises `TimeoutError` if the pattern takes longer than `SLOWEST`, as nested repetition may.
    """
    found: Certainty | None = None
    for match in pattern.finditer(sentence, timeout=SLOWEST):
        before, after = (
            sentence[max(0, match.start() - _LONG) : match.start()],
            sentence[match.end() : match.end() + _LONG],
        )
        said = _said(before, match[0], after)
        found = said if found is None else max(found, said)
    return found


def _said(before: str, finding: str, after: str) -> Certainty:
    before = before[max((end.end() for end in _END.finditer(before)), default=0) :]
    cut = _END.search(after)
    later = after[: cut.start()] if cut else after
    before, later = _without_pseudo(before), _without_pseudo(later)
    if _ANSWERED.match(later):
        return Certainty.DENIED
    if _ASKED.match(after) or _OPEN_AFTER.search(later) or _last_is_open(before):
        return Certainty.OPEN
    if _BEFORE.search(before) or _AFTER.search(later):
        return Certainty.DENIED
    return Certainty.STATED


def _last_is_open(before: str) -> bool:
    """Whether a trigger of doubt stands before the finding, unless it is denied itself ("no suspected effusion")."""
    doubts = list(_OPEN_BEFORE.finditer(before))
    return bool(doubts) and not _BEFORE.search(before[: doubts[0].start()])


def _without_pseudo(text: str) -> str:
    return _PSEUDO.sub(lambda found: "_" * len(found[0]), text)
