"""DICOM: opening hostile files safely, pixels as a display would show them, series as volumes, SR as text."""
