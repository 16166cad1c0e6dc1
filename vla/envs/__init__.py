"""Simulated environments. Importing this package registers them with gymnasium."""

import gymnasium

gymnasium.register(id="vla/Tabletop-v0", entry_point="vla.envs.tabletop.env:TabletopEnv")
