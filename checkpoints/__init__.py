"""Trained optimizers that ship with mulo, installed as `mulo.released`: theta and a model card each."""
