"""The scheduler's JSON: which noise levels a model was trained with, whichever class samples with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from emerdiff.configs import read_config
from emerdiff.settings import FLAG, NOTHING, Table, choice, either, known_settings, listed, number, refusal, whole

SCHEDULER: Table = {
    "num_train_timesteps": whole(2, 100_000),
    "beta_start": number(0, 1),
    "beta_end": number(0, 1),
    "beta_schedule": choice("linear", "scaled_linear", "squaredcos_cap_v2"),
    "trained_betas": either(listed(number(0, 1), 2, 100_000), NOTHING),
    "set_alpha_to_one": FLAG,
    "steps_offset": whole(0, 100_000),
    "prediction_type": choice("epsilon", "v_prediction"),
    "timestep_spacing": choice("leading", "trailing", "linspace"),
    "rescale_betas_zero_snr": FLAG,
}


def read_scheduler(folder: Path) -> dict[str, Any]:
    """The arguments of DDIMScheduler, for the grid of a scheduler of whichever class.

    Raises ValueError, naming the key, for one whose noise levels are no betas (flow matching, EDM), and for unknown
    prediction types.
    """
    path = folder / "scheduler/scheduler_config.json"
    whole_file = read_config(path)
    name, expected = whole_file.get("_class_name", "DDIMScheduler"), "a scheduler with betas, such as DDIMScheduler"
    if "FlowMatch" in str(name) or whole_file.get("use_flow_sigmas"):
        raise refusal(path, "_class_name", expected, name)
    if not (whole_file.get("beta_schedule") or whole_file.get("trained_betas")):
        raise refusal(path, "beta_schedule", expected, whole_file.get("beta_schedule"))
    trained = isinstance(whole_file.get("trained_betas"), list)
    known = {key: kind for key, kind in SCHEDULER.items() if not (trained and key.startswith("beta_"))}
    scheduler = known_settings(path, whole_file, known)
    steps = scheduler.get("num_train_timesteps", 1000)
    if trained:
        check_length(path, "trained_betas", scheduler["trained_betas"], steps, "num_train_timesteps")
    if scheduler.get("steps_offset", 0) >= steps:
        raise refusal(path, "steps_offset", f"less than num_train_timesteps, {steps}", scheduler["steps_offset"])
    return scheduler


def check_length(path: Path, key: str, values: list[Any], count: int, of: str = "block_out_channels") -> None:
    """Raise ValueError, naming file and key, unless there are so many values, as the key `of` has it."""
    if len(values) != count:
        raise ValueError(f"{path}: {key}: expected {count} values, as {of} says, got {len(values)}")
