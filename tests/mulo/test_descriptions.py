import dataclasses
import importlib

import jax
import pytest

from mulo.optimizers import OPTIMIZERS, make_optimizer
from mulo.optimizers.descriptions import FIELDS, PARTS


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_fields_are_those_of_the_class_in_its_order(name):
    module, attribute = OPTIMIZERS[name]
    fields = dataclasses.fields(getattr(importlib.import_module(module), attribute))
    assert list(FIELDS[name].items()) == [(field.name, field.default) for field in fields]


def test_parts_are_all_of_theta_and_do_not_overlap():
    assert PARTS.keys() <= FIELDS.keys() == OPTIMIZERS.keys()
    for name, parts in PARTS.items():
        theta = jax.eval_shape(make_optimizer(name, {}).init_theta, jax.random.key(0))
        assert sorted(key for keys in parts.values() for key in keys) == sorted(theta)
