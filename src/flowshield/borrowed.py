"""BorrowedEnv: an environment that is stepped here and closed by its owner."""

from __future__ import annotations

from worldline.envs.rows import RowEnv


class BorrowedEnv(RowEnv):
    """A Gymnasium environment as Worldline steps it, which stays open when it is done with."""

    def close(self) -> None:
        """Leave it open."""
