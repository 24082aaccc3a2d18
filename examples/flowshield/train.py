"""Train an agent that obeys commands, and a shield that knows which commands the data support.

    pip install 'worldline[flowshield]'
    python examples/flowshield/train.py shield=quantile n_epochs=50 log_dir=runs/lander

Settings are those of `configs/train.yaml`; Hydra changes them on the command line. The data, episodes of LunarLander
from good to bad, are collected once.
"""

from pathlib import Path

import hydra
from omegaconf import DictConfig

from flowshield.envs import make_env
from flowshield.training import DataCollector, Trainer, TrajectoryDataset, register_groups
from worldline.envs.scripted import scripted_policy
from worldline.envs.spaces import spec_of

DATA = Path("data/lunarlander_2k.npz")

register_groups()  # so that `defaults` in configs/train.yaml finds env, model and shield


@hydra.main(version_base=None, config_path="configs", config_name="train")
def main(config: DictConfig) -> None:
    if not DATA.exists():
        collect(n_episodes=2000)
    agent, shield = Trainer(config).train(TrajectoryDataset(str(DATA)))
    print(f"Trained {type(agent).__name__} and {type(shield).__name__} in {config.log_dir}")


def collect(n_episodes: int) -> None:
    env = make_env("lunarlander")
    spec = spec_of(env.observation_space, env.action_space)
    collector = DataCollector(env, scripted_policy("mixed", "LunarLander-v3", spec))
    collector.collect(n_episodes)
    collector.save(DATA)


if __name__ == "__main__":
    main()
