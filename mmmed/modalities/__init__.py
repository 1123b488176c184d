"""Modalities: what a record may consist of. Each is one file here and one entry in the registry below.

A modality's file says all that the rest of the code asks about it (`mmmed.modalities.base.Modality`). Nothing here
imports torch or pandas before it is used: a configuration reads the registry. What decodes an image or a volume file is
in `mmmed.data`, the encoders are in `mmmed.models`.
"""

from __future__ import annotations

from mmmed.modalities.audio import Audio
from mmmed.modalities.base import Modality
from mmmed.modalities.image import Image
from mmmed.modalities.table import Table
from mmmed.modalities.text import Text
from mmmed.modalities.video import Video
from mmmed.modalities.views import Views
from mmmed.modalities.volume import Volume
from mmmed.modalities.waveform import Waveform

__all__ = ["MODALITIES", "Modality"]

_ALL: tuple[Modality, ...] = (
    Image(),
    Text(),
    Volume(),
    Table(),
    Audio(),
    Waveform(),
    Video(),
    Views(),
)  # encoders are built, and drawn, in this order

MODALITIES: dict[str, Modality] = {one.name: one for one in _ALL}
