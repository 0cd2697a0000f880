"""Maximal update parametrization: which dimensions grow with width, and the rules that follow."""

from mulo.mup.baselines import scale_by_mup as scale_by_mup
from mulo.mup.coordinates import CoordinateCheck as CoordinateCheck
from mulo.mup.coordinates import WidthModel as WidthModel
from mulo.mup.coordinates import coordinate_check as coordinate_check
from mulo.mup.forms import in_mup_form as in_mup_form
from mulo.mup.forms import rescale_init as rescale_init
from mulo.mup.inference import infer as infer
from mulo.mup.overrides import Leaf as Leaf
from mulo.mup.roles import Role as Role
from mulo.mup.rules import RULES as RULES
from mulo.mup.rules import Rule as Rule
from mulo.mup.rules import attention_scale as attention_scale
from mulo.mup.rules import output_multiplier as output_multiplier
from mulo.mup.rules import residual_lr_multiplier as residual_lr_multiplier
from mulo.mup.rules import residual_multiplier as residual_multiplier
from mulo.mup.shapes import STANDARD as STANDARD
from mulo.mup.shapes import LeafRule as LeafRule
from mulo.mup.shapes import MuP as MuP
