"""Build the tiny text encoder's WordPiece vocabulary from public text: ``python -m mmmed.models.vocabulary``.

Sources: the names of clinical concepts and attributes in pydicom's DICOM and SNOMED dictionaries, the data
set descriptions that scikit-learn ships, and the phrase templates of the generated hospitals. No site's note
is ever read. Run it again only on purpose: a new vocabulary makes old tiny models unreadable.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from importlib.resources import files

from pydicom.datadict import DicomDictionary
from pydicom.sr.codedict import codes
from tokenizers.implementations import BertWordPieceTokenizer

from mmmed.demo import public_text
from mmmed.models.tokens import VOCABULARY

SIZE = 2048


def public_corpus() -> Iterator[str]:
    """Texts that anybody may read, one phrase or line each."""
    for entry in DicomDictionary.values():
        yield entry[2]
    for scheme in ("DCM", "SCT"):
        dictionary = getattr(codes, scheme)
        for name in sorted(dictionary.dir()):
            yield getattr(dictionary, name).meaning
    for description in sorted(files("sklearn.datasets.descr").iterdir(), key=lambda file: file.name):
        if description.name.endswith(".rst"):
            yield from description.read_text(encoding="utf-8").splitlines()
    for phrase in public_text():
        yield from [phrase] * 20  # the demonstration's phrases are few beside the dictionaries


def build_vocabulary(texts: Iterable[str], size: int) -> list[str]:
    """Train WordPiece on `texts`; at most `size` pieces, special tokens first."""
    trainer = BertWordPieceTokenizer(lowercase=True)
    trainer.train_from_iterator(iter(texts), vocab_size=size, min_frequency=2, show_progress=False)
    pieces = trainer.get_vocab()
    return sorted(pieces, key=pieces.__getitem__)


if __name__ == "__main__":
    VOCABULARY.write_text("\n".join(build_vocabulary(public_corpus(), SIZE)) + "\n", encoding="utf-8")
