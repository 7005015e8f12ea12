"""The fusion rules: how the logits of several models become one row."""

from trimix_edge.fusion.by_prompt import DynamicFusion, WeightGrid
from trimix_edge.fusion.choose import make_rule, rule_roles
from trimix_edge.fusion.linear import LinearFusion
from trimix_edge.fusion.rule import Fused, FusionRule, TrioLogits
from trimix_edge.fusion.saf import SafFusion

__all__ = [
    "DynamicFusion",
    "Fused",
    "FusionRule",
    "LinearFusion",
    "SafFusion",
    "TrioLogits",
    "WeightGrid",
    "make_rule",
    "rule_roles",
]
