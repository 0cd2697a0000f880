"""The optimizer of theta: clip, AdamW, warm-up, cosine, in that order."""

import optax

from meta_train.config import MetaTrainConfig


def learning_rate_schedule(config: MetaTrainConfig) -> optax.Schedule:
    """Linear from 0 to the peak over the warm-up, then cosine to the end value at the last meta-step."""
    return optax.schedules.warmup_cosine_decay_schedule(
        init_value=0.0,
        peak_value=config.learning_rate,
        warmup_steps=config.warmup_steps,
        decay_steps=max(config.meta_steps, config.warmup_steps + 1),
        end_value=config.end_learning_rate,
    )


def make_meta_optimizer(config: MetaTrainConfig) -> optax.GradientTransformation:
    """Clips the meta-gradient by its global norm, then AdamW (beta 0.9, 0.999).

    Where a part of theta is trained alone, the rest stays to the bit: in the reference implementation of Celo
    it is perturbed all the same, and AdamW's weight decay acts on it.
    """
    transform = optax.chain(
        optax.clip_by_global_norm(config.max_global_norm),
        optax.adamw(learning_rate_schedule(config), weight_decay=config.weight_decay),
    )
    keys = config.trained_keys()
    if not keys:
        return transform
    return optax.masked(transform, lambda theta: {key: key in keys for key in theta})
