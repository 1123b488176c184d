"""A prediction in the forms that a hospital's systems read: DICOM SR and FHIR. Both say that it is no diagnosis."""
