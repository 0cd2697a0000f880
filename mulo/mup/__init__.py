"""Maximal update parametrization: which dimensions grow with width, and the rules that follow."""

from mulo.mup.roles import Role as Role
from mulo.mup.rules import RULES as RULES
from mulo.mup.rules import Rule as Rule
from mulo.mup.shapes import STANDARD as STANDARD
from mulo.mup.shapes import LeafMuP as LeafMuP
from mulo.mup.shapes import MuP as MuP
from mulo.mup.shapes import infer as infer
