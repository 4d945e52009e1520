"""DICOM: one module a rule of the standard; `image` puts them in order, `codecs` lists the decoders."""
