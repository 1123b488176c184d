"""De-identification at the site: headers, notes and pixels, before anything is cached or trained on.

Nothing here is a promise that a reader could never guess who a patient is. It is the Basic Profile of DICOM
PS3.15 annex E, the identifiers of HIPAA Safe Harbor (45 CFR 164.514(b)(2)) as far as they can be recognised
in free text without a language model, and a text detector for pixels; a human approves what was changed.
"""

from mmmed.deidentify.keys import SiteKey

__all__ = ["SiteKey"]
