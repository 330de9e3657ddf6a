"""Artifacts: a compiled rule as what is deployed to Microsoft Sentinel or Defender XDR.

`formats` is the registry; `describe` decides and reports and `artifact_text` writes, each once a rule; `read_back` goes
the other way. Invariant: an artifact is parsed back before it is given out and holds exactly the values that were
decided; the same input gives the same bytes.
"""
