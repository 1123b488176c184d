"""Words of notes that are names, too, or stand where a name might: a name equal to one is not removed everywhere.

English and German. A word that is missing here costs a note that word if a patient or station is called so.
"""

from __future__ import annotations

PARTICLES = (
    "von", "van", "vom", "zu", "zum", "zur", "der", "den", "dem", "de", "da", "di", "do", "dos", "das", "du", "del",
    "della", "la",
    "le", "les", "ter", "ten", "te", "bin", "ibn", "al", "el", "y", "e", "of", "und", "zur", "auf", "'t", "op",
)  # fmt: skip

_NAMES_TOO = """
    a able about above abnormal absent abscess accident active acute add adler after age aged alert all alt an
    and any aorta apex april arm art as ask at august back ball bank base bath bay be bean bear bed bell bench
    berg best big bile bird bishop bit black blood blue body bolt bond bone book both bow bowel bowl box boy
    branch bread break breast brook brown bruce bug bulb burn bush but butler by cage call calm can cane cap car
    care case cash cast cave cavity cell chain chair chance change chest chief child church clay clean clear
    clinic close cloud coat cold common cook cool cord core corn coronary cost cough course court cox crack
    craft crane creek crisp cross crow crown cut daily dark date dawn day days dean dear death deep defect dense
    diagnosis dialysis dick die direct disc do doctor dose down drain drew drop dry due dull duke each ear early
    east easy edge effusion egg elder emergency empty end eng enter epic er ernst erguss even every exam eye
    face fair faith fall farmer fast fat father fear feder fein feld fell female few fibula field film fin fine
    finding findings finger first fish fisher fist flow fluid focal foot for forest found fox foramen fracture
    frank free french frost fuchs full funk fuss gall game gap garden gas gate german girl glass go gold good
    gore grace grad grade grand grant graph grass grave gray great green grey gross groß grossman ground grove
    growth gut hair half hall hals ham hand hard hart hase haus head healthy heart heat heel height held help
    hence her herd here hernia herz high hill hip his hip history hoch hof hohl hold hole holm home hope horn
    hose hospital host hot hour house how howe hunt hunter ice icu if ill image impression in inlet inner
    interval is iris iron island it jahr january jetzt job joint joy july june jung junge just kalt keen keep
    key kidney kind king kind klar klein kleine knee knife knight know kopf koch koenig kraft krank krebs kreis
    krone kurz lab lake lamb land lane lang lange large last late lateral law lead lean leber led lee left leg
    lesion less light like limb line links lip little liver living load lobe lobe local loch long loose lost lot
    love low lower luft lung lunge lungen mad mai main male man mark marsh masse mass may mayer me mean media
    medial medium meyer mid middle mild mill miller mine minor mobile moll moon moore moral more morgen moss
    most mother mount mouth much muscle mutter nach nase near neck need nerve net neu neumann new nice night no
    node nodes none normal north nose not notch note now null nurse oak oben ob off old on once one only open or
    oral other out outer over page pain pale palm pane park part patch path patient paul peace peak pear pen
    penny perfect phase pike pine pink place plain plate pleura point pole pool poor pope pore port post potter
    pound power present price prime prince prior probe pulse pump pure queen quick radius rapp rain ran rar rash
    rate ray read rechts red reed reich reif rest rice rich right ring rippe rise risk river road rock rod roman
    room root rose rot roth ruhe rund rush sage sagittal saint sand sauer scan schall schatten scharf scherer
    schlecht schmerz schmerzen schnell schnitt schulter schwach schwarz seal season seen see seite senk septum
    series shadow sharp short shoulder show side sigmoid sign signs silver simple single skin skull slight slope
    slow small smart smith snow so sole some son song sound south spear speed spell spiegel spine spring stab
    stable stage stand star stark start state station steel stein stem stent step stern still stock stomach
    stone stop story strange street stress strong study sturm suture sweet swift table tag tail tall tame tank
    tap tear teil temple tense test tex than the then there thick thin this thorax thorn three through tief time
    tip tissue to toe today tone tooth top total tower town trauma tree true tube tumor turn two type ulna under
    union unit unklar up upper us valve vater vein vessel view viral voll vorn wade wahl wait wald walker wall
    ward warm was wash water way weak weaver web weich weight weiss weiß weit welch well west wet white wide
    wild will wind wing winkel winter wirt wise with wolf wood word work world worse wound wright wunde year
    years yellow yes young youth zahn zart zeit zelle zimmer
    """
_NO_NAMES = """
    no not none normal clear stable seen and or the of in at on is are was were with without new old left right
    upper lower zuletzt zustand absence adequate admission advised air airway alveolar although anterior apical
    appearance appears are artery atelectasis atrial attending basal befund befunde befundung beidseits
    beurteilung bilateral both bronchial calcified cardiac catheter central cervical comparison conclusion
    consolidation contrast ct cxr dated diaphragm discharge dictated disease electronically enlarged evidence
    examination fellow fever fibrosis follow fragestellung from had has have heute hiatal hilar images
    impressionen increased indication infiltrate inferior infusion intact intern interstitial kein keine klinik
    klinische kontrolle konsolidierung linke linken lines links lobar lumbar lymph management marked mediastinal
    mediastinum minimal moderate mri multiple nachweis neben nodule nodules obere oberer opacities opacity
    ordering otherwise overall patchy patientin pelvis pericardial physician pleural pleuraerguss pneumonia
    pneumothorax portable position possible post posterior procedure pulmonary radiologist radiology rechte
    rechten recommend regular rechter report resident residual respiratory result results ribs roentgen röntgen
    scoliosis segment seen signed significant since sinus size soft sonographie spinal status stauung such
    suggested superior supine surgical symptoms technique technik temporal therapie therapy tissue today trachea
    transplant unchanged unremarkable unauffällig ultrasound untere unterer upright vascular vergleich verlauf
    verdacht was we were when which without über bei mit ohne und oder aber nicht im am an auf aus das dem den
    der des die ein eine einem einen einer es für hat ist klagt kommt sich sie sind von vom vor war wird wurde
    zeigt zum zur she he they him their our its patients male female caucasian herr frau dr prof mr mrs ms
    kollege kollegin sehr geehrte geehrter lieber liebe monday tuesday wednesday thursday friday saturday sunday
    montag dienstag mittwoch donnerstag freitag samstag sonntag februar februar märz mai juni juli oktober
    dezember february march september october november december diabetes hypertension hypertonie herzinfarkt
    schlaganfall cancer carcinoma karzinom krebs stroke asthma copd mi cad chf infarct infarkt unknown unbekannt
    positive negative denies reports states medical medicine emergency department clinic hospital unit office
    service team room floor surgery oncology cardiology neurology pediatrics icu nursing staff provider family
    care center radiologie chirurgie kardiologie neurologie onkologie station ambulanz ambulant aufnahme
    entlassung erguss erguß effusion diagnosis finding findings impression history chest heart lung lungs thorax
    trauma abnormal normal pain acute chronic date time exam study view views report name birth dob mrn id age
    sex tel telefon phone fax address adresse anschrift geboren geb born wohnhaft versicherung aktenzeichen
    kontrastmittel aufklärung einwilligung befunder vorbefund voraufnahmen röntgenthorax rücksprache mitgeteilt
    telefonisch
    """
NO_NAMES = frozenset(_NO_NAMES.split())  # never part of a name
WORDS = frozenset(_NAMES_TOO.split()) | NO_NAMES


def is_word(name: str) -> bool:
    """Whether a name, in any case, is a word that notes hold anyway."""
    return name.strip(".").casefold() in WORDS
