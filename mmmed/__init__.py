"""mmmed: one private imaging + clinical-text model, trained across hospitals that share no data."""

from mmmed import _operators as _operators  # before whatever imports torchvision

__version__ = "0.1.0"
