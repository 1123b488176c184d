"""Patterns of towns and institutions that a kind of institution, a label or a verb of coming and going introduces.

English and German. A town that nothing introduces has no form: a model finds it (`entities`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import groupby

from mmmed.deidentify.words import NO_NAMES, WORDS


def _any_of(words: Iterable[str]) -> str:
    """One of these words, by their first letter: a flat list of a thousand is tried word by word at each capital."""
    letters = groupby(sorted(words, key=lambda word: (word[0], -len(word), word)), key=lambda word: word[0])
    return "|".join(
        f"{re.escape(first)}(?:{'|'.join(re.escape(word[1:]) for word in some)})" for first, some in letters
    )


_NO_PLACES = (  # what stands where a town might, beside what `words` knows
    "aufwachraum|op|its|imc|hand|sicht|absprache|teilzeit|vollzeit|rente|ruhe|partnerschaft|narkose|vollnarkose|spinale|"
    "notfall|stabilisierung|mobilisation|hause|haus|home|house|work|schule|school|bed|bett|bathroom|construction|"
    "healthcare|retirement|retail|education|finance|sales|tuesday|aussicht|planung|rehabilitation|reha|remission|"
    "pflegeheim|altenheim|seniorenheim|wohnheim|hospiz|kurzzeitpflege|häuslichkeit|scheidung|trennung|armut|"
    "vorbereitung|bearbeitung|haft|therapy|dialysis|theatre|theater|recovery|rehab|hospice|jail|prison|pacu|triage|"
    "nicu|micu|sicu|ccu|osh|snf|er|or|ed|ct|mri|pet|us|europa|deutschland|europe|germany|usa|"
    "unser|unsere|unserem|dieser|diesem|jeder|externer|externe|weiterer|anderer|our|their|another|any|every|outside|"
    "local|referring|regional|community|general|memorial|medical|university|universität|"
    "outpatient|inpatient|ambulatory|day|eye|urgent|walk-in|specialty|primary|follow-up|intensive|critical|"
    "orthopedic|orthopedics|pediatric|children|children's|women's|veterans|psychiatric|dental|dermatology|"
    "oncologic|rheumatology|urology|gynecology|nephrology|hematology|endocrinology|pulmonology|gastroenterology|"
    "recent|previous|prior|prolonged|tertiary|secondary|teaching|county|multiple|acute|post|since|same|initial|repeat|"
    "current|final|index|entire|complicated|further|frequent|planned|elective|scene|field|kürze|absent|yard|memory|"
    "failure|wound|breast|fracture|diabetes|asthma|vascular|arrhythmia|device|pacemaker|hypertension|sleep|stroke|"
    "transplant|lipid|obesity|sports|travel|allergy|immunology|thyroid|geriatric|infusion|coumadin|warfarin|methadone|"
    "hearing|voice|falls|genetics|fertility|anticoagulation|nutrition|burn|hand|foot|spine|cancer|pre-op|swallow|"
    "italy|italien|france|frankreich|spain|spanien|china|iran|india|indien|turkey|türkei|portugal|austria|österreich|"
    "switzerland|schweiz|poland|polen|greece|griechenland|egypt|ägypten|thailand|vietnam|japan|mexico|mexiko|brazil|"
    "brasilien|nigeria|kenya|kenia|pakistan|syria|syrien|ukraine|russia|russland|england|scotland|ireland|irland|canada|"
    "kanada|australia|australien|africa|afrika|asia|asien|"  # countries tell of infections and are no identifiers
    "hospital|klinikum|krankenhaus|klinik|clinic|spital|praxis|innere|medizin|aufenthalt|ort|keine|none"
)
_NO_FORM = (
    r"\w*(?:lage|narkose|anästhesie|schaft|keit|heit|ation|technik|form|therapie|therapy|raum|station|woche|"
    r"monat|logie|"
    r"logy|chirurgie|iatrie|iatry|medizin|medicine|pädie|klinik|ambulanz|abteilung|praxis|surgery|pathy|heitlich)\b"
)
_CAP = "A-ZÄÖÜÀ-ÞŁŚŻŠŽČŘĐİ"
_UPPER = rf"[{_CAP}'’-]+"
_ANY = rf"[{_CAP}][\w'’-]+"
_COMMON = _any_of(WORDS | set(_NO_PLACES.split("|")))
_RARE = rf"(?!(?i:{_COMMON})(?![\w'’-]))(?!(?i:{_NO_FORM})){_ANY}"
_GENERIC = _any_of(NO_NAMES | set(_NO_PLACES.split("|")))
_BRAND = rf"(?!(?i:{_GENERIC})(?![\w'’-]))(?![{_CAP}]{{2,3}}\b)(?!(?i:{_NO_FORM})){_ANY}"
_MIXED = rf"(?![{_CAP}]{{2,5}}\b){_RARE}"  # no abbreviation
_BEFORE = (
    r"(?:(?:Bad|Sankt|St\.?|Saint|San|Santa|Los|Las|Fort|Mount|Lake|New|"
    r"Port|El|La|Le|Groß|Klein|Ober|Unter)[ -])?"
)
_AFTER = rf"(?:(?:[ -]|[ ](?:am|an der|im|in der|ob der|upon|on|by|de|del)[ ]){_MIXED})?"
TOWN = rf"{_BEFORE}{_MIXED}{_AFTER}"

_KINDS_AFTER = (  # Willowbrook General Hospital
    r"Hospitals?|Medical Cent(?:er|re)|Clinics?|Infirmary|Hospice|Health ?(?:care)? (?:System|Cent(?:er|re))|"
    r"Cancer Cent(?:er|re)|Heart Institute|Surgery Cent(?:er|re)|Imaging Cent(?:er|re)|(?:Nursing|Care|"
    r"Retirement) Home|"
    r"Rehab(?:ilitation)? Cent(?:er|re)|(?:NHS )?(?:Foundation )?Trust|Polyclinic|Medical Group|Surgery(?= was| is)"
)
_BETWEEN = (
    r"(?:General|Regional|Community|Memorial|University|District|County|City|State|Royal|Children['’]s|Women['’]s|"
    r"Methodist|Baptist|Presbyterian|Lutheran|Catholic|Jewish|Teaching|Cottage|Veterans|Creek|Valley|Hill|Court|Park|"
    r"River|Lake|Grove|Health|of|NHS|Foundation)"
)
_KINDS_BEFORE = (  # Klinikum Rabenau, Krankenhaus der Barmherzigen Brüder
    r"(?:(?:Universitäts|Uni|Kreis|Landes|Bezirks|Stadt|Kantons|Bundeswehr|Reha-?|Fach|Privat|Regional|Zentral|Akut)?"
    r"(?:[Kk]linikums?|[Kk]rankenhaus(?:es)?|[Kk]linik|[Ss]pitals?)|Kliniken|KH|UK|[Hh]erzzentrum|LKH|KKH|MVZ|"
    r"(?:Pflege|Senioren|Alten|Wohn)(?:heim|zentrum|residenz|stift)|Radiologische Praxis|[Rr]öntgenpraxis|"
    r"Hospital zum)"
)
_SAINT = rf"(?:St\.|Saint|Sankt|ST\.)[ -]?(?!(?i:p|n|post|nach)\b){_MIXED}"
_OWNER = (
    r"Asklepios|Helios|Sana|Vivantes|Ameos|AMEOS|Median|MEDIAN|Rhön|Agaplesion|Alexianer|Paracelsus|Schön"
)
_HOUSE = r"(?:Krankenhaus|Klinikum|Klinik|Hospital|Spital|Stift)(?:es|s)?\b"
_FROM = (
    r"(?:(?:is|was|comes|came|originally|hails|native|immigrated|flew in|flown in|back|returned|returning|"
    r"visiting|moved|"
    r"transferred|referred|brought|m[ae]n|wom[ae]n|male|female|lady|gentleman|boy|girl|patient|resident)"
    r"(?: in| over| here)? from)"
)
_GONE = (
    r"(?:(?:travell?(?:ed|s|ing)?|trip|flight|moved|moving|relocated|emigrated|visit(?:ed)?|retired|"
    r"images sent|returned) to|"
    r"(?:grew up|raised|works?|worked|working|employed|retired|stationed|vacation(?:ing)?|holiday|practice|"
    r"office|doctor|GP|"
    r"PCP|pharmacy|lives? (?:\w+ ){0,4}|apartment|house|family) ?in)"
)
_AUS = (
    r"(?:(?:kommt|stammt|[Gg]ebürtig|[Zz]ugezogen|[Aa]ngereist|[Vv]erlegt|[Zz]uverlegt|Verlegung|Zuverlegung|"
    r"Übernahme|[Üü]berwiesen|"
    r"Einweisung|Rückkehr|zurück|Pat(?:ient(?:in)?|\.)|Mann|Frau) aus)"
)
_IN = (
    r"(?:(?:[Oo]periert|[Bb]ehandelt|Reha|Kur|\w*[Pp]raxis(?: Dr\. \S+)?|Praxis \[NAME\]|Urlaub|lebt|arbeitet|"
    r"Heim|Hausarzt|"
    r"\w*[Hh]eilbehandlung|aufgewachsen|stationär|ambulant|vorgestellt) in)"
)
_LABEL = (
    r"(?:city|town|village|home ?town|place of birth|birth ?place|facility|hospital|institution|clinic|"
    r"outside hospital|"
    r"employer|school|performed at|wohnort|geburtsort|heimatort|einrichtung|krankenhaus|klinikum|arbeitgeber|praxis|"
    r"zuweisende klinik)"
)
_STATES = (
    "AL|AK|AZ|AR|CA|CO|CT|DE|FL|GA|IA|ID|IL|KS|KY|LA|MA|ME|MI|MN|MO|MS|MT|NC|ND|NE|NH|NJ|NM|NV|NY|OH|RI|SC|SD|TN|TX|"
    "UT|VA|VT|WA|WI|WV|WY"
)

PLACES: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    ("PLACE", re.compile(pattern))
    for pattern in (
        rf"\b(?:University of )?(?:(?:{_BRAND}[ ](?:(?:and|of|the|&)[ ])?){{1,4}}?|"
        rf"{_SAINT}(?:['’]s)?[ ])(?:{_BETWEEN}[ ]){{0,3}}(?:{_KINDS_AFTER})\b",
        rf"\b(?![{_CAP}]{{1,3}}\b){_RARE.replace(_ANY, _UPPER)}[ ](?:{_UPPER}[ ]){{0,2}}?(?:{_KINDS_AFTER.upper()})\b",
        rf"\bST\.?[ ]{_UPPER}[ ](?:{_UPPER}[ ]){{0,2}}?(?:{_KINDS_AFTER.upper()})\b",
        rf"\b(?:St\.?|Saint)[ ]{_MIXED}['’]s?(?!\w)(?:[ ](?:{_KINDS_AFTER}))?",
        rf"(?<!\w){_SAINT}(?:-{_ANY})*(?:[ -](?:{_HOUSE}))?(?:[ ]{TOWN})?",
        rf"\b(?:{_OWNER})[ -](?:{_ANY}[ -])?{_HOUSE}(?:[ ]{TOWN})?",
        rf"\b(?!(?:HNO|Haut|Augen|Schmerz|Reha|Akut|Frauen|Kinder|Tages|Uni)-){_ANY}-{_HOUSE}\b(?:[ ]{TOWN})?",
        rf"\b{_KINDS_BEFORE}[ ]((?:(?:der|des|am|an der|im|in|rechts der|zum|zur)[ ])?{TOWN})",
        rf"\b(?:Marien|Elisabeth(?:en)?|Josef[s]?|Joseph[s]?|Vinzenz|Katharinen|Johannes|Annen?|Bürger|"
        rf"Diakonissen|Luther|"
        rf"Wald|Franziskus|Antonius|Hedwigs|Martins|Lukas)(?:hospital|krankenhaus|spital|stift|"
        rf"klinik)(?:e?s)?\b(?:[ ]{TOWN})?",
        rf"\b(?i:{_FROM})[ ](?:the[ ])?({TOWN}(?:(?:, | and | or ){_MIXED})?)",
        rf"\b(?i:{_GONE})[ ]({TOWN}(?:(?:, | and | or ){_MIXED})?)",
        rf"(?<!\w)(?:{_AUS}|{_IN})[ ]((?:(?:der|dem)[ ])?{TOWN}(?:(?:, | und ){_MIXED})?)",
        rf"\b(?:verlegt|Verlegung|Reise|gezogen|umgezogen|geflogen|Flug)[ ]nach[ ]({TOWN})",
        rf"\b(?:wurde|wird|ist)[ ]nach[ ]({TOWN})(?=[ ](?:verlegt|gezogen|gereist|entlassen))",
        rf"(?<!\w)(?i:{_LABEL})[ ]?:\s{{0,3}}((?:{_SAINT}|{_MIXED})(?:[ ,]{{1,2}}{_ANY}){{0,3}}|"
        rf"{_KINDS_BEFORE}[ ]{TOWN})"
        r"(?=[ ]*(?:[,.;(\n]|$))",
        rf"(?:(?<=\n)|^)({TOWN}),[ ](?:den|am)[ ](?=\[DATE\])",
        rf"(?:\b(?:in|from|of|at|near)[ ]|\[(?:PLACE|ADDRESS)\],?[ ])({TOWN}),[ ](?:{_STATES})\b",
        rf"\b({TOWN}),[ ](?=\[ADDRESS\])",
        rf"\[ADDRESS\],[ ]({TOWN})[ ](?=\[ADDRESS\])",
        rf"\[ADDRESS\],?[ ]?(?:in[ ])?({TOWN})(?=[ ]*(?:[,.;\n]|$))",
        rf"\b(?:A|CH|DE|L|I|NL|F)-\d{{4,5}}[ ]{_BEFORE}{_ANY}",
        rf"\b(?:[Ll]ives in|[Ll]iving in|[Rr]esides in|[Rr]esid(?:ent|ing) (?:of|in)|[Ww]ohnt in|"
        rf"[Ww]ohnhaft in|[Bb]orn in|"
        rf"[Gg]eboren in|(?:city|town|village) of)\s+({_ANY}(?:[ -]{_ANY}){{0,2}})",
        r"\b([A-Z][a-z]{2,40}) County\b",
    )
)

_PART_OF_ADDRESS = re.compile(
    r"(?i)\w*(?:straße|strasse|str|weg|platz|allee|gasse|street|road|avenue|lane|drive|boulevard|klinikum|"
    r"klinik|krankenhaus|"
    r"spital|hospital|zentrum|center|centre|institut\w*|praxis|radiolog\w*|medi[zc]\w*|imaging|health\w*|"
    r"clinic|university|"
    r"universität\w*|germany|deutschland|schweiz|österreich|states|kingdom)"
)


def towns_in(address: str) -> set[str]:
    """The words of an institution's name or of an address that may be a town or a name of a house.

    Left out are words that notes hold anyway, abbreviations, kinds of institution and streets.
    """
    shown = address.title() if address.isupper() else address
    return {
        word
        for word in re.findall(rf"\b{_MIXED}", shown)
        if len(word) > 3 and not _PART_OF_ADDRESS.fullmatch(word)
    }
