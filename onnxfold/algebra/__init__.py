"""Numbers only: the algebra of multirate convolutions, in float64, with numpy alone.

Import from the modules; `README.md` in this folder is the glossary and lists the formulas.
"""
