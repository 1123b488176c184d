"""Patterns of identifiers that nothing is known of: what has a form, and names that a title or a label introduces.

English and German. A name without introduction has no form: a model finds it (`entities`).
"""

from __future__ import annotations

import re

from mmmed.deidentify.places import PLACES
from mmmed.deidentify.words import NO_NAMES, PARTICLES, WORDS

INTRODUCED = ("ADDRESS", "ID", "NAME", "PHONE", "PLACE")  # a word before them stays

_PARTS = "|".join(PARTICLES)
_CAPITAL = "A-ZÄÖÜÀ-ÞŁŚŻŠŽČŘĐİ"
_TOKEN = rf"(?:[{_CAPITAL}][\w'’-]{{1,40}}|[{_CAPITAL}]\.)"
_NO_NAME = "|".join(sorted(map(re.escape, NO_NAMES), key=len, reverse=True))
_ANY_WORD = "|".join(sorted(map(re.escape, WORDS), key=len, reverse=True))
_LATER = rf"(?!(?i:{_NO_NAME})(?![\w'’-])){_TOKEN}(?!\w*:)"
_REST = rf"(?:(?:,[ ]?|[ ])(?:(?:{_PARTS})[ ’']){{0,3}}{_LATER}){{0,3}}"
_LED = rf"(?:(?i:{_PARTS})[ ’']){{0,3}}"
_FULL_NAME = rf"{_LED}{_LATER}{_REST}"  # of which any part may be a word such as Klein
_RARE_NAME = rf"{_LED}(?!(?i:{_ANY_WORD})(?![\w'’-])){_TOKEN}(?!\w*:){_REST}"  # which begins with no word
_SHORT_TITLES = r"OA|OÄ|CA|PD|Fr\.|Hr\.|Sr\.|Sra|Mme|Hrn\."
_LONG_TITLES = (
    r"(?i:Drs?|Prof|Mrs|Miss|Mister|Herrn?|Frau|Fräulein|Doctor|Doktor|Nurse|Schwester|Pfleger|Professor|Sir|Rev)"
    r"|Mr|Ms|M[RS](?=\.)|Dipl\.-(?:Med|Psych|Ing)|Priv\.-?Doz|Privatdozent(?:in)?|Oberarzt|Oberärztin|Chefarzt|"
    r"Chefärztin|Assistenzarzt"
    r"|Assistenzärztin|Facharzt|Fachärztin|Stationsarzt|Stationsärztin|Hausarzt|Hausärztin|Kolleg(?:e|en|in)"
)
_CHAIN = (  # further titles after the first
    r"(?:(?i:Dr|Prof|med|habil|univ|dent|rer|nat|phil|h\.? ?c|mult|PD|Priv\.-?Doz|Dipl\.-\w+|OA|OÄ|CA|Oberarzt|"
    r"Oberärztin|Chefarzt|Kolleg(?:e|en|in)|Herrn?|Frau|MD)\b\.?,?\s{1,2}){0,6}"
)
_DONE = (
    r"dictated|signed|reported|read|interpreted|reviewed|approved|verified|finali[sz]ed|transcribed|performed|"
    r"ordered|requested|referred|"
    r"attested|authored|prepared|seen|examined|supervised|co-?signed|edited|validated|authenticated|discussed|"
    r"communicated|called|"
    r"telephoned|paged|notified|given|conveyed|relayed|reviewing|scheduled|typed|entered|completed|electronically"
)
_GETAN = (
    r"befundet|diktiert|geschrieben|vidiert|unterzeichnet|unterschrieben|freigegeben|erstellt|validiert|"
    r"kontrolliert|untersucht|überwiesen|"
    r"zugewiesen|signiert|gesehen|besprochen|verfasst|gezeichnet|visitiert|operiert|behandelt|mitgeteilt|informiert|"
    r"angefordert|"
    r"veranlasst|begutachtet|gegengezeichnet|übermittelt|Rücksprache|telefonat"
)
_LABELS = (
    r"patient(?:in)?(?:[ ']{0,2}s?[ ]name|enname)?|pat\.?|(?:full |first |last |sur|fore|family |vor|nach|familien|"
    r"geburts|mädchen)?name|dear|"
    r"attending|resident|fellow|radiologists?|radiologe|radiologin|physician|provider|technologist|technician|"
    r"surgeon|author|consultant|"
    r"registrar|pcp|nurse|sonographer|reader|readers|interpreter|next of kin|emergency contact|contact(?: person)?|"
    r"caregiver|guardian|"
    r"(?:referring|ordering|requesting|attending|primary|performing|reading|interpreting|supervising|signing|family)"
    r"(?: care)? (?:physician|provider|doctor|clinician|radiologist|md|dr)|clinician|cc|to|from|an|von|signature|"
    r"(?:ober|chef|assistenz|stations|haus|fach)?(?:arzt|ärztin)|befunder(?:in)?|überweiser|zuweiser|einweiser|"
    r"operateur(?:in)?|assistenz|"
    r"mtra?|unterschrift|anforderer|ansprechpartner(?:in)?|verfasser(?:in)?|gutachter(?:in)?|untersucher(?:in)?|"
    r"wife|husband|daughter|son|mother|father|brother|sister|partner|spouse|ehefrau|ehemann|tochter|sohn|mutter|"
    r"vater|bruder|schwester|"
    r"betreuer(?:in)?|angehörige[rn]?"
)
_KIN = (
    r"wife|husband|daughter|son|mother|father|brother|sister|niece|nephew|ehefrau|ehemann|tochter|sohn|mutter|vater|"
    r"bruder|betreuer(?:in)?|"
    r"lebensgefährt(?:e|in)|named|namens"
)
_CREDENTIALS = (
    r"M\.?D\.?|D\.?O\.?|MBBS|MBChB|FRC[RSP]|R\.?N\.?|PA-C|N\.?P\.?|Ph\.?D\.?|DDS|FACR|RT\(R\)|CRNP|APRN"
)
_NAMES = (
    rf"(?<![\w.])(?:{_LONG_TITLES})\b\.?,?[ \u00a0]{{1,2}}{_CHAIN}({_FULL_NAME})",
    rf"(?<![\w.])(?:DR)[ ]{{1,2}}({_RARE_NAME})",
    rf"(?<![\w.])(?:{_SHORT_TITLES})[ \u00a0]{{1,2}}{_CHAIN}({_FULL_NAME})",
    rf"(?<!\w)(?i:(?:{_DONE})(?:[ ](?:and|&|electronically|digitally|\w+ed)){{0,2}}[ ](?:by|with|to|"
    rf"from))\s*[:–-]\s*{_CHAIN}({_FULL_NAME})",
    rf"(?<!\w)(?i:(?:{_DONE})(?:[ ](?:and|&|electronically|digitally|\w+ed)){{0,2}}[ ](?:by|with|to|"
    rf"from))\s{{1,2}}{_CHAIN}({_RARE_NAME})",
    rf"(?<!\w)(?i:(?:{_GETAN})[ ](?:von|durch|mit|an))\s*[:–-]\s*{_CHAIN}({_FULL_NAME})",
    rf"(?<!\w)(?i:(?:{_GETAN})[ ](?:von|durch|mit|an))\s{{1,2}}{_CHAIN}({_RARE_NAME})",
    rf"(?<!\w)(?i:{_LABELS})[ ]?[:=]\s{{0,3}}{_CHAIN}({_FULL_NAME})",
    rf"(?<!\w)(?i:{_KIN}),?[ ](?:(?i:is|heißt|Herr|Frau)[ ])?({_RARE_NAME})",
    rf"(?<!\w)(?i:gez\.?|i\.[ ]?A\.|ppa\.?)[ ]?:?\s{{0,2}}{_CHAIN}({_FULL_NAME})",
    rf"(?i:Grü(?:ßen|ssen|ße)|regards|sincerely|hochachtungsvoll|MfG),?\s{{1,6}}{_CHAIN}({_FULL_NAME})",
    rf"(?<!\w)(?:Dear|Liebe[rn]?|Sehr geehrte[rn]?)[ ]{_CHAIN}({_FULL_NAME})",
    rf"(?<!\w)(?:[Pp]at(?:ient(?:in)?|\.))[ ]({_RARE_NAME})(?=[ ,]{{1,2}}[a-zäöü(*])",
    rf"(?<!\w)({_RARE_NAME}),?[ ](?:{_CREDENTIALS})(?!\w)",
)
_MONTHS = (
    r"Jan(?:uary|uar)?|Jän(?:ner)?|Feb(?:ruary|ruar)?|Mar(?:ch)?|März|Mär|Mrz|Apr(?:il)?|May|Mai|June?|Juni|July?|Juli|"
    r"Aug(?:ust)?|Sept?(?:ember)?|O[ck]t(?:ober)?|Nov(?:ember)?|De[cz](?:ember)?"
)
_NUMBER_WORDS = (
    r"MRN|PID|Patienten-?(?:nummer|ID)|Pat\.?-?(?:Nr|ID)|Aufnahme(?:nummer|-?Nr)|Auftrags?(?:nummer|-?Nr)|"
    r"Vorgangs?(?:nummer|-?Nr)|KVNR|"
    r"Akten(?:zeichen|-?Nr)|Az|NHS(?:\s*no)?|CHI|FIN|CSN|encounter|(?:hospital|unit|NHS|lab|visit|encounter|"
    r"specimen|request|reference|ref|chart|file|medical record)"
    r"\s*(?:id|no|number|nr|#)|Untersuchungs?(?:nummer|-?Nr)|Geräte(?:nummer|-?Nr)|Serien(?:nummer|-?Nr)|"
    r"Personal(?:nummer|-?Nr)|Anforderungs?(?:nummer|-?Nr)|patient\s*(?:id|no|number|nr)|record\s*(?:no|number|#)|"
    r"account|acct|acc(?:ession)?(?:\s*(?:no|number|#))?|"
    r"case\s*(?:no|number)|Fall(?:nummer|-?Nr)|Pat(?:ienten)?-?(?:ID|Nr)|policy|insurance|member|"
    r"Versicherten(?:nummer|-?Nr)|"
    r"licen[cs]e|certificate|passport|serial|S/N|SN|device\s*(?:id|no)|lot|VIN|plate|Kennzeichen|study\s*id|order"
)
RECOGNISERS: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("EMAIL", re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,8}")),
    ("URL", re.compile(r"(?:https?://|ftp://|www\.)\S+"
        r"|\b(?:[a-z\d-]{1,63}\.){1,8}(?:com|org|net|edu|gov|info|io|mil|biz|de|at|ch|eu|uk|fr|nl|pl|dk)\b"
        r"(?:[:/]\S*)?", re.I)),
    ("ID", re.compile(r"\b(?:[\da-f]{2}[:-]){5}[\da-f]{2}\b|\b[\da-f]{4}\.[\da-f]{4}\.[\da-f]{4}\b"
        r"|\b[\da-f]{8}(?:-[\da-f]{4}){3}-[\da-f]{12}\b", re.I)),
    ("IP", re.compile(r"(?<![\w:])(?=[\da-f:]*::|(?:[\da-f]{1,4}:){7})"
        r"[\da-f]{1,4}(?:::?[\da-f]{1,4}){2,7}(?![\w:])", re.I)),
    ("IP", re.compile(r"(?<![\w:])(?=[\da-f]{0,4}:[\da-f:]{0,38}(?![\w:]))(?=[\da-f:]{0,38}::)[\da-f:]{3,39}", re.I)),
    ("ID", re.compile(  # UIDs, IBAN, vehicle identification, German pension insurance, letters among digits
        r"(?<![\w.])\d(?:\.\d{1,30}){5,30}(?![\w.])|\b[A-Z]{2}\d{2}\s?[A-Z\d]{4}(?:\s?\d{4}){2,6}(?:\s?\d{1,4})?\b"
        r"|\b(?=[A-Z]*\d)(?=\d*[A-Z])[A-HJ-NPR-Z\d]{17}\b|\b\d{2}\s?\d{6}\s?[A-Z]\s?\d{3}\b"
        r"|\b(?=(?:[A-Z]{0,9}\d){4})(?=\d{0,20}[A-Z])[A-Z\d]{8,20}\b|\b[A-Z]{2,5}-\d{4}-\d{3,9}\b"
        r"|\b(?=[A-Za-z]{0,60}\d)(?=\d{0,60}[A-Za-z])[A-Za-z\d]{20,62}\b")),
    ("ID", re.compile(  # cards, tax, health and national numbers in groups: US, DE, UK, AU, SE, FI
        r"(?<![\w-])(?:\d{4}(?:[ -]\d{4}){3}|\d{4}[ -]\d{6}[ -]\d{5}|\d{2} \d{3} \d{3} \d{3}|\d{4} \d{5} \d|\d{2}-\d{7}"
        r"|\d{6}(?:\d{2})?[-+]\d{3}[\dA-Z]|\d[A-Z][A-Z\d]\d-?[A-Z][A-Z\d]\d-?[A-Z]{2}\d{2}"
        r"|[A-Z]{2}(?: ?\d{2}){3} ?[A-D])(?![\w-])")),
    ("ID", re.compile(r"(?<![\w-])[A-ZÄÖÜ]{1,3}-[A-Z]{1,2} \d{2,4}[EH]?(?![\w.,]\d|\w)")),  # German number plates
    ("ID", re.compile(r"\b(?:Kennzeichen|(?:licen[cs]e |number )?plate|registration)\b[\s:]{1,3}"
        r"([A-ZÄÖÜ\d]{1,4}[- ]{0,2}"
        r"[A-Z\d]{0,4}[- ]?\d{1,4}[A-Z]{0,3})\b")),
    ("IP", re.compile(r"(?<![\d.])(?:\d{1,3}\.){3}\d{1,3}(?![\d.])")),
    ("SSN", re.compile(r"(?<!\d)\d{3}([- ])\d{2}\1\d{4}(?!\d)")),
    (
        "DATE",
        re.compile(
            r"(?<![\d.])(?:\d{1,2}([./-])\s?\d{1,2}\1\s?(?:\d{4}|\d{2})|\d{4}([./-])\d{1,2}\2\d{1,2}|"
            r"(?:19|20)\d{2}(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01]))(?!\d|\.\d)"
            rf"|\b\d{{1,2}}(?:st|nd|rd|th|\.)?(?:\s*(?:of\s+)?|-)(?:{_MONTHS})\b\.?(?:-\d{{2,4}}\b|"
            rf",?\s*(?:'?\d{{4}}|'\d{{2}}))?"
            rf"|\b(?:{_MONTHS})\b\.?\s+\d{{1,2}}(?:st|nd|rd|th)?\b(?:,?\s*(?:19|20)\d{{2}})?"
            rf"|\b(?:{_MONTHS})\b\.?,?\s+(?:19|20)\d{{2}}\b"
            r"|(?<![\d/.])(?:0?[1-9]|1[0-2])/(?:19|20)\d{2}(?![\d/])|(?<![\d-])(?:19|20)\d{2}-(?:0[1-9]|"
            r"1[0-2])(?![\d-])",
            re.I,
        ),
    ),
    ("DATE", re.compile(rf"(?<![\w])\d{{1,2}}[ .]?(?:{_MONTHS})[ .]?(?:\d{{4}}|\d{{2}})(?!\w)|"
        rf"\b(?:{_MONTHS})-\d{{1,2}}-\d{{2,4}}\b"
        r"|(?<![\w.])\d{1,2}\.\s?\d{1,2}\.\s?'?(?:\d{4}|\d{2})(?![\d.])|(?<![\d.,])(?:0?[1-9]|1[0-2])\.(?:19|"
        r"20)\d{2}(?![\d.])"
        r"|\b\d{4}\s?/\s?\d{1,2}\s?/\s?\d{1,2}\b|\b(?:the\s)?\d{1,2}(?:st|nd|rd|th)\s(?:of\s)?(?:this|last)\smonth\b",
        re.I)),
    ("DATE", re.compile(r"\b(?:on|am|vom|since|seit|until|bis|from|dated?|admitted|discharged|ab|zum|of|prior|"
        r"comparison|compared (?:to|with)|"
        r"CT|MRI?|CXR|vs|exam|study|film|DOS|DOA|zuletzt|Voraufnahmen? (?:vom|von))\s{0,2}:?\s{0,2}"
        r"((?:0?[1-9]|[12]\d|3[01])[./](?:0?[1-9]|[12]\d|3[01])(?:\.(?!\d)|(?![\d./%]))"
        r"(?!\s*(?:mm|cm|l|kg)\b))", re.I)),
    ("DATE", re.compile(r"(?<=\bborn )(?:in )?(?:19|20)\d{2}\b|(?<=\bgeb\. )(?:19|20)\d{2}\b", re.I)),
    (
        "ID",
        re.compile(
            rf"(?<=\b)(?:{_NUMBER_WORDS})\b\s*(?:[:#.=]|is|Nr\.?|"
            rf"no\.?)?\s*(?=[\w/-]{{0,20}}\d)([\w][\w/-]{{2,}}(?:[ ]\d{{3,4}}\b(?!\s?(?:%|m[mlg]|cm|HU|[.,]\d)))*)",
            re.I
        ),
    ),
    (
        "PHONE",
        re.compile(
            r"(?<![\w.])(?:\+|00)\d{1,3}[\s./-]?(?:\(0\)\s?)?(?:\(0?\d{2,5}\)|"
            r"\d{2,5})[\s./-]?\d{3,4}(?:[\s./-]?\d{2,5}){0,2}(?![\w.])"
            r"|(?<![\w.])(?:\(0?\d{2,5}\)|0\d{2,5})[\s./-]\s?\d{3,4}(?:[\s./-]?\d{2,5}){1,2}(?![\w.]\d)"
            r"|(?<![\w.])\d{3}[\s.-]\d{3,4}[\s.-]\d{4}(?!\w)"
            r"|(?<![\w.-])\d{3}-\d{4}(?![\w-])(?!\s*(?:mm|cm|ml|mg|g|Hz|mL)\b)"
            r"|(?:\b(?:tel|phone|fax|pager|beeper|telefon|mobile?|cell|handy|dect|durchwahl|ext(?:ension)?|apparat|"
            r"piepser|funk|fon|tel\.-nr)\b\.?"
            r"(?:\s*(?:no|nr|number|nummer)\b\.?)?\s*[:#]?\s*)((?:[+\d(][\d\s()./-]{2,}|-)\d+)",
            re.I,
        ),
    ),
    (
        "ADDRESS",
        re.compile(
            r"\b[A-Z]{1,2}\d[A-Z\d]? \d(?!ST|ND|RD|TH|MM|CM|ML|MG)[A-Z]{2}\b|\b[A-Z]\d[A-Z] \d[A-Z]\d\b"  # UK, Canada
            r"|\b\d{1,5}\s+(?:[A-Z][\w'-]{0,40}\s{1,3}){1,3}(?:Street|St|Avenue|Ave|Road|Rd|Boulevard|Blvd|Lane|Ln|"
            r"Drive|Dr|Court|Ct|Way|Place|Square)\b\.?"
            r"|\b\d{1,5}[A-Za-z]?,?\s+(?:[NSEW]\.?\s+)?(?:(?:[A-Z][\w'-]{0,40}|\d{1,3}(?:st|nd|rd|"
            r"th))\.?\s{1,3}){1,3}(?:Crescent|Close|Terrace|Parkway|Pkwy|"
            r"Street|Avenue|Road|Lane|Drive|Court|Way|Place|Square|Boulevard|Highway|Hwy|Circle|Cir|Trail|Gardens|"
            r"Grove|Row|Walk|Mews|Park|Ter|Pl|Sq|Blvd|Pike|Alley|Hill|Heights|Green|Quay|Loop|St|Rd|Ave|Dr|Ln)\b\.?"
            r"(?:\s[NSEW]{1,2}\b)?(?:,?\s(?:[Aa]pt|[Uu]nit|[Ss]uite|[Ff]lat|#)\.?\s?\w{1,5})?|"
            r"\bP\.?\s?O\.?\s?[Bb]ox\s\d{1,6}|\bPostfach\s\d[\d ]{1,8}"
            r"|\b[A-ZÄÖÜ][\w-]{1,40}[ -](?:Straße|Strasse|Str\.|Weg|Platz|Allee|Gasse|Ring|Damm|Ufer|Chaussee|Reihe|"
            r"Markt|Steig|Wall|Garten|Kamp|Hof)\s+\d{1,4}\s?[a-h]?(?:\s?[-–/]\s?\d{1,4})?\b"
            r"|\b[A-ZÄÖÜ][\w-]{2,40}(?:ufer|chaussee|steig|wall|kamp|stieg|pfad|berg|hof|markt|garten|anger|graben|"
            r"brücke|twiete|reihe|winkel|zeile)\s+\d{1,3}\s?[a-h]?(?=\s*(?:[,.;\n]|$|in\b))"
            r"|\b(?:Am|An der|An den|Im|In der|Auf der|Auf dem|Unter den|Zum|Zur|Hinter der|Vor dem|Bei der|Alte|"
            r"Neue)\s+(?!(?i:Segment|Tag|Alter|Apex|Bereich|Ober|Unter|Stadium|"
            r"Mittel|Rahmen|Level|Grad|Zeit|Verlauf|Vergleich|"
            r"Median)\w*)[A-ZÄÖÜ][\w-]+(?:\s[A-ZÄÖÜ][\w-]+)?\s+\d{1,3}\s?[a-h]?(?=\s*(?:[,;\n]|$|\.\s|\.$|in\b))"
            r"|\b[A-ZÄÖÜ][\w.-]{0,40}?(?:[Ss]tr(?:\.|aße|asse)|[Ww]eg|[Pp]latz|[Aa]llee|gasse|ring|"
            r"damm)\s+\d{1,4}\s?[a-z]?\b"
            r"|(?<![\w.,-])(?:D-)?\d{5}\s+(?!Einheiten|Leukozyten|Thrombozyten|Zellen|Euro|Schritte)"
            rf"[A-ZÄÖÜ][a-zäöüß]+(?:[ -](?!(?i:{_ANY_WORD})\b)[A-ZÄÖÜ][a-zäöüß]+)?\b"
            r"|\b[A-Z]{2}\s+\d{5}(?:-\d{4})?\b"
            r"|(?i:\b(?:wohnhaft|wohnt|adresse|anschrift|lebt|address|lives at|resides at|residing at|"
            r"living at)\b)[ ]?:?\s(?:in[ ])?"
            r"([A-ZÄÖÜ\d][^\n.;:]{2,50}?\s\d{1,4}\s?[a-hA-H]?)\b"
        ),
    ),
    ("AGE", re.compile(r"\b(?:9\d|1[0-2]\d)(?=[\s-]*(?:years?|yrs?|y/?o|year-old|jähr|Jahre)\b|-jähr)", re.I)),
    *(("NAME", re.compile(pattern)) for pattern in _NAMES),
    *PLACES,
    ("ID", re.compile(r"(?<![\w.,])(?=[A-Z]*\d)(?:[A-Z]{0,4}-?\d{6,})(?![\w]|[.,]\d)")),
)  # fmt: skip
